import { ContainerSpec } from '@ferry/api';
import { FerryError } from '@ferry/core';
import type { Db } from './db.js';

/** What the controller itself knows of a container; the rest is what its node reports. */
export interface ContainerRecord {
  readonly name: string;
  /** Empty until placed. */
  readonly node: string;
  readonly epoch: bigint;
  /** Id of the operation that works on it; empty: none. */
  readonly operation: string;
  readonly spec: ContainerSpec | undefined;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
}

/** KEYS: record, names. ARGV: name, operation, spec, now. */
const reserveScript = `
if redis.call('EXISTS', KEYS[1]) == 1 then
  return redis.call('HGET', KEYS[1], 'operation') == ARGV[2] and 1 or 0
end
redis.call('HSET', KEYS[1], 'operation', ARGV[2], 'spec', ARGV[3], 'epoch', '0', 'node', '',
  'created', ARGV[4], 'updated', ARGV[4])
redis.call('SADD', KEYS[2], ARGV[1])
return 1`;

/** Takes the lock when it is free, ours, or held by ARGV[3] (an operation that has ended). Gives
 *  the holder. */
const lockScript = `
local holder = redis.call('HGET', KEYS[1], 'operation')
if not holder then return false end
if holder == '' or holder == ARGV[2] or holder == ARGV[3] then
  redis.call('HSET', KEYS[1], 'operation', ARGV[2])
  return ARGV[2]
end
return holder`;

const unlockScript = `
if redis.call('HGET', KEYS[1], 'operation') == ARGV[2] then
  redis.call('HSET', KEYS[1], 'operation', '', 'updated', ARGV[3])
end
return 1`;

/** Records where it is, unless a later epoch is known, or it was removed just now. KEYS: record,
 *  names, epoch of the removed one. ARGV: name, node, epoch, spec, now. */
const claimScript = `
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch and tonumber(epoch) >= tonumber(ARGV[3]) then return 0 end
local removed = redis.call('GET', KEYS[3])
if removed and tonumber(removed) >= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], 'node', ARGV[2], 'epoch', ARGV[3], 'updated', ARGV[5])
redis.call('HSETNX', KEYS[1], 'operation', '')
redis.call('HSETNX', KEYS[1], 'created', ARGV[5])
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'spec', ARGV[4]) end
redis.call('SADD', KEYS[2], ARGV[1])
return 1`;

/** ARGV: name, only when worked on by this operation ('' as well), only when at this node ('*':
 *  any), seconds. */
const removeScript = `
if redis.call('HGET', KEYS[1], 'operation') ~= ARGV[2] then return 0 end
if ARGV[3] ~= '*' and redis.call('HGET', KEYS[1], 'node') ~= ARGV[3] then return 0 end
redis.call('SET', KEYS[3], redis.call('HGET', KEYS[1], 'epoch') or '0', 'EX', ARGV[4])
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[2], ARGV[1])
return 1`;

/** For so long a removed container is not found again: a heartbeat from before may still be on
 *  its way. */
const removedKeptSeconds = 15;

export class Containers {
  readonly #db: Db;

  constructor(db: Db) {
    this.#db = db;
  }

