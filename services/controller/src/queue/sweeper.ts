import { randomBytes } from 'node:crypto';
import type { Operation } from '@ferry/api';
import type { Surroundings } from '../operations/work.js';
import { isFinal } from '../store/operations.js';

/** An operation younger than this may still be on its way into the queue. */
const settleMs = 3000;
const everyMs = 5000;
const forgetEveryMs = 3600_000;
/** A container that its node does not report so long after its last change, and on which nothing
 *  works, is gone. */
const goneAfterMs = 10_000;

/** Finds operations whose job got lost (a controller died between writing the record and
 *  queueing the job, or Redis lost a write) and queues them again; forgets what is gone or old.
 *  One controller at a time does it. */
export class Sweeper {
  readonly #around: Surroundings;
  readonly #own = randomBytes(8).toString('hex');
  #timer: NodeJS.Timeout | undefined;
  #forgotAt = 0;

  constructor(around: Surroundings) {
    this.#around = around;
  }

  start(): void {
    const sweep = () => {
      this.sweep().catch((error: unknown) => {
        this.#around.logger.debug('sweep failed', { error: String(error) });
      });
    };
    this.#timer = setInterval(sweep, everyMs);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  async sweep(): Promise<void> {
    const { db, operations } = this.#around.stores;
    const key = db.key('sweeper');
    const taken = await db.redis.set(key, this.#own, 'PX', everyMs - 500, 'NX');
    if (taken !== 'OK') return;
    for (const id of await operations.activeIds()) {
      const operation = await operations.find(id);
      if (operation === undefined || isFinal(operation)) {
        await db.redis.srem(db.key('ops', 'active'), id);
      } else if (db.now() - Number(operation.createdAtMs) > settleMs) {
        await this.#requeue(operation);
      }
    }
    await this.#forgetGone();
    await this.#freeAddresses();
    if (db.now() - this.#forgotAt < forgetEveryMs) return;
    this.#forgotAt = db.now();
    await operations.forgetOld();
  }

  /** Forgets containers that their node, which is up, does not report any more. */
  async #forgetGone(): Promise<void> {
    const { nodes, containers } = this.#around.stores;
    const snapshots = new Map((await nodes.list()).map((found) => [found.node.name, found]));
    for (const { name, node, operation, updatedAtMs } of await containers.list()) {
      const snapshot = snapshots.get(node);
      if (snapshot === undefined || snapshot.node.state === 'down' || operation !== '') continue;
      const silentFor = Number(snapshot.node.lastHeartbeatAtMs) - updatedAtMs;
      const reported = snapshot.containers.some((container) => container.name === name);
      if (reported || silentFor < goneAfterMs) continue;
      if (await containers.remove(name, '', node)) {
        this.#around.logger.warn('container is gone', { container: name, node });
      }
    }
  }

  /** Frees addresses whose container is not known any more. */
  async #freeAddresses(): Promise<void> {
    const { containers } = this.#around.stores;
    // The addresses first: a container that comes meanwhile has its record before its address.
    const holders = new Set((await containers.takenAddresses()).values());
    for (const name of holders) {
      if ((await containers.find(name)) === undefined) await containers.releaseAddresses(name);
    }
  }

  async #requeue(operation: Operation): Promise<void> {
    const { queue, stores, logger } = this.#around;
    const { id, kind, cron } = operation;
    if (kind === 'drain-schedule') {
      if ((await queue.nextTick(id)) !== undefined) return;
      const { timeZone } = await stores.operations.params(id);
      await queue.schedule(id, cron, timeZone ?? '');
    } else {
      if (await queue.has(operation)) return;
      const delay = Number(operation.scheduledAtMs) - stores.db.now();
      await queue.add(operation, operation.state === 'scheduled' ? delay : 0);
    }
    logger.warn('operation was not queued; it is now', { operation: id, kind });
  }
}
