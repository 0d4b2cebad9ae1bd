import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { ClientCalls } from './client-main.js';

const PROGRAM = fileURLToPath(new URL('./client-main.ts', import.meta.url));

interface Answer {
  readonly id?: number;
  readonly value?: unknown;
  readonly error?: string;
  readonly progress?: number;
  readonly ready?: boolean;
}

type Calls<C> = { readonly [N in keyof C]: (...args: never[]) => unknown };

/** A client on a machine of its own: a process in that machine's network namespace, called like an object. */
export class ClientMachine<C extends Calls<C> = ClientCalls> {
  /** Called with the number of keys set so far, while `fill` works. */
  onProgress: ((done: number) => void) | undefined;
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  #lastId = 0;

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.on('exit', (code, signal) => {
      for (const answer of this.#waiting.values()) {
        answer({ error: `The client program ended (${signal ?? code})` });
      }
    });
  }

  /** @param prefix  the words that have a command run on the machine (TestNetwork.on)
   *  @param script  the program that answers to C; one that talks to containers unless given */
  static start<C extends Calls<C> = ClientCalls>(
    prefix: readonly string[],
    env: NodeJS.ProcessEnv,
    script = PROGRAM,
  ): Promise<ClientMachine<C>> {
    const [program, ...args] = [...prefix, process.execPath, '--import', 'tsx', script];
    const child = spawn(program ?? '', args, { env, stdio: ['ignore', 2, 2, 'ipc'] });
    const machine = new ClientMachine<C>(child);
    return new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', (code) => reject(new Error(`The client program ended with ${code}`)));
      child.on('message', (answer: Answer) => {
        if (answer.ready === true) resolve(machine);
        if (answer.progress !== undefined) machine.onProgress?.(answer.progress);
        if (answer.id !== undefined) machine.#waiting.get(answer.id)?.(answer);
      });
    });
  }

  /** Has the machine do `name`; see ClientCalls for what there is. */
  call<Name extends keyof C & string>(
    name: Name,
    ...args: Parameters<C[Name]>
  ): Promise<Awaited<ReturnType<C[Name]>>> {
    this.#lastId += 1;
    const id = this.#lastId;
    return new Promise((resolve, reject) => {
      if (!this.#child.connected) {
        reject(new Error('The client program has ended'));
        return;
      }
      this.#waiting.set(id, (answer) => {
        this.#waiting.delete(id);
        if (answer.error !== undefined) reject(new Error(answer.error));
        else resolve(answer.value as Awaited<ReturnType<C[Name]>>);
      });
      this.#child.send({ id, name, args }, (error) => {
        if (error !== null) this.#waiting.get(id)?.({ error: String(error) });
      });
    });
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.disconnect();
    await ended;
  }
}
