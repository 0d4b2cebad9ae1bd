/** As many as one migration uses at once; more are left to the garbage collector. */
const KEPT = 6;

/** Buffers of one kind that are used again and again, by whoever needs them: memory that was just allocated has to be
 *  mapped and zeroed page by page when it is first touched, which a cutover would wait for. */
export class SparePool<T> {
  readonly #make: () => T;
  readonly #kept: T[] = [];

  constructor(make: () => T) {
    this.#make = make;
  }

  take(): T {
    return this.#kept.pop() ?? this.#make();
  }

  give(item: T): void {
    if (this.#kept.length < KEPT) this.#kept.push(item);
  }
}
