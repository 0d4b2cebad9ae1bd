import { Container, type HeartbeatRequest, HostFacts, type Node, Resources } from '@ferry/api';
import { FerryError } from '@ferry/core';
import type { Db } from './db.js';

/** A node with what it last reported. */
export interface NodeSnapshot {
  readonly node: Node;
  readonly containers: readonly Container[];
}

/** KEYS: node, names. ARGV: name, address, facts, now, down after. A live agent at another
 *  address keeps the name. */
const registerScript = `
local address = redis.call('HGET', KEYS[1], 'address')
local beat = redis.call('HGET', KEYS[1], 'beat')
if address and address ~= ARGV[2] and beat and tonumber(beat) > ARGV[4] - ARGV[5] then
  return address
end
redis.call('HSET', KEYS[1], 'address', ARGV[2], 'facts', ARGV[3], 'registered', ARGV[4])
redis.call('HSETNX', KEYS[1], 'beat', ARGV[4])
redis.call('SADD', KEYS[2], ARGV[1])
return ''`;

/** ARGV: name, address, now, resources, containers. */
const heartbeatScript = `
local address = redis.call('HGET', KEYS[1], 'address')
if not address then return 'unknown' end
if address ~= ARGV[2] then return address end
redis.call('HSET', KEYS[1], 'beat', ARGV[3], 'resources', ARGV[4], 'containers', ARGV[5])
return ''`;

export class Nodes {
  readonly #db: Db;
  readonly #downAfterMs: number;
  /** Nobody could be heard before: agents need a moment to find a controller that has just
   *  started. */
  readonly #listeningSince: number;

  constructor(db: Db, downAfterMs: number) {
    this.#db = db;
    this.#downAfterMs = downAfterMs;
    this.#listeningSince = db.now();
  }

  /** @throws FerryError node.taken */
  async register(node: { name: string; address: string; facts: HostFacts }): Promise<void> {
    const holder = await this.#eval(registerScript, node.name, [
      ...[node.address, JSON.stringify(HostFacts.toJSON(node.facts))],
      ...[this.#db.now(), this.#downAfterMs],
    ]);
    if (holder !== '') throw taken(node.name, String(holder));
  }

  /** @throws FerryError node.unknown (register first), node.taken */
  async heartbeat(beat: HeartbeatRequest): Promise<void> {
    const holder = await this.#eval(heartbeatScript, beat.name, [
      ...[beat.address, this.#db.now()],
      JSON.stringify(Resources.toJSON(beat.resources ?? Resources.create())),
      JSON.stringify(beat.containers.map((container) => Container.toJSON(container))),
    ]);
    if (holder === 'unknown') throw unknown(beat.name);
    if (holder !== '') throw taken(beat.name, String(holder));
  }

  /** Takes over what a node holds, as asked between two heartbeats. */
  async setContainers(name: string, containers: readonly Container[]): Promise<void> {
    const json = JSON.stringify(containers.map((container) => Container.toJSON(container)));
    await this.#db.redis.hset(this.#key(name), 'containers', json);
  }

  async find(name: string): Promise<NodeSnapshot | undefined> {
    const fields = await this.#db.redis.hgetall(this.#key(name));
    if (fields.address === undefined) return undefined;
    const beat = Number(fields.beat ?? 0);
    const containers = fields.containers ? (JSON.parse(fields.containers) as unknown[]) : [];
    const heard = Math.max(beat, this.#listeningSince);
    const down = this.#db.now() - heard > this.#downAfterMs;
    const cordoned = fields.cordon !== undefined;
    return {
      node: {
        name,
        state: down ? 'down' : cordoned ? 'cordoned' : 'ready',
        address: fields.address,
        facts: HostFacts.fromJSON(JSON.parse(fields.facts ?? '{}')),
        resources: Resources.fromJSON(JSON.parse(fields.resources ?? '{}')),
        registeredAtMs: BigInt(fields.registered ?? 0),
        lastHeartbeatAtMs: BigInt(beat),
        cordoned,
        containers: containers.length,
        cordonReason: fields.cordon ?? '',
        inDoubt: [],
      },
      containers: containers.map((container) => Container.fromJSON(container)),
    };
  }

  /** @throws FerryError node.unknown */
  async get(name: string): Promise<NodeSnapshot> {
    const found = await this.find(name);
    if (found !== undefined) return found;
    throw unknown(name);
  }

  /** The node, if it can be talked to. @throws FerryError node.unknown, node.down */
  async getUp(name: string): Promise<NodeSnapshot> {
    const found = await this.get(name);
    if (found.node.state !== 'down') return found;
    throw new FerryError('node.down', `Node "${name}" is down`, {
      remedy: 'start its agent again, or see "ferry node ls" for others',
    });
  }

  async list(): Promise<NodeSnapshot[]> {
    const names = await this.#db.redis.smembers(this.#db.key('nodes'));
    const found = await Promise.all(names.sort().map((name) => this.find(name)));
    return found.filter((node) => node !== undefined) as NodeSnapshot[];
  }

  /** @param reason  shown to users; undefined: schedulable again */
  async cordon(name: string, reason: string | undefined): Promise<Node> {
    await this.get(name);
    if (reason === undefined) await this.#db.redis.hdel(this.#key(name), 'cordon');
    else await this.#db.redis.hset(this.#key(name), 'cordon', reason);
    return (await this.get(name)).node;
  }

  #key(name: string): string {
    return this.#db.key('node', name);
  }

  async #eval(script: string, name: string, args: (string | number)[]): Promise<unknown> {
    const keys = [this.#key(name), this.#db.key('nodes')];
    return await this.#db.redis.eval(script, keys.length, ...keys, name, ...args);
  }
}

function unknown(name: string): FerryError {
  return new FerryError('node.unknown', `There is no node "${name}"`, {
    remedy: 'see "ferry node ls"; an agent registers its node when it starts',
  });
}

function taken(name: string, address: string): FerryError {
  return new FerryError('node.taken', `Node name "${name}" belongs to the agent at ${address}`, {
    remedy: 'give each agent a name of its own, or stop the other one',
  });
}
