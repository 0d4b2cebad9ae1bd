import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

export interface EchoReport {
  /** The longest time from a byte to its echo, or until now. */
  readonly longestStallMs: number;
  readonly errors: readonly string[];
}

/** Connections to a program that sends back what it gets. One of them has a byte under way all the time; the others are
 *  silent until they are asked whether they still work. */
export class Echo {
  readonly #sockets: readonly Socket[];
  #errors: string[] = [];
  #longest = 0;
  /** When the byte under way was sent. */
  #askedAt: number | undefined;
  #stopping = false;
  #running: Promise<void> | undefined;

  private constructor(sockets: readonly Socket[]) {
    this.#sockets = sockets;
    for (const socket of sockets) {
      socket.setNoDelay(true);
      socket.on('error', (error) => this.#errors.push(error.message));
    }
  }

  static async start(host: string, port: number, connections: number): Promise<Echo> {
    const sockets: Socket[] = [];
    for (let i = 0; i < connections; i += 1) {
      const socket = connect(port, host);
      await once(socket, 'connect');
      sockets.push(socket);
    }
    const echo = new Echo(sockets);
    echo.#running = echo.#keepAsking();
    return echo;
  }

  async #keepAsking(): Promise<void> {
    while (!this.#stopping) {
      const from = performance.now();
      this.#askedAt = from;
      if (!(await this.#ask(this.#sockets[0]!))) return;
      this.#askedAt = undefined;
      this.#longest = Math.max(this.#longest, performance.now() - from);
    }
  }

  /** Whether `socket` gave the byte back; what else came of it is among the errors. */
  async #ask(socket: Socket): Promise<boolean> {
    if (socket.destroyed) return false;
    socket.write('x');
    const end = new Promise<undefined>((resolve) => {
      socket.once('close', () => resolve(undefined));
      socket.once('data', () => socket.removeAllListeners('close'));
    });
    const data = once(socket, 'data').then(
      ([bytes]: Buffer[]) => bytes?.toString(),
      () => undefined,
    );
    const answer = await Promise.race([data, end]);
    if (answer === 'x') return true;
    this.#errors.push(answer === undefined ? 'a connection ended' : `"${answer}" came for "x"`);
    return false;
  }

  report(): EchoReport {
    const waiting = this.#askedAt === undefined ? 0 : performance.now() - this.#askedAt;
    return { longestStallMs: Math.max(this.#longest, waiting), errors: this.#errors };
  }

  reset(): void {
    this.#longest = 0;
  }

  /** Asks over every connection, then closes them all. */
  async stop(): Promise<EchoReport> {
    this.#stopping = true;
    await this.#running;
    for (const socket of this.#sockets.slice(1)) {
      if (!(await this.#ask(socket))) this.#errors.push('a connection does not answer');
    }
    for (const socket of this.#sockets) socket.destroy();
    return this.report();
  }
}
