import { close } from 'node:fs';
import { call, sys } from './sys.js';

/** A descriptor of our own that is closed with its scope (`using`). */
export class OwnedFd implements Disposable {
  #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** The number; throws once closed. */
  get number(): number {
    if (this.#fd < 0) throw new Error('The descriptor was closed');
    return this.#fd;
  }

  /** Gives up ownership. */
  release(): number {
    const fd = this.number;
    this.#fd = -1;
    return fd;
  }

  /** Closes it on another thread, for what takes long to close. */
  closeElsewhere(): void {
    if (this.#fd >= 0) close(this.release(), () => {});
  }

  [Symbol.dispose](): void {
    if (this.#fd >= 0) sys('close', this.#fd);
    this.#fd = -1;
  }
}

/** A NUL-terminated path for the kernel. */
export function cString(text: string): Buffer {
  return Buffer.from(`${text}\0`, 'utf8');
}

const PIDFD_THREAD = 0o200;

/** pidfd_open(2), of a process or of one thread (Linux 6.9). */
export function pidfdOpen(pid: number): OwnedFd {
  const fd = sys('pidfd_open', pid, 0);
  return new OwnedFd(fd >= 0 ? fd : call('pidfd_open', pid, PIDFD_THREAD));
}

/** A duplicate, in this process, of another process's descriptor: pidfd_getfd(2). The open file description is shared:
 *  what changes its state (position, flags, options) the other process sees. */
export function pidfdGetFd(pidfd: OwnedFd, fd: number): OwnedFd {
  return new OwnedFd(call('pidfd_getfd', pidfd.number, fd, 0));
}
