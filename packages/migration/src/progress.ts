import { Progress } from '@ferry/api';
import type { PageCounters } from '@ferry/pages';

const REPORT_EVERY_MS = 100;

/** The course of long work, for whoever watches. Watchers get the latest report, not every one. */
export class ProgressReporter {
  readonly #container: string;
  readonly #now: () => number;
  readonly #startedAt: number;
  readonly #watchers = new Set<() => void>();
  #last: Progress;
  #totalBytes = 0;
  #pagesSince: number | undefined;
  #toldAt = 0;

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

  /** Bytes of memory that there will be. */
  total(bytes: number): void {
    this.#totalBytes = bytes;
  }

  /** @param fraction  of the whole work; a smaller one than before is raised to it */
  tell(phase: string, message: string, fraction: number): void {
    this.#report({ phase, message, fraction });
  }

  /** How far the memory is; told a few times a second. */
  pages(counters: PageCounters, share: { from: number; to: number }): void {
    const now = this.#now();
    this.#pagesSince ??= now;
    const done = counters.raw >= this.#totalBytes;
    if (!done && now - this.#toldAt < REPORT_EVERY_MS) return;
    this.#toldAt = now;
    const part = this.#totalBytes === 0 ? 1 : counters.raw / this.#totalBytes;
    const seconds = Math.max(now - this.#pagesSince, 1) / 1000;
    this.#report({
      phase: 'pages',
      message: 'moving memory',
      fraction: share.from + (share.to - share.from) * part,
      bytesRawDone: BigInt(counters.raw),
      bytesRawTotal: BigInt(this.#totalBytes),
      bytesWireDone: BigInt(counters.wire),
      bytesRawPerSecond: counters.raw / seconds,
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
    const end = () => {
      over = true;
      wake();
    };
    const changed = () => wake();
    this.#watchers.add(changed);
    signal.addEventListener('abort', end, { once: true });
    void ended.then(end);
    try {
      let told: Progress | undefined;
      for (;;) {
        if (this.#last !== told) {
          told = this.#last;
          yield told;
          continue;
        }
        if (over) return;
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    } finally {
      this.#watchers.delete(changed);
      signal.removeEventListener('abort', end);
    }
  }
}
