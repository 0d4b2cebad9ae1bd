import { Progress } from '@ferry/api';
import type { PageCounters } from '@ferry/pages';
import type { Prediction } from './convergence.js';

const REPORT_EVERY_MS = 100;

/** The course of long work, for whoever watches. Watchers get the latest report, not every one. */
export class ProgressReporter {
  readonly #container: string;
  readonly #now: () => number;
  readonly #startedAt: number;
  readonly #watchers = new Set<() => void>();
  #last: Progress;
  #totalBytes = 0;
  #done: PageCounters = { raw: 0, wire: 0 };
  /** Where the announcement found it that is being fulfilled. */
  #from = { raw: 0, at: 0 };
  #toldAt = 0;
  #quietUntil = 0;

  /** @param now  monotonic milliseconds */
  constructor(container: string, now: () => number) {
    this.#container = container;
    this.#now = now;
    this.#startedAt = now();
    this.#last = Progress.fromPartial({ container, phase: 'queued' });
  }

  get last(): Progress {
    return this.#last;
  }

  /** So many bytes of memory more are to come. */
  announced(bytes: number): void {
    if (this.#done.raw >= this.#totalBytes) {
      this.#from = { raw: this.#done.raw, at: this.#now() };
    }
    this.#totalBytes += bytes;
  }

  /** Nothing of what came so far counts: all of it comes again. */
  startAgain(): void {
    this.#done = { raw: 0, wire: 0 };
    this.#totalBytes = 0;
  }

  /** Nobody is told anything for so long, unless it ends before: in a cutover whoever listens takes time on processors that
   *  it needs. */
  quietFor(ms: number): void {
    this.#quietUntil = this.#now() + ms;
  }

  /** @param fraction  of the whole work; a smaller one than before is raised to it */
  tell(phase: string, message: string, fraction: number): void {
    this.#report({ phase, message, fraction });
  }

  /** For one stream of pages: to be called with what has come of it so far.
   *  @param share  of the whole work, what these bytes are a part of */
  stream(share: { from: number; to: number }): (counters: PageCounters) => void {
    let told: PageCounters = { raw: 0, wire: 0 };
    return (counters) => {
      this.#moved({ raw: counters.raw - told.raw, wire: counters.wire - told.wire }, share);
      told = { ...counters };
    };
  }

  /** Told a few times a second, and when all is there. */
  #moved(more: PageCounters, share: { from: number; to: number }): void {
    this.#done = { raw: this.#done.raw + more.raw, wire: this.#done.wire + more.wire };
    const now = this.#now();
    const { raw, wire } = this.#done;
    if (raw < this.#totalBytes && now - this.#toldAt < REPORT_EVERY_MS) return;
    this.#toldAt = now;
    const since = raw - this.#from.raw;
    const part = since / Math.max(1, this.#totalBytes - this.#from.raw);
    const seconds = Math.max(now - this.#from.at, 1) / 1000;
    this.#report({
      phase: 'pages',
      message: 'moving memory',
      fraction: share.from + (share.to - share.from) * part,
      bytesRawDone: BigInt(raw),
      bytesRawTotal: BigInt(this.#totalBytes),
      bytesWireDone: BigInt(wire),
      bytesRawPerSecond: since / seconds,
    });
  }

  /** A round is over: what comes next, and what a cutover would cost. */
  rounds(done: number, prediction: Prediction): void {
    this.#report({
      round: done + 1,
      dirtyBytesPerSecond: prediction.dirtyBytesPerSecond,
      predictedDowntimeMs: prediction.downtimeMs,
    });
  }

  #report(change: Partial<Progress>): void {
    this.#last = {
      ...this.#last,
      ...change,
      fraction: Math.max(change.fraction ?? 0, this.#last.fraction),
      elapsedMs: this.#now() - this.#startedAt,
      container: this.#container,
    };
    for (const wake of this.#watchers) wake();
  }

  /** The latest report, then each newer one, until `ended`. */
  async *watch(
    signal: AbortSignal,
    ended: Promise<void>,
  ): AsyncGenerator<Progress, void, undefined> {
    let wake: () => void = () => {};
    let over = false;
    let timer: NodeJS.Timeout | undefined;
    const end = () => {
      over = true;
      wake();
    };
    const woken = (afterMs?: number): Promise<void> =>
      new Promise((resolve) => {
        wake = resolve;
        if (afterMs !== undefined) timer = setTimeout(resolve, afterMs);
      });
    const changed = () => wake();
    this.#watchers.add(changed);
    signal.addEventListener('abort', end, { once: true });
    void ended.then(end);
    try {
      let told: Progress | undefined;
      for (;;) {
        const quietMs = this.#quietUntil - this.#now();
        if (quietMs > 0 && !over) {
          await woken(quietMs);
          clearTimeout(timer);
          continue;
        }
        if (this.#last !== told) {
          told = this.#last;
          yield told;
          continue;
        }
        if (over) return;
        await woken();
      }
    } finally {
      this.#watchers.delete(changed);
      signal.removeEventListener('abort', end);
    }
  }
}
