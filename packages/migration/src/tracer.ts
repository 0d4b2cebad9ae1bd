import { type ChildProcess, spawn } from 'node:child_process';
import type { Writable } from 'node:stream';
import { FerryError } from '@ferry/core';
import {
  encodeNetworkWord,
  NETWORK_FD,
  type NetworkWord,
  type TracerAnswer,
  type TracerRequest,
  type TracerResults,
} from './tracer-protocol.js';

/** How to start a tracer: Node's own arguments and the program. */
export interface TracerCommand {
  readonly execArgv: readonly string[];
  readonly script: string;
}

type Result<R extends TracerRequest> = TracerResults[R['method']];

/** A request that takes longer has hung: its tracer is killed, and the kernel lets the tree go. */
const ANSWER_MS_MAX = 60_000;

interface Asked {
  readonly resolve: (answer: TracerAnswer) => void;
  readonly reject: (error: Error) => void;
}

/** The agent's side of a tracer process. It does what it is asked one after the other; who asks need not wait in between. */
export class Tracer {
  readonly #child: ChildProcess;
  readonly #ended: Promise<string>;
  #hasEnded = false;
  #cuts = 0;
  /** Without an answer yet, in the order in which they were asked. */
  readonly #asked: Asked[] = [];

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.on('message', (answer: TracerAnswer) => this.#asked.shift()?.resolve(answer));
    child.stdio[NETWORK_FD]?.on('error', () => {}); // its end is known by other means
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
      stdio: ['ignore', 'ignore', 'inherit', 'ipc', 'pipe'],
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
      if (answer.ok) return answer.result as Result<R>;
      const { code, message, remedy } = answer;
      throw new FerryError(code, message, remedy === undefined ? {} : { remedy });
    } finally {
      clearTimeout(timer);
    }
  }

  #exchange(request: TracerRequest): Promise<TracerAnswer> {
    return new Promise((resolve, reject) => {
      if (this.#hasEnded) return;
      this.#asked.push({ resolve, reject });
      this.#child.send(request, (error) => {
        if (error === null) return;
        // Its end says why.
        void this.#ended.then((how) =>
          reject(new FerryError('tracer.ended', `The tracer ended (${how})`)),
        );
      });
    });
  }

  /** The number of a cut of the network that a capture is to wait for: `networkIsCut`. */
  newCut(): number {
    return ++this.#cuts;
  }

  /** @param word.done  nothing reaches the container any more; else the capture fails */
  networkIsCut(word: NetworkWord): void {
    (this.#child.stdio[NETWORK_FD] as Writable | null | undefined)?.write(encodeNetworkWord(word));
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
