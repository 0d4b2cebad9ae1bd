/** Spreads bytes over time, so that no more than so many a second are asked for. */
export class Pacer {
  readonly #bytesPerMs: number;
  readonly #now: () => number;
  #freeAt = 0;

  /** @param bytesPerSecond  0: no bound
   *  @param now  monotonic milliseconds */
  constructor(bytesPerSecond: number, now: () => number) {
    this.#bytesPerMs = bytesPerSecond / 1000;
    this.#now = now;
  }

  /** At most what may be under way at once: a quarter of a second's bytes, and enough for one message. */
  window(most: number): number {
    if (this.#bytesPerMs === 0) return most;
    return Math.min(most, Math.max(1 << 20, this.#bytesPerMs * 250));
  }

  /** Milliseconds to wait before `bytes` more are asked for. */
  delay(bytes: number): number {
    if (this.#bytesPerMs === 0) return 0;
    const now = this.#now();
    this.#freeAt = Math.max(this.#freeAt, now) + bytes / this.#bytesPerMs;
    return this.#freeAt - now;
  }
}
