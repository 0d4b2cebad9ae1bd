/** What to do when the rounds do not get shorter. */
export type NoConvergence = 'throttle' | 'post-copy' | 'stop-copy' | 'abort';

/** What a user wants of a live migration. */
export interface Policy {
  readonly maxDowntimeMs: number;
  /** 0: the container runs at once where it goes, and memory follows. */
  readonly maxRounds: number;
  /** For all rounds together. */
  readonly timeoutMs: number;
  readonly onNoConvergence: NoConvergence;
  /** For the rounds; 0: no bound. */
  readonly bytesPerSecond: number;
}

/** A round that is over: its pages were listed, sent, and are in place. */
export interface Round {
  readonly pages: number;
  /** From the look at what was written to the last page in place. */
  readonly ms: number;
  /** From the look before to this one: in this time its pages were written. */
  readonly sinceMs: number;
}

/** How a migration has gone so far. */
export interface Course {
  /** Oldest first. */
  readonly rounds: readonly Round[];
  readonly elapsedMs: number;
  /** What a cutover takes besides the last pages: stopping, capturing, restoring. */
  readonly fixedMs: number;
  /** Hundredths of a CPU's time that the container is left with; undefined: all. */
  readonly cpuShare: number | undefined;
}

/** What a cutover now, and the migration as a whole, would cost. */
export interface Prediction {
  readonly downtimeMs: number;
  readonly totalMs: number;
  /** Memory to be sent, from the beginning. */
  readonly bytes: number;
  readonly dirtyBytesPerSecond: number;
  readonly sentBytesPerSecond: number;
}

export interface Decision {
  readonly kind: 'round' | 'cutover' | 'throttle' | 'post-copy' | 'give-up';
  readonly prediction: Prediction;
  /** For people. */
  readonly reason: string;
}

const PAGE_BYTES = 4096;
/** A round must be this much shorter than the one before for another one to be worth it. */
const WORTH = 0.7;
/** Fewer pages than these take no time that could be saved. */
const FEW_PAGES = 128;
/** Last pages that take no more than this part of the downtime allowed are not what makes it long. */
const SMALL_PART = 0.2;
/** Rates are taken from rounds of at least so many pages: shorter ones measure the way to and fro. */
const RATE_PAGES = 1024;
/** The steps in which a container is slowed down, in hundredths of its CPU time; then there is nothing more to take. */
export const CPU_STEPS: readonly number[] = [60, 35, 20, 10, 5];

/** The next step of a live migration. Pure: everything that was measured, and the wishes, come in. */
export function decide(course: Course, policy: Policy): Decision {
  const prediction = predict(course);
  const next = (kind: Decision['kind'], reason: string): Decision => ({ kind, prediction, reason });
  const { rounds } = course;
  if (policy.maxRounds === 0) return next('post-copy', 'no round was asked for');
  if (rounds.length === 0) return next('round', 'nothing was sent yet');
  if (rounds.length === 1) {
    return policy.maxRounds > 1
      ? next('round', 'how fast memory changes is not known yet')
      : next('cutover', 'one round was asked for');
  }
  if (prediction.downtimeMs <= policy.maxDowntimeMs) {
    const pays = anotherPays(course) && withinLimits(course, policy);
    return pays
      ? next('round', 'another round makes the downtime shorter')
      : next('cutover', 'the downtime is within its bound');
  }
  // What is left of it is the stop itself: neither rounds nor a slower container make that shorter.
  if (prediction.downtimeMs - course.fixedMs <= policy.maxDowntimeMs * SMALL_PART) {
    return next('cutover', 'more rounds would not make the downtime shorter');
  }
  if (withinLimits(course, policy) && converges(course)) {
    return next('round', 'the rounds get shorter');
  }
  return whenNot(course, policy, next);
}

