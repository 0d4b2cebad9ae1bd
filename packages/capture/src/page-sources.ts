import type { PageRead } from '@ferry/dumpbin';
import { call, cString, OwnedFd, sys, sysError } from '@ferry/linux';

/** Files of which the pages of a frozen tree are read, open until they are closed together. */
export class PageSources {
  readonly #open = new Map<string, OwnedFd>();
  readonly #pathOf: (pid: number, sharedMemoryId: number) => string;

  /** @param pathOf  the file with the memory of a process, or with an object of shared memory when the id is not 0 */
  constructor(pathOf: (pid: number, sharedMemoryId: number) => string) {
    this.#pathOf = pathOf;
  }

  /** Reads a run of pages, from `offset` bytes into it. What is past the end of an object is zeros.
   *  @throws SysError when the memory cannot be read */
  read(pid: number, read: PageRead, offset: number, into: Buffer): void {
    const source = this.#of(pid, read.sharedMemoryId);
    const at = Number(read.address) + offset;
    for (let done = 0; done < into.length; ) {
      const n = sys('pread64', source.number, into.subarray(done), into.length - done, at + done);
      if (n < 0) throw sysError('pread64', -n, `memory of process ${pid}`);
      if (n === 0) {
        into.fill(0, done); // the last page of an object that ends within it
        return;
      }
      done += n;
    }
  }

  close(): void {
    for (const fd of this.#open.values()) fd[Symbol.dispose]();
    this.#open.clear();
  }

  #of(pid: number, sharedMemoryId: number): OwnedFd {
    const key = sharedMemoryId === 0 ? `process ${pid}` : `object ${sharedMemoryId}`;
    const known = this.#open.get(key);
    if (known !== undefined) return known;
    const fd = new OwnedFd(call('open', cString(this.#pathOf(pid, sharedMemoryId)), 0o2000000, 0));
    this.#open.set(key, fd);
    return fd;
  }
}
