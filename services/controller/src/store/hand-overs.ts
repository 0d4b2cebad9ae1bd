import { HandOver } from '@ferry/api';
import type { Db } from './db.js';

/** Longer than any doubt that nobody has looked at. */
const KEPT_SECONDS = 30 * 24 * 3600;

/** What the two sides of each migration have said of it: the second way for one to hear the other. Nothing here is a
 *  decision of the controller's; a lost word is said again with the next heartbeat. */
export class HandOvers {
  readonly #db: Db;

  constructor(db: Db) {
    this.#db = db;
  }

  /** Keeps what one side says.
   *  @returns what the other sides of the same migrations have said */
  async exchange(words: readonly HandOver[]): Promise<HandOver[]> {
    const found: HandOver[] = [];
    for (const word of words) {
      const key = this.#key(word.migrationId);
      const { role } = word;
      if (role !== 'source' && role !== 'destination') continue;
      const other = role === 'source' ? 'destination' : 'source';
      await this.#db.redis.hset(key, role, JSON.stringify(HandOver.toJSON(word)));
      await this.#db.redis.expire(key, KEPT_SECONDS);
      const json = await this.#db.redis.hget(key, other);
      if (json === null) continue;
      const answer = HandOver.fromJSON(JSON.parse(json));
      if (answer.epoch === word.epoch) found.push(answer);
    }
    return found;
  }

  /** What one side has last said; undefined when it has said nothing. */
  async find(migrationId: string, role: 'source' | 'destination'): Promise<HandOver | undefined> {
    const json = await this.#db.redis.hget(this.#key(migrationId), role);
    return json === null ? undefined : HandOver.fromJSON(JSON.parse(json));
  }

  #key(migrationId: string): string {
    return this.#db.key('handover', migrationId);
  }
}
