/** Messages to be sent, in order, taken by one reader as an AsyncIterable. Small and bounded by what the protocol
 *  sends: pages do not pass here. */
export class Outbox<T> implements AsyncIterable<T> {
  readonly #messages: T[] = [];
  #closed = false;
  #wake: (() => void) | undefined;

  push(message: T): void {
    if (this.#closed) return;
    this.#messages.push(message);
    this.#wake?.();
  }

  /** The reader ends after what was pushed before. */
  close(): void {
    this.#closed = true;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    for (;;) {
      const message = this.#messages.shift();
      if (message !== undefined) {
        yield message;
        continue;
      }
      if (this.#closed) return;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }
}
