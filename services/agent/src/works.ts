import { FerryError } from '@ferry/core';

interface Work<T> {
  readonly cancel: AbortController;
  readonly result: Promise<T>;
}

/** Outcomes of operations that are done and may be asked for again. */
const KEPT = 500;

/** Operations under way, and what became of the latest, each by its id: asked again, it is not done again. */
export class Works<T> {
  readonly #works = new Map<string, Work<T>>();

  /** Begins the operation, or joins it. */
  once(operationId: string, begin: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const known = this.#works.get(operationId);
    if (known !== undefined) return known.result;
    const cancel = new AbortController();
    const result = begin(cancel.signal);
    // Whoever asked may have gone; the outcome is kept for whoever asks next.
    result.catch(() => {});
    this.#works.set(operationId, { cancel, result });
    const [oldest] = this.#works.keys();
    if (this.#works.size > KEPT && oldest !== undefined) this.#works.delete(oldest);
    return result;
  }

  /** Ends an operation that is under way; no effect on others. */
  cancel(operationId: string, reason: string): void {
    const text = `The operation was cancelled: ${reason}`;
    this.#works.get(operationId)?.cancel.abort(new FerryError('operation.cancelled', text));
  }
}
