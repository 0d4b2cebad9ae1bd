import { setTimeout as sleep } from 'node:timers/promises';
import { threadsOf, tryReadProc } from '@ferry/linux';

/** Since its threads began, ns: what they had of the processors, and how long they waited for one. */
export interface ProcessorUse {
  readonly ranNs: number;
  readonly waitedNs: number;
}

/** So long a stretch says how a container fares. */
const STRETCH_MS = 50;
/** One that wants less of a processor in a stretch has nothing to lose. */
const WANTED_NS_MIN = 5e6;
/** Of the processor time that a container wants, the part that it may lose to the copying. */
const LOSS = 0.1;
/** A copy always goes at this part of its speed: one that takes for ever is of no use. */
const LEAST = 0.2;
const SLOWER = 0.7;
const FASTER = 1.15;
/** In each stretch, of what others take: they may have gone. */
const FORGETTING = 0.998;
/** Threads that are looked at. */
const THREADS_MAX = 64;

/** Slows the copying of a container's memory down, as far as the container itself would go without a processor: on a host
 *  whose processors are all in use, those that copy take what it would have had. By its own waiting, since nice values
 *  count for nothing between control groups (sched(7)). */
export class Courtesy {
  readonly #use: () => ProcessorUse;
  readonly #now: () => number;
  /** What it loses to others anyway. */
  #usualLoss: number;
  #before: ProcessorUse;
  #since: number;
  #workedSince: number;
  #share = 1;

  /** @param options.use  of the container
   *  @param options.usualLoss  as `lossBetween` tells of a time when nothing was copied
   *  @param options.now  monotonic milliseconds */
  constructor(options: { use: () => ProcessorUse; usualLoss: number; now: () => number }) {
    this.#use = options.use;
    this.#now = options.now;
    this.#usualLoss = options.usualLoss;
    this.#before = options.use();
    this.#since = this.#workedSince = options.now();
  }

  /** The part of its speed that the copying has now. */
  get share(): number {
    return this.#share;
  }

  /** After a piece of work: how long to rest, ms. */
  restMs(): number {
    const now = this.#now();
    if (now - this.#since >= STRETCH_MS) this.#look(now);
    const workedMs = Math.min(now - this.#workedSince, STRETCH_MS);
    return this.#share === 1 ? 0 : workedMs * (1 / this.#share - 1);
  }

  /** Rests after a piece of work.
   *  @throws an AbortError when `signal` fires meanwhile */
  async rest(signal: AbortSignal): Promise<void> {
    const ms = this.restMs();
    if (ms >= 1) await sleep(ms, undefined, { signal });
    this.#workedSince = this.#now();
  }

  #look(now: number): void {
    const use = this.#use();
    const loss = lossBetween(this.#before, use);
    // What it still loses at the least speed, others take.
    this.#usualLoss = this.#share === LEAST ? loss : this.#usualLoss * FORGETTING;
    if (loss > this.#usualLoss + LOSS) this.#share = Math.max(LEAST, this.#share * SLOWER);
    else this.#share = Math.min(1, this.#share * FASTER);
    this.#before = use;
    this.#since = now;
  }
}

/** The part of the processor time wanted that was not had: 0 to 1; 0 for one that wanted hardly any. */
export function lossBetween(before: ProcessorUse, after: ProcessorUse): number {
  const ran = after.ranNs - before.ranNs;
  const waited = after.waitedNs - before.waitedNs;
  // Threads that have ended take their past with them.
  if (ran < 0 || waited < 0 || ran + waited < WANTED_NS_MIN) return 0;
  return waited / (ran + waited);
}

/** Of the threads of some processes, the first ones: /proc/PID/task/TID/schedstat (Documentation/scheduler/sched-stats.rst).
 *  Nothing where the kernel keeps no such statistics. */
export function processorUse(hostPids: readonly number[]): ProcessorUse {
  let [ranNs, waitedNs, threads] = [0, 0, 0];
  for (const pid of hostPids) {
    if (threads >= THREADS_MAX) break;
    for (const tid of threadsOrNone(pid)) {
      if (threads++ >= THREADS_MAX) break;
      const [ran = 0, waited = 0] = (tryReadProc(`/proc/${pid}/task/${tid}/schedstat`) ?? '')
        .split(' ')
        .map(Number);
      ranNs += ran;
      waitedNs += waited;
    }
  }
  return { ranNs, waitedNs };
}

function threadsOrNone(pid: number): number[] {
  try {
    return threadsOf(pid);
  } catch {
    return []; // it has ended
  }
}