  /** Takes a name for an operation that will create the container. @returns false when another
   *  has it */
  async reserve(
    name: string,
    operation: string,
    spec: ContainerSpec | undefined,
  ): Promise<boolean> {
    const args = [operation, encodeSpec(spec), this.#db.now()];
    return (await this.#eval(reserveScript, name, args)) === 1;
  }

  async find(name: string): Promise<ContainerRecord | undefined> {
    const fields = await this.#db.redis.hgetall(this.#key(name));
    if (fields.epoch === undefined) return undefined;
    return {
      name,
      node: fields.node ?? '',
      epoch: BigInt(fields.epoch),
      operation: fields.operation ?? '',
      spec: fields.spec ? ContainerSpec.fromJSON(JSON.parse(fields.spec)) : undefined,
      createdAtMs: Number(fields.created ?? 0),
      updatedAtMs: Number(fields.updated ?? 0),
    };
  }

  /** @throws FerryError container.unknown */
  async get(name: string): Promise<ContainerRecord> {
    const record = await this.find(name);
    if (record !== undefined) return record;
    throw new FerryError('container.unknown', `There is no container "${name}"`, {
      remedy: 'see "ferry ps"',
    });
  }

  async list(): Promise<ContainerRecord[]> {
    const names = await this.#db.redis.smembers(this.#db.key('containers'));
    const found = await Promise.all(names.sort().map((name) => this.find(name)));
    return found.filter((record) => record !== undefined) as ContainerRecord[];
  }

  /** @returns the operation that holds it afterwards (`operation` when it was got), undefined:
   *      no such container */
  async lock(name: string, operation: string, ended = operation): Promise<string | undefined> {
    const holder = await this.#eval(lockScript, name, [operation, ended]);
    return typeof holder === 'string' ? holder : undefined;
  }

  async unlock(name: string, operation: string): Promise<void> {
    await this.#eval(unlockScript, name, [operation, this.#db.now()]);
  }

  /** Records that `node` owns it with `epoch`. @returns false when an equal or later epoch is
   *  known */
  async claim(
    name: string,
    owner: { node: string; epoch: bigint; spec: ContainerSpec | undefined },
  ): Promise<boolean> {
    const args = [owner.node, owner.epoch.toString(), encodeSpec(owner.spec), this.#db.now()];
    const claimed = (await this.#eval(claimScript, name, args)) === 1;
    if (claimed) await this.#raiseEpoch(name, owner.epoch);
    return claimed;
  }

  /** Forgets it, if `operation` (or with '' nobody) works on it, and if it is at `node` ('*':
   *  wherever). */
  async remove(name: string, operation: string, node = '*'): Promise<boolean> {
    const removed =
      (await this.#eval(removeScript, name, [operation, node, removedKeptSeconds])) === 1;
    if (removed) await this.releaseAddresses(name);
    return removed;
  }

  /** An epoch that no container of this name has had: for a new or restored one. */
  async nextEpoch(name: string): Promise<bigint> {
    return BigInt(await this.#db.redis.hincrby(this.#db.key('epochs'), name, 1));
  }

  async #raiseEpoch(name: string, epoch: bigint): Promise<void> {
    const script = `
local known = redis.call('HGET', KEYS[1], ARGV[1])
if not known or tonumber(known) < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
return 1`;
    await this.#db.redis.eval(script, 1, this.#db.key('epochs'), name, epoch.toString());
  }

  // ---- addresses ----

  /** Takes an IPv4 address (without prefix length) for a container. @returns false when another
   *  holds it */
  async takeAddress(address: string, name: string): Promise<boolean> {
    const key = this.#db.key('addresses');
    if ((await this.#db.redis.hsetnx(key, address, name)) === 1) return true;
    return (await this.#db.redis.hget(key, address)) === name;
  }

  async takenAddresses(): Promise<Map<string, string>> {
    return new Map(Object.entries(await this.#db.redis.hgetall(this.#db.key('addresses'))));
  }

  async releaseAddresses(name: string): Promise<void> {
    for (const [address, holder] of await this.takenAddresses()) {
      if (holder === name) await this.#db.redis.hdel(this.#db.key('addresses'), address);
    }
  }

  #key(name: string): string {
    return this.#db.key('container', name);
  }

  async #eval(script: string, name: string, args: (string | number)[]): Promise<unknown> {
    const keys = [this.#key(name), this.#db.key('containers'), this.#db.key('removed', name)];
    return await this.#db.redis.eval(script, keys.length, ...keys, name, ...args);
  }
}

function encodeSpec(spec: ContainerSpec | undefined): string {
  return spec === undefined ? '' : JSON.stringify(ContainerSpec.toJSON(spec));
}
