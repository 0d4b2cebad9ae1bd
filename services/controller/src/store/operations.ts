import { randomBytes } from 'node:crypto';
import { limits, Operation, type OperationEvent, Progress } from '@ferry/api';
import { FerryError } from '@ferry/core';
import type { Db } from './db.js';
import type { Notices } from './notices.js';

const finalStates = new Set(['succeeded', 'failed', 'cancelled']);
/** Events kept per operation: a watcher reads what it missed from here. */
const eventsKept = 1000;
const retentionMs = 7 * 24 * 3600 * 1000;
const updateTries = 50;

export function isFinal(operation: Pick<Operation, 'state'>): boolean {
  return finalStates.has(operation.state);
}

/** Nobody can tell yet where its container may run. */
export function isInDoubt(operation: Pick<Operation, 'state'>): boolean {
  return operation.state === 'in-doubt';
}

/** Creates the record unless there is one. KEYS: record, order, active, events. ARGV: id, json,
 *  created, kept, params. */
const createScript = `
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'rev', 1, 'json', ARGV[2], 'params', ARGV[5])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('SADD', KEYS[3], ARGV[1])
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[4], '*', 'operation', '')
return 1`;

/** Replaces revision ARGV[3] of the record. ARGV: id, json, revision, kept, 1 when the new state
 *  is final. */
const replaceScript = `
if redis.call('HGET', KEYS[1], 'rev') ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], 'rev', ARGV[3] + 1, 'json', ARGV[2])
if ARGV[5] == '1' then redis.call('SREM', KEYS[3], ARGV[1]) end
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[4], '*', 'operation', '')
return 1`;

const removeScript = `
redis.call('DEL', KEYS[1], KEYS[4])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('SREM', KEYS[3], ARGV[1])
return 1`;

/** The records of operations and their events. */
export class Operations {
  readonly #db: Db;
  readonly #notices: Notices;

  constructor(db: Db, notices: Notices) {
    this.#db = db;
    this.#notices = notices;
  }

  newId(): string {
    return `${this.#db.now().toString(36)}-${randomBytes(3).toString('hex')}`;
  }

