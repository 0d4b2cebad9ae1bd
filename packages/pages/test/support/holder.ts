import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Processes that hold memory; `close` ends them all. */
export class Holders {
  readonly #folder = mkdtempSync(join(tmpdir(), 'ferry-pages-'));
  readonly #children: ChildProcess[] = [];

  constructor() {
    execFileSync('cc', [
      '-O1',
      '-o',
      join(this.#folder, 'holder'),
      join(import.meta.dirname, 'holder.c'),
    ]);
  }

  /** A process with `pages` pages that it can reach, but for `hidden`. */
  async start(pages: number, hidden: readonly number[] = []): Promise<Holder> {
    const args = [pages, ...hidden].map(String);
    const child = spawn(join(this.#folder, 'holder'), args, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#children.push(child);
    const [line] = (await once(child.stdout, 'data')) as [Buffer];
    return new Holder(child.pid!, BigInt(line.toString().trim()), pages);
  }

  async close(): Promise<void> {
    for (const child of this.#children) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
    rmSync(this.#folder, { recursive: true });
  }
}

export class Holder {
  readonly pid: number;
  readonly address: bigint;
  readonly pages: number;

  constructor(pid: number, address: bigint, pages: number) {
    this.pid = pid;
    this.address = address;
    this.pages = pages;
  }

  /** What the memory holds. */
  read(): Buffer {
    const bytes = Buffer.alloc(this.pages * 4096);
    const fd = openSync(`/proc/${this.pid}/mem`, 'r');
    for (let at = 0; at < bytes.length; ) {
      at += readSync(fd, bytes, at, bytes.length - at, this.address + BigInt(at));
    }
    closeSync(fd);
    return bytes;
  }

  write(bytes: Buffer): void {
    const fd = openSync(`/proc/${this.pid}/mem`, 'r+');
    for (let at = 0; at < bytes.length; ) {
      at += writeSync(fd, bytes, at, bytes.length - at, Number(this.address) + at);
    }
    closeSync(fd);
  }
}
