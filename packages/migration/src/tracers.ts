import { getPriority, setPriority } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { errorText } from '@ferry/core';
import type { Logger } from './logger.js';
import { finishOf, skeletonOf } from './skeleton-programs.js';
import { Tracer, type TracerCommand } from './tracer.js';
import type { TracerRehearsal } from './tracer-protocol.js';

/** So often a tracer rehearses; then V8 has compiled what a freeze runs as well as it does. */
const REHEARSALS = 30;
/** After it has done its work, what was optimized for rehearsals has met something else, and is optimized anew. */
const REHEARSALS_AGAIN = 6;
/** So often this process compiles what they gave, as a destination does. */
const COMPILATIONS = 25;
/** Of each the part that a container stands for so many times. */
const FINISHES = 3;
/** Rehearsals make way for whatever else the host does. */
const LOW_PRIORITY = 10;
/** Whatever runs beside a tracer in use makes a container stand for longer, the agents' own work beside it too. */
const HIGH_PRIORITY = -15;
/** Between two steps other work of this process gets its turn. */
const PAUSE_MS = 2;
const BUSY_MS = 200;
/** After a tracer has ended, until another one is made ready. */
const AGAIN_MS = 100;
/** So many are kept that have done their work; they take some 80 MiB each. */
const SPARES_MAX = 4;
/** All of them but one end when for so long nobody needed them. */
const IDLE_MS = 60_000;

/** Tracer processes, and where it is wanted one ahead of need that has rehearsed: a process that starts takes 100 ms and
 *  more, and code that runs for the first time several times as long as later. So those that have done their work are
 *  taken again. */
export class Tracers {
  readonly #command: TracerCommand;
  readonly #logger: Logger;
  readonly #rehearse: boolean;
  readonly #isBusy: () => boolean;
  readonly #over = new AbortController();
  /** Those used last at the end. */
  readonly #spares: Tracer[] = [];
  #making: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #idleTimer: NodeJS.Timeout | undefined;
  #compiled = 0;
  /** Of those to be taken: how often they have yet to rehearse. */
  readonly #toRehearse = new WeakMap<Tracer, number>();

  /** @param options.isBusy  whether a migration is under way, which rehearsals must not slow down */
  constructor(options: {
    command: TracerCommand;
    logger: Logger;
    rehearse: boolean;
    isBusy: () => boolean;
  }) {
    this.#command = options.command;
    this.#logger = options.logger;
    this.#rehearse = options.rehearse;
    this.#isBusy = options.isBusy;
    this.#makeSpare(0);
  }

  /** One that holds nothing yet. Its taker closes it. */
  take(): Tracer {
    const tracer = this.#takeSpare() ?? Tracer.spawn(this.#command);
    prioritize(tracer, Math.min(getPriority(), HIGH_PRIORITY));
    // Not before: while it is in use a migration is under way.
    void tracer.ended.then(() => this.#makeSpare(AGAIN_MS));
    return tracer;
  }

  #takeSpare(): Tracer | undefined {
    for (let spare = this.#spares.pop(); spare !== undefined; spare = this.#spares.pop()) {
      if (!spare.hasEnded) return spare;
    }
    return undefined;
  }

  /** Takes back one that holds no container: it has only looked, or has let go of it, or killed it. */
  async giveBack(tracer: Tracer): Promise<void> {
    try {
      if (this.#rehearse && !tracer.hasEnded) {
        await tracer.ask({ method: 'release' });
        if (this.#spares.length < SPARES_MAX && !this.#over.signal.aborted) {
          this.#keep(tracer);
          return;
        }
      }
    } catch (error) {
      this.#logger.debug('a tracer is of no more use', { error: errorText(error) });
    }
    await tracer.close();
  }

  #keep(tracer: Tracer): void {
    prioritize(tracer, getPriority());
    this.#toRehearse.set(tracer, REHEARSALS_AGAIN);
    this.#compiled = Math.min(this.#compiled, COMPILATIONS - REHEARSALS_AGAIN);
    this.#spares.push(tracer);
    this.#makeSpare(AGAIN_MS);
    clearTimeout(this.#idleTimer);
    this.#idleTimer = setTimeout(() => {
      for (const idle of this.#spares.splice(0, this.#spares.length - 1)) void idle.close();
    }, IDLE_MS).unref();
  }

  async close(): Promise<void> {
    this.#over.abort();
    clearTimeout(this.#timer);
    clearTimeout(this.#idleTimer);
    await this.#making;
    await Promise.all(this.#spares.splice(0).map((spare) => spare.close()));
  }

  #makeSpare(afterMs: number): void {
    if (!this.#rehearse || this.#over.signal.aborted) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const before = this.#making;
      this.#making = (async () => {
        await before;
        await this.#ready();
      })().catch((error: unknown) => {
        this.#logger.debug('no tracer was made ready', { error: errorText(error) });
      });
    }, afterMs);
    this.#timer.unref();
  }

  async #ready(): Promise<void> {
    if (this.#over.signal.aborted) return;
    if (this.#spares.length === 0) {
      const tracer = Tracer.spawn(this.#command);
      this.#toRehearse.set(tracer, REHEARSALS);
      this.#spares.push(tracer);
    }
    for (const tracer of [...this.#spares]) await this.#rehearseWith(tracer);
  }

  async #rehearseWith(tracer: Tracer): Promise<void> {
    for (;;) {
      while (this.#isBusy() && this.#isIdle(tracer))
        await sleep(BUSY_MS, undefined, { ref: false, signal: this.#over.signal });
      const left = this.#toRehearse.get(tracer) ?? 0;
      if (left === 0 || !this.#isIdle(tracer)) break;
      this.#toRehearse.set(tracer, left - 1);
      prioritize(tracer, LOW_PRIORITY);
      const made = await tracer.ask({ method: 'rehearse' });
      if (made === undefined) break;
      if (this.#isIdle(tracer)) this.#compile(made);
      await sleep(PAUSE_MS, undefined, { ref: false });
    }
    if (!this.#isIdle(tracer)) return;
    await tracer.ask({ method: 'release' });
    if (this.#isIdle(tracer)) prioritize(tracer, getPriority());
  }

  /** Not taken meanwhile. */
  #isIdle(tracer: Tracer): boolean {
    return this.#spares.includes(tracer) && !tracer.hasEnded && !this.#over.signal.aborted;
  }

  /** As a destination does. Once is enough for a process that lives on. */
  #compile({ layout, image }: NonNullable<TracerRehearsal>): void {
    if (this.#compiled >= COMPILATIONS) return;
    this.#compiled += 1;
    const { skeleton } = skeletonOf(layout);
    for (let i = 0; i < FINISHES; i++) finishOf(image, skeleton);
  }
}

/** @param priority  nice value; where it may not be set it stays as it is */
function prioritize({ pid }: Tracer, priority: number): void {
  try {
    if (pid !== undefined) setPriority(pid, priority);
  } catch {
    // It has ended, or this process is not allowed to.
  }
}