function whenNot(
  course: Course,
  policy: Policy,
  next: (kind: Decision['kind'], reason: string) => Decision,
): Decision {
  const reason = withinLimits(course, policy)
    ? 'memory changes as fast as it is sent'
    : 'the bound of rounds or time is reached';
  switch (policy.onNoConvergence) {
    case 'throttle': {
      const timeLeft = course.elapsedMs < policy.timeoutMs;
      const more = nextCpuShare(course.cpuShare) !== undefined;
      return timeLeft && more
        ? next('throttle', reason)
        : next('cutover', `${reason}, slowed down or not`);
    }
    case 'post-copy':
      return next('post-copy', reason);
    case 'stop-copy':
      return next('cutover', reason);
    case 'abort':
      return next('give-up', reason);
  }
}

/** The share of CPU time to leave after `share`; undefined when no less is possible. */
export function nextCpuShare(share: number | undefined): number | undefined {
  return CPU_STEPS.find((step) => step < (share ?? 100));
}

function withinLimits({ rounds, elapsedMs }: Course, policy: Policy): boolean {
  return rounds.length < policy.maxRounds && elapsedMs < policy.timeoutMs;
}

/** Whether the last rounds got shorter, and so will the next one. */
function converges({ rounds, cpuShare }: Course): boolean {
  const [last, before] = [rounds.at(-1)!, rounds.at(-2)!];
  // The first round is everything there is; one right after a throttle measures the time before it.
  if (rounds.length === 2 || (cpuShare !== undefined && last.ms > before.ms)) {
    return last.pages < before.pages * 0.9;
  }
  return last.pages < before.pages * WORTH;
}

/** Whether the pages owed after one more round would be markedly fewer than those owed now. */
function anotherPays(course: Course): boolean {
  const owed = owedPages(course);
  if (owed < FEW_PAGES) return false;
  const shortest = Math.min(...course.rounds.map(({ ms }) => ms));
  const rate = pagesPerMs(course.rounds);
  const nextMs = Math.min(shortest, overheadMs(course)) + owed / rate;
  return dirtyPagesPerMs(course.rounds) * nextMs < owed * WORTH;
}

/** What a round takes that brings nothing. */
function overheadMs({ rounds }: Course): number {
  const rate = pagesPerMs(rounds);
  return Math.max(0, Math.min(...rounds.map(({ pages, ms }) => ms - pages / rate)));
}

/** Pages written since the last look, if it goes on as in the last round. */
function owedPages({ rounds }: Course): number {
  const last = rounds.at(-1);
  return last === undefined ? 0 : dirtyPagesPerMs(rounds) * last.ms;
}

function dirtyPagesPerMs(rounds: readonly Round[]): number {
  const last = rounds.length < 2 ? undefined : rounds.at(-1);
  return last === undefined ? 0 : last.pages / Math.max(last.sinceMs, 0.1);
}

/** The best rate of the latest rounds that were long enough to tell. */
function pagesPerMs(rounds: readonly Round[]): number {
  const long = rounds.filter(({ pages }) => pages >= RATE_PAGES).slice(-4);
  const told = long.length > 0 ? long : rounds;
  const rates = told.map(({ pages, ms }) => pages / Math.max(ms, 0.1));
  return Math.max(1, ...rates);
}

/** What is to be expected of a cutover now. Before two rounds are over it is not known how fast memory changes. */
export function predict(course: Course): Prediction {
  const { rounds, fixedMs, elapsedMs } = course;
  const rate = pagesPerMs(rounds);
  const owed = owedPages(course);
  const downtimeMs = fixedMs + owed / rate;
  const pages = rounds.reduce((sum, round) => sum + round.pages, 0);
  return {
    downtimeMs,
    totalMs: elapsedMs + downtimeMs,
    bytes: Math.round((pages + owed) * PAGE_BYTES),
    dirtyBytesPerSecond: dirtyPagesPerMs(rounds) * 1000 * PAGE_BYTES,
    sentBytesPerSecond: rounds.length === 0 ? 0 : rate * 1000 * PAGE_BYTES,
  };
}
