import type { Db } from './db.js';

/** Who has no room for one more migration, and those who have it. */
export interface Full {
  readonly node: string;
  readonly way: 'from' | 'to';
  readonly most: number;
  /** Operations. */
  readonly holders: readonly string[];
}

export interface Route {
  readonly source: string;
  readonly destination: string;
  /** 0: no bound. */
  readonly maxOutgoing: number;
  readonly maxIncoming: number;
}

/** Takes a place on both ends or on none. KEYS: source's, destination's. ARGV: operation, now, most of each. */
const takeScript = `
for i = 1, 2 do
  local most = tonumber(ARGV[2 + i])
  local held = redis.call('ZSCORE', KEYS[i], ARGV[1])
  if not held and most > 0 and redis.call('ZCARD', KEYS[i]) >= most then return i end
end
for i = 1, 2 do redis.call('ZADD', KEYS[i], 'NX', ARGV[2], ARGV[1]) end
return 0`;

/** The places that migrations under way take on their hosts: as many as an agent says that its host may have at once, from
 *  it and to it, whichever controller begins them. */
export class Slots {
  readonly #db: Db;

  constructor(db: Db) {
    this.#db = db;
  }

  /** Takes a place on both hosts; once more is no more.
   *  @returns which host has none; undefined when it was taken */
  async take(operation: string, route: Route): Promise<Full | undefined> {
    const { source, destination, maxOutgoing, maxIncoming } = route;
    const [from, to] = [this.#key('from', source), this.#key('to', destination)];
    const args = [operation, ...[this.#db.now(), maxOutgoing, maxIncoming].map(String)];
    const full = await this.#db.redis.eval(takeScript, 2, from, to, ...args);
    if (full === 0) return undefined;
    const [node, way, most, key] =
      full === 1
        ? ([source, 'from', maxOutgoing, from] as const)
        : ([destination, 'to', maxIncoming, to] as const);
    return { node, way, most, holders: await this.#db.redis.zrange(key, '0', '-1') };
  }

  async release(
    operation: string,
    { source, destination }: Omit<Route, 'maxOutgoing' | 'maxIncoming'>,
  ) {
    const { redis } = this.#db;
    await redis.zrem(this.#key('from', source), operation);
    await redis.zrem(this.#key('to', destination), operation);
  }

  #key(way: 'from' | 'to', node: string): string {
    return this.#db.key('slots', way, node);
  }
}
