import { type ChildProcess, spawn } from 'node:child_process';
import { FerryError } from '@ferry/core';
import type { TracerAnswer, TracerRequest, TracerResults } from './tracer-protocol.js';

/** How to start a tracer: Node's own arguments and the program. */
export interface TracerCommand {
  readonly execArgv: readonly string[];
  readonly script: string;
}

type Result<R extends TracerRequest> = TracerResults[R['method']];

/** A request that takes longer has hung: its tracer is killed, and the kernel lets the tree go. */
const ANSWER_MS_MAX = 60_000;

/** The agent's side of a tracer process. Calls are made one after the other. */
export class Tracer {
  readonly #child: ChildProcess;
  readonly #ended: Promise<string>;
  #hasEnded = false;
  #last: Promise<unknown> = Promise.resolve();

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.#ended = new Promise((resolve) => {
      const end = (how: string) => {
        this.#hasEnded = true;
        resolve(how);
      };
      child.once('error', (error) => end(error.message));
      child.once('exit', (status, signal) => end(signal ?? `status ${status}`));
    });
  }

  static spawn(command: TracerCommand): Tracer {
    const child = spawn(process.execPath, [...command.execArgv, command.script], {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      serialization: 'advanced',
    });
    return new Tracer(child);
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Resolves with how the process ended, whenever it does. */
  get ended(): Promise<string> {
    return this.#ended;
  }

  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** @throws FerryError as the capture throws it; tracer.ended */
  async ask<R extends TracerRequest>(request: R): Promise<Result<R>> {
    const before = this.#last;
    const mine = (async () => {
      await before;
      return await this.#ask(request);
    })();
    this.#last = mine.catch(() => {});
    return (await mine) as Result<R>;
  }

  async #ask(request: TracerRequest): Promise<unknown> {
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), ANSWER_MS_MAX);
    try {
      const answer = await Promise.race([this.#exchange(request), this.#ended]);
      if (typeof answer === 'string') {
        throw new FerryError(
          'tracer.ended',
          `The tracer ended (${answer}) while asked to ${request.method}`,
          { remedy: 'look at the log of the agent; the container runs on' },
        );
      }
      if (answer.ok) return answer.result;
      const { code, message, remedy } = answer;
      throw new FerryError(code, message, remedy === undefined ? {} : { remedy });
    } finally {
      clearTimeout(timer);
    }
  }

  #exchange(request: TracerRequest): Promise<TracerAnswer> {
    return new Promise((resolve, reject) => {
      const take = (answer: TracerAnswer) => resolve(answer);
      this.#child.once('message', take);
      if (this.#hasEnded) return;
      this.#child.send(request, (error) => {
        if (error === null) return;
        this.#child.off('message', take);
        // Its end says why.
        void this.#ended.then((how) =>
          reject(new FerryError('tracer.ended', `The tracer ended (${how})`)),
        );
      });
    });
  }

  /** Ends the process; a tree that it still holds runs on, unless it was committed. */
  async close(): Promise<void> {
    if (this.#hasEnded) return;
    if (this.#child.connected) this.#child.disconnect();
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), 5000);
    await this.#ended;
    clearTimeout(timer);
  }
}
