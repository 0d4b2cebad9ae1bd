import { DelayedError, type Job, Worker } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Logger } from '../logger.js';
import { type JobData, type QueueName, queueNames, queuePrefix } from './queue.js';

/** What comes after a job's run. */
export type Outcome =
  | { readonly kind: 'done' }
  | { readonly kind: 'again'; readonly afterMs: number };

/** Runs one job; must not throw for failures of the operation itself. */
export type RunJob = (job: {
  readonly id: string;
  readonly name: string;
  /** Of a schedule's tick: the time it stands for, Unix milliseconds. */
  readonly dueAtMs: number;
}) => Promise<Outcome>;

/** Jobs that one controller works on at once: each mostly waits, for an agent or for its turn. */
const concurrency: Readonly<Record<QueueName, number>> = { operations: 256, drains: 32 };

/** BullMQ's workers. A job whose worker died is taken over by another one after `lockMs`; it
 *  runs at least once, so everything in it is idempotent by the operation's id. */
export class Workers {
  readonly #workers: readonly Worker<JobData>[];

  constructor(options: {
    redis: Redis;
    prefix: string;
    lockMs: number;
    run: RunJob;
    logger: Logger;
  }) {
    const { redis, prefix, lockMs, run, logger } = options;
    this.#workers = queueNames.map((name) => {
      const worker = new Worker<JobData>(name, (job, token) => processJob(job, token, run), {
        connection: redis,
        prefix: queuePrefix(prefix),
        concurrency: concurrency[name],
        lockDuration: lockMs,
        stalledInterval: Math.max(500, Math.floor(lockMs / 2)),
        // Taking over is always right: the operation's record says what was done.
        maxStalledCount: 1_000_000,
        autorun: false,
      });
      worker.on('error', (error) => logger.debug('worker', { name, error: String(error) }));
      worker.on('stalled', (id) => logger.warn('job was left by its worker', { operation: id }));
      worker.on('failed', (job, error) => {
        logger.error('job failed', {
          operation: job?.data.id,
          error: error.stack ?? String(error),
        });
      });
      return worker;
    });
  }

  start(): void {
    for (const worker of this.#workers) void worker.run();
  }

  /** Takes no more jobs and waits for those under way, which the caller has told to hand over. */
  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.close()));
  }
}

async function processJob(
  job: Job<JobData>,
  token: string | undefined,
  run: RunJob,
): Promise<void> {
  const outcome = await run({
    id: job.data.id,
    name: job.name,
    dueAtMs: job.timestamp + (job.opts.delay ?? 0),
  });
  if (outcome.kind === 'done') return;
  await job.moveToDelayed(Date.now() + outcome.afterMs, token);
  throw new DelayedError();
}
