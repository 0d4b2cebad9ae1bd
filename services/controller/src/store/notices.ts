import type { Redis } from 'ioredis';
import type { Db } from './db.js';

/** News that every controller hears at once: an operation has a new event, or shall be
 *  cancelled; a node has room for one more migration. A notice may get lost (Redis keeps none), so whoever waits for one also looks by
 *  itself now and then. */
export type Notice = 'event' | 'cancel' | 'room';

export class Notices {
  readonly #channel: string;
  readonly #publisher: Redis;
  readonly #subscriber: Redis;
  readonly #listeners = new Map<string, Set<() => void>>();

  /** @param subscriber  a connection of its own: it can do nothing else; closed with this object */
  constructor(db: Db, subscriber: Redis) {
    this.#channel = db.key('notices');
    this.#publisher = db.redis;
    this.#subscriber = subscriber;
    subscriber.on('message', (_channel, text) => {
      for (const listener of this.#listeners.get(text) ?? []) listener();
    });
  }

  async start(): Promise<void> {
    await this.#subscriber.subscribe(this.#channel);
  }

  async publish(notice: Notice, about: string): Promise<void> {
    await this.#publisher.publish(this.#channel, `${notice} ${about}`);
  }

  /** @returns a function that stops listening */
  listen(notice: Notice, about: string, listener: () => void): () => void {
    const name = `${notice} ${about}`;
    const set = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, set.add(listener));
    return () => {
      set.delete(listener);
      if (set.size === 0 && this.#listeners.get(name) === set) this.#listeners.delete(name);
    };
  }

  close(): void {
    this.#subscriber.disconnect();
  }
}
