import { Operation } from '@ferry/api';
import { FerryError } from '@ferry/core';
import { isFinal } from '../store/operations.js';
import type { Surroundings } from './work.js';

const requestKeptSeconds = 24 * 3600;

/** What is common to the beginnings of all operations. */
export interface NewOperation {
  readonly id?: string;
  readonly kind: string;
  readonly container?: string;
  readonly node?: string;
  readonly mode?: string;
  readonly parent?: string;
  readonly params?: Record<string, string>;
  /** The caller's; a second call with it gets the first one's operation. */
  readonly requestId?: string;
  /** Start then, Unix milliseconds. */
  readonly atMs?: number;
  /** Takes what the operation needs for itself alone, or throws. */
  readonly take?: (id: string) => Promise<void>;
  /** Gives it back when the operation could not be recorded. */
  readonly giveBack?: (id: string) => Promise<void>;
}

/** Records an operation and puts it before the workers. Repeatable by id and by request id. */
export async function startOperation(
  around: Surroundings,
  start: NewOperation,
): Promise<Operation> {
  const { operations } = around.stores;
  const id = start.id ?? (await idOfRequest(around, start.requestId ?? ''));
  const known = await operations.find(id);
  if (known !== undefined) return known;
  await start.take?.(id);
  const now = around.stores.db.now();
  const delayMs = start.atMs === undefined ? 0 : Math.max(0, start.atMs - now);
  const operation = Operation.fromPartial({
    ...{ id, kind: start.kind, container: start.container ?? '', node: start.node ?? '' },
    ...{ mode: start.mode ?? '', parent: start.parent ?? '', createdAtMs: BigInt(now) },
    state: delayMs > 0 ? 'scheduled' : 'queued',
    scheduledAtMs: delayMs > 0 ? BigInt(start.atMs ?? 0) : 0n,
  });
  try {
    if (!(await operations.create(operation, start.params))) return await operations.get(id);
  } catch (error) {
    await start.giveBack?.(id);
    throw error;
  }
  await around.queue.add(operation, delayMs);
  return operation;
}

async function idOfRequest(around: Surroundings, requestId: string): Promise<string> {
  const id = around.stores.operations.newId();
  if (requestId === '') return id;
  const { redis, key } = around.stores.db;
  const name = key('request', requestId);
  const taken = await redis.set(name, id, 'EX', requestKeptSeconds, 'NX');
  return taken === 'OK' ? id : ((await redis.get(name)) ?? id);
}

/** Gives `operation` the container for itself alone.
 *  @throws FerryError container.unknown, container.busy */
export async function lockContainer(
  around: Surroundings,
  name: string,
  operation: string,
): Promise<void> {
  const { containers, operations } = around.stores;
  const holder = await containers.lock(name, operation);
  if (holder === undefined) await containers.get(name); // throws that it is unknown
  if (holder === undefined || holder === operation) return;
  const other = await operations.find(holder);
  const ended = other === undefined || isFinal(other);
  if (ended && (await containers.lock(name, operation, holder)) === operation) return;
  const what = other === undefined ? 'another operation' : `a ${other.kind}`;
  throw new FerryError('container.busy', `"${name}" is in the hands of ${what} (${holder})`, {
    remedy: `wait for it with "ferry op watch ${holder}", or "ferry op cancel ${holder}"`,
  });
}

/** A migration, for a user or for a drain. */
export async function startMigration(
  around: Surroundings,
  migration: {
    readonly id?: string;
    readonly requestId?: string;
    readonly name: string;
    readonly to: string;
    readonly mode: string;
    readonly parent?: string;
    readonly params?: Record<string, string>;
  },
): Promise<Operation> {
  const { name, to, ...rest } = migration;
  return await startOperation(around, {
    ...{ kind: 'migrate', container: name, node: to, ...rest },
    take: (id) => lockContainer(around, name, id),
    giveBack: (id) => around.stores.containers.unlock(name, id),
  });
}
