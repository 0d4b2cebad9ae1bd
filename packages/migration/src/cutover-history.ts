/** What a cutover takes besides stopping and the last pages, as long as nothing was measured: of a program with some
 *  threads and connections. */
const UNKNOWN_MS = 40;
const KEPT = 9;

/** What cutovers to this host took besides stopping the container and its last pages: capturing, compiling, restoring,
 *  handing over. The next one is predicted from it. */
export class CutoverHistory {
  readonly #ms: number[] = [];

  /** Of one that is over.
   *  @param downtimeMs  all of it
   *  @param otherMs  what belongs to that container and that moment alone */
  learn(downtimeMs: number, otherMs: number): void {
    this.#ms.push(Math.max(0, downtimeMs - otherMs));
    if (this.#ms.length > KEPT) this.#ms.shift();
  }

  /** The median of the latest, ms. */
  get restMs(): number {
    const sorted = [...this.#ms].sort((a, b) => a - b);
    return sorted[sorted.length >> 1] ?? UNKNOWN_MS;
  }
}
