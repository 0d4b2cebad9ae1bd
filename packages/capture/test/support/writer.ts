import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { childrenOf } from '@ferry/linux';

/** Where the program's memory begins. */
export const WRITER_START = 0x500000000000n;

/** Compiles writer.c, or another program that takes orders; `close` removes it and ends what was started of it. */
export class Writers {
  readonly #folder = mkdtempSync(join(tmpdir(), 'ferry-writer-'));
  readonly #running: Writer[] = [];

  constructor(program = 'writer.c') {
    const source = join(import.meta.dirname, program);
    execFileSync('cc', ['-O1', '-o', join(this.#folder, 'writer'), source]);
  }

  async start(...args: readonly (string | number)[]): Promise<Writer> {
    const child = spawn(join(this.#folder, 'writer'), args.map(String), {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const writer = new Writer(child);
    this.#running.push(writer);
    await writer.line();
    return writer;
  }

  async close(): Promise<void> {
    for (const writer of this.#running) await writer.end();
    rmSync(this.#folder, { recursive: true });
  }
}

/** One that runs. */
export class Writer {
  readonly #child: ChildProcess;
  readonly #lines: Interface;
  readonly #iterator: AsyncIterator<string>;

  constructor(child: ChildProcess) {
    this.#child = child;
    this.#lines = createInterface({ input: child.stdout! });
    this.#iterator = this.#lines[Symbol.asyncIterator]();
  }

  get pid(): number {
    return this.#child.pid!;
  }

  async line(): Promise<string> {
    return String((await this.#iterator.next()).value);
  }

  /** Has it do something to a page, and waits until it has. */
  async do(word: string, page = 0): Promise<string> {
    this.#child.stdin!.write(`${word} ${page}\n`);
    return await this.line();
  }

  async end(): Promise<void> {
    const { pid } = this;
    const children = childrenOf(pid, [pid]);
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill('SIGKILL');
      await once(this.#child, 'exit');
    }
    for (const child of children) process.kill(child, 'SIGKILL');
    this.#lines.close();
  }
}
