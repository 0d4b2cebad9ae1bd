/** Lets `width` jobs run at a time; one that wants to be alone takes the whole width. First come,
 *  first served, so that nobody who wants to be alone waits for ever. */
class Slots {
  readonly #width: number;
  #free: number;
  readonly #waiting: { need: number; go: () => void }[] = [];

  constructor(width: number) {
    this.#width = width;
    this.#free = width;
  }

  async hold<T>(isAlone: boolean, job: () => Promise<T>): Promise<T> {
    const need = isAlone ? this.#width : 1;
    await new Promise<void>((go) => {
      this.#waiting.push({ need, go });
      this.#advance();
    });
    try {
      return await job();
    } finally {
      this.#free += need;
      this.#advance();
    }
  }

  #advance(): void {
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      if (next.need > this.#free) return;
      this.#free -= next.need;
      this.#waiting.shift();
      next.go();
    }
  }
}

export interface Job<T> {
  readonly isAlone: boolean;
  readonly run: () => Promise<T>;
}

/** Runs jobs a little ahead of mocha, which asks for their results one after the other.
 *  Looking ahead is off where mocha was told to pick tests, for the jobs between would run in vain. */
export class Jobs<T> {
  readonly #slots: Slots;
  readonly #ahead: number;
  readonly #jobs: Job<T>[] = [];
  readonly #results = new Map<number, Promise<T>>();

  constructor(width: number) {
    const picks = process.argv.some((word) =>
      /^(-g|-f|--grep|--fgrep|-g=.*|--f?grep=.*)$/.test(word),
    );
    this.#slots = new Slots(width);
    this.#ahead = picks || width === 1 ? 0 : width * 2;
  }

  /** @returns the job's number, for `result` */
  add(job: Job<T>): number {
    return this.#jobs.push(job) - 1;
  }

  /** Starts this job and some of those that follow, and waits for this one. */
  result(number: number): Promise<T> {
    for (let i = number; i <= number + this.#ahead; i++) {
      const job = this.#jobs[i];
      if (job === undefined || this.#results.has(i)) continue;
      const result = this.#slots.hold(job.isAlone, job.run);
      result.catch(() => {}); // reported by the test that asks for it
      this.#results.set(i, result);
    }
    return this.#results.get(number) ?? Promise.reject(new Error(`There is no job ${number}`));
  }

  /** Waits until everything that was started has cleaned up after itself. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#results.values());
  }
}
