import { OwnedFd, readLink, SO, SOL, sys } from '@ferry/linux';
import type { Descriptor } from './context.js';
import { isTun } from './tun.js';

const SIOCGSKNS = 0x894c;

/** A network namespace that sockets of the tree belong to. */
export interface SocketNetwork {
  /** "net:[4026531840]" */
  readonly link: string;
  /** A way into it: a path, good until disposal. */
  readonly path: string;
}

/** To which network namespace a socket, or a queue of a tun device, belongs: that in which it was made, wherever its process is now. */
export class SocketNetworks implements Disposable {
  readonly #byCookie = new Map<bigint, SocketNetwork>();
  readonly #open: OwnedFd[] = [];

  /** undefined where the kernel does not tell: before Linux 5.14, or without CAP_NET_ADMIN. */
  of(descriptor: Descriptor): SocketNetwork | undefined {
    const cookie = cookieOf(descriptor);
    if (cookie === undefined && !isTun(descriptor)) return undefined;
    const known = cookie === undefined ? undefined : this.#byCookie.get(cookie);
    if (known !== undefined) return known;
    const opened = sys('ioctl', descriptor.dup().number, SIOCGSKNS, 0);
    if (opened < 0) return undefined;
    const fd = new OwnedFd(opened);
    this.#open.push(fd);
    const path = `/proc/self/fd/${fd.number}`;
    const network = { link: readLink(path), path };
    if (cookie !== undefined) this.#byCookie.set(cookie, network);
    return network;
  }

  [Symbol.dispose](): void {
    for (const fd of this.#open.splice(0)) fd[Symbol.dispose]();
  }
}

const value = Buffer.alloc(8);
const length = Buffer.alloc(4);

function cookieOf(descriptor: Descriptor): bigint | undefined {
  length.writeUInt32LE(value.length, 0);
  const fd = descriptor.dup().number;
  const result = sys('getsockopt', fd, SOL.socket, SO.netnsCookie, value, length);
  return result < 0 ? undefined : value.readBigUInt64LE(0);
}
