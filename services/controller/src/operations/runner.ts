import { type Operation, toErrorDetail } from '@ferry/api';
import { InvariantError } from '@ferry/core';
import type { Outcome } from '../queue/workers.js';
import { isRedisLost } from '../store/db.js';
import { isFinal } from '../store/operations.js';
import { checkpointContainer, restoreContainer } from './checkpoint.js';
import { drainNode } from './drain.js';
import { migrateContainer } from './migrate.js';
import { ProgressReporter } from './progress.js';
import { progressOf, runContainer } from './run.js';
import { tick } from './schedule.js';
import { stopContainer } from './stop.js';
import { HandOver, InDoubt, type Surroundings, type Work, type WorkResult } from './work.js';

const works: Readonly<Record<string, (work: Work) => Promise<WorkResult>>> = {
  run: runContainer,
  stop: stopContainer,
  checkpoint: checkpointContainer,
  restore: restoreContainer,
  migrate: migrateContainer,
  drain: drainNode,
};

/** Most time between two looks at work in doubt. */
const doubtPauseMsMax = 5000;
/** Before work is gone on with that Redis did not answer. */
const redisPauseMs = 1000;
/** Before another controller takes what comes to one that ends. */
const closingPauseMs = 50;
/** A cancellation whose notice got lost is found by looking. */
const lookForCancelMs = 1000;

interface Job {
  readonly id: string;
  readonly name: string;
  readonly dueAtMs: number;
}

/** Takes operations through their states; what is done for each kind is in the files beside this
 *  one. */
export class Runner {
  readonly #around: Surroundings;

  constructor(around: Surroundings) {
    this.#around = around;
  }

  /** A Redis that does not answer says nothing about the work, which an agent may have in hand: it is gone on with. */
  async run(job: Job): Promise<Outcome> {
    try {
      return await this.#run(job);
    } catch (error) {
      if (!isRedisLost(error)) throw error;
      this.#around.logger.warn('redis did not answer', { operation: job.id, error: String(error) });
      return { kind: 'again', afterMs: redisPauseMs };
    }
  }

  async #run(job: Job): Promise<Outcome> {
    // What was just handed over may come back before the worker has ended.
    if (this.#around.closing.aborted) return { kind: 'again', afterMs: closingPauseMs };
    if (job.name === 'drain-schedule') {
      await tick(this.#around, job);
      return { kind: 'done' };
    }
    const { operations } = this.#around.stores;
    const operation = await operations.find(job.id);
    if (operation === undefined || isFinal(operation)) return { kind: 'done' };
    if (operation.cancelRequested && operation.attempts === 0) {
      await this.#finish(operation, earlyEnd);
      await giveBack(this.#around, operation);
      return { kind: 'done' };
    }
    const now = BigInt(this.#around.stores.db.now());
    const begun = await operations.update(job.id, (present) => {
      if (isFinal(present)) return undefined;
      const startedAtMs = present.startedAtMs > 0n ? present.startedAtMs : now;
      const state = present.state === 'in-doubt' ? 'in-doubt' : 'running';
      return { ...present, state, startedAtMs, attempts: present.attempts + 1 };
    });
    if (isFinal(begun)) return { kind: 'done' };
    return await this.#attempt(begun);
  }

  async #attempt(operation: Operation): Promise<Outcome> {
    const { stores, logger } = this.#around;
    const { id, kind } = operation;
    const started = stores.db.now();
    const cancel = new AbortController();
    const progress = new ProgressReporter(
      (value) => stores.operations.appendProgress(id, value),
      stores.db.now,
    );
    const work: Work = {
      ...this.#around,
      operation,
      params: await stores.operations.params(id),
      memory: await stores.operations.memory(id),
      cancel: cancel.signal,
      stop: this.#around.closing,
      report: (value) => progress.report(value),
    };
    const unwatch = this.#watchForCancel(id, cancel);
    logger.info('operation begins', { operation: id, kind, attempt: operation.attempts });
    try {
      const perform = works[kind];
      if (perform === undefined) throw new InvariantError(`No work for the operation kind ${kind}`);
      const result = await perform(work);
      progress.done(progressOf(work, 'done', 'done', 1));
      await progress.close();
      await this.#finish(operation, { state: 'succeeded', result, error: undefined });
      logger.info('operation succeeded', { operation: id, ms: stores.db.now() - started });
      return { kind: 'done' };
    } catch (error) {
      await progress.close();
      return await this.#afterError(work, error);
    } finally {
      unwatch();
    }
  }

  async #afterError(work: Work, error: unknown): Promise<Outcome> {
    const { operation, logger } = work;
    if (error instanceof HandOver || work.stop.aborted) {
      logger.info('operation is handed over', { operation: operation.id });
      return { kind: 'again', afterMs: 0 };
    }
    if (isRedisLost(error)) throw error;
    const detail = toErrorDetail(error);
    if (error instanceof InDoubt) {
      logger.warn('operation is in doubt', { operation: operation.id, error: detail.message });
      await work.stores.operations.update(operation.id, (present) =>
        isFinal(present) ? undefined : { ...present, state: 'in-doubt', error: detail },
      );
      return { kind: 'again', afterMs: Math.min(doubtPauseMsMax, work.settings.agentSilenceMs) };
    }
    const bug = detail.code === 'internal' && error instanceof Error;
    logger.warn('operation failed', {
      ...{ operation: operation.id, code: detail.code, error: detail.message },
      ...(bug ? { stack: error.stack } : {}),
    });
    const asked = work.cancel.aborted && detail.code.endsWith('.cancelled');
    await this.#finish(operation, { state: asked ? 'cancelled' : 'failed', error: detail });
    return { kind: 'done' };
  }

  /** Writes the end, unless another worker has the operation by now, and frees its container. */
  async #finish(operation: Operation, end: Partial<Operation>): Promise<void> {
    const { operations, containers, db } = this.#around.stores;
    await operations.update(operation.id, (present) => {
      if (isFinal(present) || present.attempts !== operation.attempts) return undefined;
      return { ...present, ...end, finishedAtMs: BigInt(db.now()), scheduledAtMs: 0n };
    });
    if (operation.container !== '') await containers.unlock(operation.container, operation.id);
  }

  #watchForCancel(id: string, cancel: AbortController): () => void {
    const { notices, operations } = this.#around.stores;
    const look = async () => {
      const present = await operations.find(id);
      if (present?.cancelRequested) cancel.abort();
    };
    const lookQuietly = () => void look().catch(() => {});
    lookQuietly();
    const stop = notices.listen('cancel', id, lookQuietly);
    const timer = setInterval(lookQuietly, lookForCancelMs);
    return () => {
      stop();
      clearInterval(timer);
    };
  }
}

/** The end of an operation that no worker has begun. */
export const earlyEnd: Partial<Operation> = {
  state: 'cancelled',
  error: {
    code: 'operation.cancelled',
    message: 'Cancelled before it began',
    remedy: '',
    problems: [],
  },
};

/** Gives back what an operation had taken that no worker has begun and none will. */
export async function giveBack(around: Surroundings, operation: Operation): Promise<void> {
  const { containers } = around.stores;
  if (operation.container === '') return;
  const creates = operation.kind === 'run' || operation.kind === 'restore';
  if (creates) await containers.remove(operation.container, operation.id);
  else await containers.unlock(operation.container, operation.id);
}