  /** @param params  what the worker needs to know besides the record
   *  @returns false when there is one with this id already */
  async create(operation: Operation, params: Record<string, string> = {}): Promise<boolean> {
    const json = encode(operation);
    const made = await this.#eval(createScript, operation.id, [
      json,
      operation.createdAtMs.toString(),
      eventsKept,
      JSON.stringify(params),
    ]);
    if (made === 1) await this.#notices.publish('event', operation.id);
    return made === 1;
  }

  async find(id: string): Promise<Operation | undefined> {
    const [json, progress] = await this.#db.redis.hmget(this.#key(id), 'json', 'progress');
    if (json === null || json === undefined) return undefined;
    return decode(json, progress);
  }

  /** @throws FerryError operation.unknown */
  async get(id: string): Promise<Operation> {
    const operation = await this.find(id);
    if (operation !== undefined) return operation;
    throw new FerryError('operation.unknown', `There is no operation "${id}"`, {
      remedy: 'see "ferry op ls"',
    });
  }

  /** Changes a record without losing another's change.
   *  @param change  gets the present record; returns the new one, or undefined to leave it
   *  @returns the record as it is then */
  async update(
    id: string,
    change: (operation: Operation) => Operation | undefined,
  ): Promise<Operation> {
    for (let attempt = 0; attempt < updateTries; attempt += 1) {
      const [revision, json, progress] = await this.#db.redis.hmget(
        this.#key(id),
        ...['rev', 'json', 'progress'],
      );
      if (typeof json !== 'string') return await this.get(id);
      const present = decode(json, progress);
      const next = change(present);
      if (next === undefined) return present;
      const args = [encode(next), revision ?? '', eventsKept, isFinal(next) ? '1' : '0'];
      if ((await this.#eval(replaceScript, id, args)) === 1) {
        await this.#notices.publish('event', id);
        return next;
      }
    }
    throw new FerryError('operation.contended', `Operation ${id} is changed too often`);
  }

  async appendProgress(id: string, progress: Progress): Promise<void> {
    const json = JSON.stringify(Progress.toJSON(progress));
    await this.#db.redis
      .pipeline()
      .hset(this.#key(id), 'progress', json)
      .xadd(this.#key(id, 'events'), 'MAXLEN', '~', eventsKept, '*', 'progress', json)
      .exec();
    await this.#notices.publish('event', id);
  }

  /** As given to `create`. */
  async params(id: string): Promise<Record<string, string>> {
    return await this.#field(id, 'params');
  }

  /** What a worker noted for its successor; not shown to users. */
  async memory(id: string): Promise<Record<string, string>> {
    return await this.#field(id, 'memory');
  }

  async #field(id: string, name: string): Promise<Record<string, string>> {
    const json = await this.#db.redis.hget(this.#key(id), name);
    return json === null ? {} : (JSON.parse(json) as Record<string, string>);
  }

  async remember(id: string, memory: Record<string, string>): Promise<void> {
    await this.#db.redis.hset(this.#key(id), 'memory', JSON.stringify(memory));
  }

  async activeIds(): Promise<string[]> {
    return await this.#db.redis.smembers(this.#db.key('ops', 'active'));
  }

  async active(): Promise<Operation[]> {
    const found = await Promise.all((await this.activeIds()).map((id) => this.find(id)));
    return found.filter(
      (operation) => operation !== undefined && !isFinal(operation),
    ) as Operation[];
  }

  /** Newest first. @param after  id of the last one of the page before */
  async page(options: {
    after: string;
    size: number;
    accept: (operation: Operation) => boolean;
  }): Promise<{ operations: Operation[]; next: string }> {
    const order = this.#db.key('ops');
    const last = options.after === '' ? null : await this.#db.redis.zrevrank(order, options.after);
    let from = last === null ? 0 : last + 1;
    const operations: Operation[] = [];
    for (;;) {
      const ids = await this.#db.redis.zrevrange(order, from, from + 99);
      from += ids.length;
      for (const operation of await Promise.all(ids.map((id) => this.find(id)))) {
        if (operation === undefined || !options.accept(operation)) continue;
        operations.push(operation);
        if (operations.length === options.size) return { operations, next: operation.id };
      }
      if (ids.length < 100) return { operations, next: '' };
    }
  }

  /** The record now, then every event, until it has ended. */
  async *watch(id: string, signal: AbortSignal): AsyncGenerator<OperationEvent, void, undefined> {
    let [wake, woken] = [() => {}, false];
    const stop = this.#notices.listen('event', id, () => {
      woken = true;
      wake();
    });
    try {
      let position = await this.#lastEvent(id);
      let operation = await this.get(id);
      yield { operation, progress: operation.progress };
      while (!isFinal(operation) && !signal.aborted) {
        if (!woken) {
          await new Promise<void>((resolve) => {
            wake = resolve;
            setTimeout(resolve, 1000).unref();
            signal.addEventListener('abort', () => resolve(), { once: true });
          });
        }
        woken = false;
        const { progress, last, changed } = await this.#eventsAfter(id, position);
        position = last;
        for (const value of progress) yield { operation: undefined, progress: value };
        // Events may have been trimmed or removed: the record has the last word.
        const present = await this.get(id);
        if (!changed && !isFinal(present)) continue;
        operation = present;
        yield { operation, progress: undefined };
      }
    } finally {
      stop();
    }
  }

  /** Removes records of operations that began before the retention time and have ended. */
  async forgetOld(): Promise<number> {
    const before = this.#db.now() - retentionMs;
    const ids = await this.#db.redis.zrangebyscore(
      this.#db.key('ops'),
      ...(['-inf', before, 'LIMIT', 0, 200] as const),
    );
    let removed = 0;
    for (const id of ids) {
      const operation = await this.find(id);
      if (operation !== undefined && !isFinal(operation)) continue;
      removed += Number(await this.#eval(removeScript, id, []));
    }
    return removed;
  }

  #key(id: string, ...rest: string[]): string {
    return this.#db.key('op', id, ...rest);
  }

  async #eval(script: string, id: string, args: (string | number)[]): Promise<unknown> {
    const keys = [
      this.#key(id),
      this.#db.key('ops'),
      this.#db.key('ops', 'active'),
      this.#key(id, 'events'),
    ];
    return await this.#db.redis.eval(script, keys.length, ...keys, id, ...args);
  }

  async #lastEvent(id: string): Promise<string> {
    const last = await this.#db.redis.xrevrange(this.#key(id, 'events'), '+', '-', 'COUNT', 1);
    return last[0]?.[0] ?? '0';
  }

  /** Reports since an event, oldest first, and whether the record has changed. */
  async #eventsAfter(id: string, position: string) {
    const progress: Progress[] = [];
    let [last, changed] = [position, false];
    for (;;) {
      const entries = await this.#db.redis.xrange(
        this.#key(id, 'events'),
        `(${last}`,
        ...(['+', 'COUNT', 100] as const),
      );
      for (const [at, [kind, json = '']] of entries) {
        last = at;
        if (kind === 'operation') changed = true;
        else progress.push(Progress.fromJSON(JSON.parse(json)));
      }
      if (entries.length < 100) return { progress, last, changed };
    }
  }
}

function encode(operation: Operation): string {
  return JSON.stringify(Operation.toJSON({ ...operation, progress: undefined }));
}

function decode(json: string, progress: string | null | undefined): Operation {
  const operation = Operation.fromJSON(JSON.parse(json));
  if (typeof progress === 'string') operation.progress = Progress.fromJSON(JSON.parse(progress));
  return operation;
}

/** Number of records in one page of a list. */
export function pageSize(asked: number): number {
  return asked === 0 ? limits.pageSizeDefault : Math.min(asked, limits.pageSizeMax);
}
