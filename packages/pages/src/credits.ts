/** Flow control by bytes: the sender takes, the receiver grants what it has written. A chunk may overdraw by its own
 *  size, so that no chunk can be too large to ever pass. */
export class Credits {
  #available = 0;
  #waiting: (() => void) | undefined;

  /** Adds what the receiver is ready to hold. */
  grant(bytes: number): void {
    this.#available += bytes;
    if (this.#available > 0) this.#waiting?.();
  }

  /** Waits until something is left, then takes `bytes`. One taker at a time.
   *  @throws the signal's reason */
  async take(bytes: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    while (this.#available <= 0) {
      await new Promise<void>((resolve, reject) => {
        const abort = () => reject(signal.reason);
        signal.addEventListener('abort', abort, { once: true });
        this.#waiting = () => {
          signal.removeEventListener('abort', abort);
          this.#waiting = undefined;
          resolve();
        };
      });
    }
    this.#available -= bytes;
  }
}
