import { encodeCommand, RespClient } from './resp.js';

/** What a crowd of writing clients has seen. */
export interface WritersReport {
  readonly writes: number;
  readonly perSecond: number;
  readonly errors: readonly string[];
  /** The longest time from a request to its reply, over all connections. */
  readonly longestStallMs: number;
  /** Keys whose value at the end is not the last one that was confirmed. */
  readonly wrongKeys: number;
  readonly checkedKeys: number;
}

export interface WritersOptions {
  readonly connections: number;
  /** Of all connections together. */
  readonly writesPerSecond: number;
  readonly keys: number;
  readonly valueBytes: number;
}

const TICK_MS = 5;

/** Connections that each overwrite keys of their own, at random and at a steady rate, one request in flight each. */
export class Writers {
  readonly #clients: RespClient[];
  readonly #options: WritersOptions;
  readonly #values = new Map<number, number>();
  readonly #busy: boolean[];
  readonly #startedAt = performance.now();
  #timer: NodeJS.Timeout | undefined;
  #asked = 0;
  #writes = 0;
  #errors: string[] = [];
  #longest = 0;
  #next = 0;
  #measuredSince = performance.now();
  #measured = 0;

  private constructor(clients: RespClient[], options: WritersOptions) {
    this.#clients = clients;
    this.#options = options;
    this.#busy = clients.map(() => false);
  }

  static async start(host: string, port: number, options: WritersOptions): Promise<Writers> {
    const clients: RespClient[] = [];
    for (let i = 0; i < options.connections; i += 1)
      clients.push(await RespClient.open(host, port));
    const writers = new Writers(clients, options);
    writers.#timer = setInterval(() => writers.#tick(), TICK_MS);
    return writers;
  }

  /** As many writes as are due; none is made up for that could not be made in time. */
  #tick(): void {
    const due = (performance.now() - this.#startedAt) * (this.#options.writesPerSecond / 1000);
    let idle = this.#clients.length;
    while (this.#asked < due && idle > 0) {
      this.#next = (this.#next + 1) % this.#clients.length;
      idle -= 1;
      if (this.#busy[this.#next] === true) continue;
      this.#asked += 1;
      void this.#write(this.#next);
    }
    this.#asked = Math.max(this.#asked, due - this.#clients.length);
  }

  async #write(index: number): Promise<void> {
    const { connections, keys } = this.#options;
    const own = Math.floor((Math.random() * keys) / connections) * connections + index;
    const key = Math.min(own, keys - connections + index);
    const value = (this.#values.get(key) ?? 0) + 1;
    this.#busy[index] = true;
    const from = performance.now();
    try {
      const reply = await this.#clients[index]!.send(
        encodeCommand(['SET', `key:${key}`, this.#text(key, value)]),
      );
      if (reply !== 'OK') this.#errors.push(String(reply));
      this.#values.set(key, value);
      this.#writes += 1;
      this.#measured += 1;
      this.#longest = Math.max(this.#longest, performance.now() - from);
      this.#busy[index] = false;
    } catch (error) {
      this.#errors.push(String(error)); // and it stays busy: the connection is gone
    }
  }

  #text(key: number, value: number): string {
    return `${key}:${value}:`.padEnd(this.#options.valueBytes, 'abcdefghijklmnopqrstuvwxyz');
  }

  /** What was seen since the last report. */
  report(): Omit<WritersReport, 'wrongKeys' | 'checkedKeys'> {
    const seconds = (performance.now() - this.#measuredSince) / 1000;
    const report = {
      writes: this.#writes,
      perSecond: this.#measured / seconds,
      errors: this.#errors,
      longestStallMs: this.#longest,
    };
    this.#measuredSince = performance.now();
    this.#measured = 0;
    this.#longest = 0;
    return report;
  }

  /** Ends the writing and reads every key that was written. */
  async stop(): Promise<WritersReport> {
    clearInterval(this.#timer);
    while (this.#busy.some((busy) => busy) && this.#errors.length === 0) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    const report = this.report();
    let wrongKeys = 0;
    const [client] = this.#clients;
    for (const [key, value] of this.#values) {
      if ((await client!.command('GET', `key:${key}`)) !== this.#text(key, value)) wrongKeys += 1;
    }
    for (const each of this.#clients) each.close();
    return { ...report, wrongKeys, checkedKeys: this.#values.size };
  }
}
