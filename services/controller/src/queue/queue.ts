import type { Operation } from '@ferry/api';
import { FerryError } from '@ferry/core';
import { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Logger } from '../logger.js';

/** What is in a job: the operation's id, or for a tick of a schedule the schedule's. All else is
 *  in the record. */
export interface JobData {
  readonly id: string;
}

/** Drains wait for the migrations they start, so they must not take the places those need. */
export const queueNames = ['operations', 'drains'] as const;
export type QueueName = (typeof queueNames)[number];

export function queueOf(kind: string): QueueName {
  return kind === 'drain' || kind === 'drain-schedule' ? 'drains' : 'operations';
}

/** Where BullMQ keeps its keys. */
export function queuePrefix(prefix: string): string {
  return `${prefix}:queue`;
}

const jobOptions = {
  // The operation's record is what stays; the job is only who works on it.
  removeOnComplete: true,
  removeOnFail: true,
  attempts: 1,
} as const;

/** Puts operations before workers: one job per operation, with its id. */
export class WorkQueue {
  readonly #queues: Readonly<Record<QueueName, Queue<JobData>>>;

  constructor(redis: Redis, prefix: string, logger: Logger) {
    const options = { connection: redis, prefix: queuePrefix(prefix) };
    const open = (name: QueueName) => {
      const queue = new Queue<JobData>(name, options);
      queue.on('error', (error) => logger.debug('queue', { name, error: String(error) }));
      return queue;
    };
    this.#queues = { operations: open('operations'), drains: open('drains') };
  }

  /** Adds the operation's job unless it is there. @param delayMs  before a worker may take it */
  async add(operation: Pick<Operation, 'id' | 'kind'>, delayMs = 0): Promise<void> {
    await this.#queues[queueOf(operation.kind)].add(
      operation.kind,
      { id: operation.id },
      { ...jobOptions, jobId: operation.id, delay: Math.max(0, delayMs) },
    );
  }

  async has(operation: Pick<Operation, 'id' | 'kind'>): Promise<boolean> {
    return (await this.#queues[queueOf(operation.kind)].getJob(operation.id)) !== undefined;
  }

  /** Takes the job away unless a worker has it. */
  async remove(operation: Pick<Operation, 'id' | 'kind'>): Promise<void> {
    await this.#queues[queueOf(operation.kind)].remove(operation.id).catch(() => 0);
  }

  /** Starts a tick of the schedule `id` at each time of `cron`.
   *  @returns the time of the first one, Unix milliseconds
   *  @throws FerryError request.invalid */
  async schedule(id: string, cron: string, timeZone: string): Promise<number> {
    try {
      // The parser below takes fewer fields too, and means something by them that nobody else does.
      const fields = cron.trim().split(/\s+/).length;
      if (fields !== 5 && fields !== 6) throw new Error(`It has ${fields} fields`);
      const job = await this.#queues.drains.upsertJobScheduler(
        id,
        { pattern: cron, tz: timeZone === '' ? 'UTC' : timeZone },
        { name: 'drain-schedule', data: { id }, opts: jobOptions },
      );
      return (job?.timestamp ?? Date.now()) + (job?.opts.delay ?? 0);
    } catch (error) {
      throw new FerryError('request.invalid', `Cron expression "${cron}" is not valid`, {
        cause: error,
        remedy:
          'give 5 fields (minute hour day month weekday), or 6 with seconds first, and an IANA time zone',
      });
    }
  }

  /** Time of the next tick, Unix milliseconds; undefined when there is no such schedule. */
  async nextTick(id: string): Promise<number | undefined> {
    return (await this.#queues.drains.getJobScheduler(id))?.next;
  }

  async unschedule(id: string): Promise<void> {
    await this.#queues.drains.removeJobScheduler(id);
  }

  async close(): Promise<void> {
    await Promise.all(Object.values(this.#queues).map((queue) => queue.close()));
  }
}
