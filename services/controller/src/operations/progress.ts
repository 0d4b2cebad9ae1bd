import type { Progress } from '@ferry/api';

/** Least time between two reports of the same phase. */
const everyMs = 100;

/** Passes an operation's progress on, not too often, in order, and never backwards. */
export class ProgressReporter {
  readonly #write: (progress: Progress) => Promise<void>;
  readonly #now: () => number;
  #pending: Progress | undefined;
  #timer: NodeJS.Timeout | undefined;
  #writing: Promise<void> = Promise.resolve();
  #lastAt = 0;
  #lastPhase = '';
  #fraction = 0;
  #last: Progress | undefined;

  /** @param write  its failures are dropped: the next report says more than the lost one */
  constructor(write: (progress: Progress) => Promise<void>, now: () => number) {
    this.#write = write;
    this.#now = now;
  }

  report(progress: Progress): void {
    this.#fraction = Math.max(this.#fraction, Math.min(1, progress.fraction || 0));
    this.#pending = { ...progress, fraction: this.#fraction };
    this.#last = this.#pending;
    const wait = this.#lastAt + everyMs - this.#now();
    if (progress.phase !== this.#lastPhase || wait <= 0) this.#flush();
    else this.#timer ??= setTimeout(() => this.#flush(), wait);
  }

  /** The end, with the figures that the last report had. */
  done(end: Progress): void {
    const { phase, message, elapsedMs } = end;
    this.report({ ...(this.#last ?? end), phase, message, elapsedMs, fraction: 1 });
  }

  /** Writes what is pending and waits for it. */
  async close(): Promise<void> {
    this.#flush();
    await this.#writing;
  }

  #flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const progress = this.#pending;
    if (progress === undefined) return;
    this.#pending = undefined;
    this.#lastAt = this.#now();
    this.#lastPhase = progress.phase;
    this.#writing = this.#writing.then(() => this.#write(progress)).catch(() => {});
  }
}
