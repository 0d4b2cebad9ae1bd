import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { join } from 'node:path';
import { FerryError, ferryRoot } from '@ferry/core';
import {
  abandonMessage,
  type CameIn,
  FROM_PAGER,
  type FromPager,
  figuresOf,
  nextMessage,
  type PagerFigures,
  type PagerSpace,
  pagesHead,
  plainMessage,
  rangeOf,
  spaceMessage,
  takeMessages,
  type WantedPages,
} from './pager-messages.js';

type Answer = Pick<FromPager, 'type' | 'body'>;

/** The agent's side of a pager (native/pager.c): the process that holds the userfaultfds of a container whose memory is
 *  not all here yet. It outlives the agent, and its connection; whoever connects gets to hear again what is wanted. */
export class Pager {
  readonly #socket: Socket;
  /** Questions that are not answered yet, oldest first. */
  readonly #asked: { resolve(answer: Answer): void; reject(error: Error): void }[] = [];
  #received = Buffer.alloc(0);
  #ended = false;
  #done: (figures: PagerFigures) => void = () => {};
  #fail: (error: Error) => void = () => {};
  /** Called for pages that threads wait for, and for what came damaged; more than once for the same if need be. */
  onWant: (wanted: WantedPages) => void = () => {};
  /** Resolves when nothing is missing any more; rejects when the connection ends before that. */
  readonly done: Promise<PagerFigures>;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.done = new Promise((resolve, reject) => {
      this.#done = resolve;
      this.#fail = reject;
    });
    this.done.catch(() => {}); // looked at by whoever waits for it
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.on('error', () => {}); // 'close' follows
    socket.on('close', () => this.#over());
  }

  /** Starts a pager that answers at `socketPath`.
   *  @param options.cgroup  folder whose processes it kills rather than let them run on without their memory */
  static async spawn(socketPath: string, options: { readonly cgroup: string }): Promise<Pager> {
    const program = join(ferryRoot(), 'packages', 'pages', 'build', 'ferry-pager');
    const child = spawn(program, [socketPath, options.cgroup], {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    });
    try {
      const words: Buffer[] = [];
      child.stderr.on('data', (chunk: Buffer) => words.push(chunk));
      const failed = once(child, 'close').then(() => {
        throw new FerryError('pages.pager', `No pager could be started: ${Buffer.concat(words)}`);
      });
      await Promise.race([once(child.stdout, 'data'), failed]);
      failed.catch(() => {}); // closing our ends below is not a failure
    } finally {
      child.stdout.destroy();
      child.stderr.destroy();
      child.unref();
    }
    return await Pager.connect(socketPath);
  }

  /** @throws Error ENOENT, ECONNREFUSED where there is none */
  static async connect(socketPath: string): Promise<Pager> {
    const socket = createConnection(socketPath);
    await once(socket, 'connect');
    return new Pager(socket);
  }

  get hasEnded(): boolean {
    return this.#ended;
  }

  /** From here on missing pages of the space are waited for.
   *  @throws FerryError pages.pager */
  async add(space: PagerSpace): Promise<void> {
    const { type, body } = await this.#ask(spaceMessage(space));
    if (type === FROM_PAGER.ready) return;
    const what = `${body.subarray(4)}: error ${body.readUInt32LE(0)}`;
    throw new FerryError(
      'pages.pager',
      `Memory of process ${space.pid} cannot come later: ${what}`,
    );
  }

  /** The next pages that nobody has asked for; undefined when there are none. */
  async next(pagesMax: number): Promise<WantedPages | undefined> {
    const { body } = await this.#ask(nextMessage(pagesMax));
    const range = rangeOf(body);
    return range.pages === 0 ? undefined : range;
  }

  async figures(): Promise<PagerFigures> {
    return figuresOf((await this.#ask(plainMessage('figures'))).body);
  }

  /** Hands over pages that have come. Resolves when more may come. */
  async put(pages: CameIn): Promise<void> {
    if (this.#ended) throw gone();
    this.#socket.write(pagesHead(pages));
    await new Promise<void>((resolve, reject) => {
      this.#socket.write(pages.data, (error) => (error ? reject(gone()) : resolve()));
    });
  }

  /** What was asked for will not come: it is wanted again. */
  askAgain(): void {
    if (!this.#ended) this.#socket.write(plainMessage('askAgain'));
  }

  /** Nothing is missing: the pager ends. Resolves when it has. */
  async end(): Promise<void> {
    await this.#finish(plainMessage('end'));
  }

  /** Ends the pager whatever is missing: nothing of the container has run, and nothing will. */
  async abandon(): Promise<void> {
    await this.#finish(abandonMessage());
  }

  async #finish(message: Buffer): Promise<void> {
    if (this.#ended) return;
    const closed = once(this.#socket, 'close');
    this.#socket.write(message);
    await closed;
  }

  /** Leaves the pager, which goes on. */
  disconnect(): void {
    this.#socket.destroy();
  }

  async #ask(question: Buffer): Promise<Answer> {
    if (this.#ended) throw gone();
    return await new Promise<Answer>((resolve, reject) => {
      this.#asked.push({ resolve, reject });
      this.#socket.write(question);
    });
  }

  #take(chunk: Buffer): void {
    const { messages, rest } = takeMessages(Buffer.concat([this.#received, chunk]));
    this.#received = Buffer.from(rest);
    for (const { type, body } of messages) {
      if (type === FROM_PAGER.want || type === FROM_PAGER.damaged) this.onWant(rangeOf(body));
      else if (type === FROM_PAGER.done) this.#done(figuresOf(body));
      else this.#asked.shift()?.resolve({ type, body });
    }
  }

  #over(): void {
    this.#ended = true;
    const error = gone();
    this.#fail(error);
    for (const { reject } of this.#asked.splice(0)) reject(error);
  }
}

function gone(): FerryError {
  return new FerryError('pages.pagerGone', 'The pager has gone', {
    remedy: 'look whether the container still runs: without its pager it is killed',
  });
}
