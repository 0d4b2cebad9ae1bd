import { encodeCommand, RespClient } from './resp.js';
import { sleep } from './shell.js';

/** What a counting client has seen so far. Times are in milliseconds. */
export interface CounterReport {
  readonly replies: number;
  readonly lastReply: number;
  /** Increments that were confirmed and are gone; that were made once and counted more than once. */
  readonly lostWrites: number;
  readonly duplicatedWrites: number;
  /** Error replies, and the end of the connection. */
  readonly errors: readonly string[];
  readonly localPort: number;
  /** Redis's own number of this connection, asked over the connection itself. */
  readonly connectionId: number;
  /** The longest time from a request to its reply, or until now, and when it began (Unix time). */
  readonly longestStallMs: number;
  readonly longestStallAt: number;
  /** Every wait of 20 ms or more. */
  readonly stalls: readonly { readonly at: number; readonly ms: number }[];
}

const STALL_MS = 20;

/** Increments one key over one TCP connection, one request after the other without a pause between them, and holds
 *  Redis to its word: each reply must be one more than the one before. */
export class Counter {
  readonly #client: RespClient;
  readonly #request: string;
  readonly #localPort: number;
  readonly #pauseMs: number;
  #connectionId = 0;
  #replies = 0;
  #last = 0;
  #lost = 0;
  #duplicated = 0;
  #errors: string[] = [];
  #stalls: { at: number; ms: number }[] = [];
  #longest = { at: 0, ms: 0 };
  /** The request under way. */
  #asked: { at: number; start: number } | undefined;
  #running: Promise<void> | undefined;
  #stopping = false;

  private constructor(client: RespClient, key: string, pauseMs: number) {
    this.#client = client;
    this.#pauseMs = pauseMs;
    this.#request = encodeCommand(['INCR', key]);
    this.#localPort = client.socket.localPort ?? 0;
  }

  /** Connects, and starts counting from what `key` holds.
   *  @param pauseMs  between a reply and the next request, where many count on one machine */
  static async start(host: string, port: number, key: string, pauseMs = 0): Promise<Counter> {
    const client = await RespClient.open(host, port);
    const counter = new Counter(client, key, pauseMs);
    counter.#connectionId = Number(await client.command('CLIENT', 'ID'));
    counter.#last = Number(await client.command('GET', key));
    counter.#running = counter.#count();
    return counter;
  }

  async #count(): Promise<void> {
    while (!this.#stopping) {
      const at = Date.now();
      const start = performance.now();
      this.#asked = { at, start };
      let reply: unknown;
      try {
        reply = await this.#client.send(this.#request);
      } catch (error) {
        this.#errors.push(String(error));
        return;
      }
      this.#asked = undefined;
      this.#note(reply, at, performance.now() - start);
      if (this.#pauseMs > 0) await sleep(this.#pauseMs);
    }
  }

  #note(reply: unknown, at: number, ms: number): void {
    this.#replies += 1;
    if (ms >= STALL_MS) this.#stalls.push({ at, ms });
    if (ms > this.#longest.ms) this.#longest = { at, ms };
    if (typeof reply !== 'number') {
      this.#errors.push(String(reply));
      return;
    }
    this.#compare(reply, this.#last + 1);
    this.#last = reply;
  }

  #compare(found: number, expected: number): void {
    if (found < expected) this.#lost += expected - found;
    if (found > expected) this.#duplicated += found - expected;
  }

  report(): CounterReport {
    const waiting = this.#asked === undefined ? 0 : performance.now() - this.#asked.start;
    const longest =
      this.#asked !== undefined && waiting > this.#longest.ms
        ? { at: this.#asked.at, ms: waiting }
        : this.#longest;
    return {
      replies: this.#replies,
      lastReply: this.#last,
      lostWrites: this.#lost,
      duplicatedWrites: this.#duplicated,
      errors: this.#errors,
      localPort: this.#localPort,
      connectionId: this.#connectionId,
      longestStallMs: longest.ms,
      longestStallAt: longest.at,
      stalls: this.#stalls,
    };
  }

  /** Forgets the longest wait, so that the next report tells that of what comes now. */
  resetStalls(): void {
    this.#longest = { at: 0, ms: 0 };
    this.#stalls = [];
  }

  /** Stops counting, compares the key with the last reply, and asks over the same connection who it is.
   *  @returns whether the connection is still the one that was opened */
  async stop(key: string): Promise<{ report: CounterReport; sameConnection: boolean }> {
    this.#stopping = true;
    await this.#running;
    let sameConnection = false;
    if (this.#client.ended === undefined) {
      this.#compare(Number(await this.#client.command('GET', key)), this.#last);
      const id = Number(await this.#client.command('CLIENT', 'ID'));
      sameConnection =
        id === this.#connectionId && this.#client.socket.localPort === this.#localPort;
    }
    this.#client.close();
    return { report: this.report(), sameConnection };
  }
}
