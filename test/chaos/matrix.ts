import type { FaultPath, FaultPoint } from '../../packages/migration/src/fault-points.js';
import { Arena, type Harm, Unsound, type Verdict } from './support.js';

export interface Case {
  readonly harm: Harm;
  readonly path: FaultPath;
  readonly point: FaultPoint;
}

interface Waiting {
  readonly each: Case;
  readonly done: (verdict: Promise<Verdict>) => void;
}

/** Tries cases on several arenas at once, for most of a case is waiting. Each test waits for its own case. */
export class Matrix {
  readonly #waiting: Waiting[] = [];
  readonly #runners: Promise<void>[] = [];
  readonly #count = { faults: 0, split: 0, lost: 0, unsettled: 0, notReached: 0 };
  readonly #leftovers: string[] = [];
  #ended = false;

  /** The case's outcome, once `start` has come to it. */
  add(each: Case): Promise<Verdict> {
    const verdict = new Promise<Verdict>((resolve) => {
      this.#waiting.push({ each, done: resolve });
    });
    // Its test may not wait for it yet.
    verdict.catch(() => undefined);
    return verdict;
  }

  start(arenas: number): void {
    for (let i = 0; i < arenas; i++) this.#runners.push(this.#run());
  }

  async #run(): Promise<void> {
    let arena: Arena | undefined;
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      if (this.#ended) break;
      const { each, done } = next;
      try {
        arena ??= await Arena.make();
        const before = performance.now();
        const verdict = await arena.trial(each.path, each.point, each.harm);
        if (verdict.reached) this.#count.faults += 1;
        else this.#count.notReached += 1;
        if (process.env.FERRY_CHAOS_SHOW !== undefined) {
          const ms = Math.round(performance.now() - before);
          const { reached, state, error } = verdict;
          const what = `${each.harm.name} at ${each.point} (${each.path})`;
          console.log(`      ${ms} ms ${what}: ${reached ? state : 'not reached'} ${error}`);
        }
        done(Promise.resolve(verdict));
      } catch (error) {
        this.#count.faults += 1;
        this.#count[error instanceof Unsound ? error.kind : 'unsettled'] += 1;
        console.log(`      FAILED ${each.harm.name} at ${each.point} (${each.path}): ${error}`);
        done(Promise.reject(new Error(`${error}\n${arena?.logTails() ?? ''}`, { cause: error })));
        // What a failure has left must not be taken for the next one's.
        await arena?.end().catch(() => undefined);
        arena = undefined;
      }
    }
    await this.#finish(arena);
  }

  async #finish(arena: Arena | undefined): Promise<void> {
    try {
      this.#leftovers.push(...((await arena?.end()) ?? []));
    } catch (error) {
      this.#leftovers.push(String(error));
    }
  }

  /** Waits for the last arena to be gone, and prints what came of it all.
   *  @returns what is left on this machine */
  async end(): Promise<readonly string[]> {
    this.#ended = true;
    await Promise.all(this.#runners);
    const { faults, split, lost, unsettled, notReached } = this.#count;
    const left = this.#leftovers.length;
    console.log(`      ${faults} faults, ${split} split, ${lost} lost, ${left} leftovers`);
    if (unsettled > 0) console.log(`      ${unsettled} came to no end in time`);
    if (notReached > 0) console.log(`      ${notReached} more were never reached`);
    return this.#leftovers;
  }
}
