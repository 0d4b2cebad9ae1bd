import { SysError } from '@ferry/core';
import { KernelMemory, KernelPages, KernelTypes } from '@ferry/linux';
import type { FileContext } from './context.js';

/** Of each listening socket: its backlog is far smaller, and a queue that is read wrongly may have no end. */
const CONNECTIONS_MAX = 65536;
const BUFFERS_MAX = 65536;
const BYTES_MAX = 64 * 1024 * 1024;

/** A connection that waits in a listening socket's queue. */
export interface Unaccepted {
  readonly buffers: readonly QueuedBuffer[];
  /** Something is in the queue that cannot be read whole: urgent data, memory of a device. */
  readonly isOdd: boolean;
}

export interface UnacceptedUnix extends Unaccepted {
  /** The name of the client, as bound. */
  readonly name: Buffer;
  /** struct ucred, as SO_PEERCRED will tell them. */
  readonly credentials: Buffer;
}

export interface UnacceptedTcp extends Unaccepted {
  /** What sock_diag(7) calls it, once that has listed it. */
  readonly cookie: bigint;
  /** The first byte to be read, and the one after the last. */
  readonly copiedSequence: number;
  readonly receiveSequence: number;
}

/** What one call has sent (UNIX), or one segment (TCP). */
export interface QueuedBuffer {
  readonly data: Buffer;
  /** Of the first byte: TCP. */
  readonly sequence: number;
  /** struct ucred of the sender: UNIX. */
  readonly credentials: Buffer;
  /** Descriptions are in flight with it: UNIX. */
  readonly hasRights: boolean;
}

/** Connections that nobody has accepted yet, in the order in which they will be, with what their clients have sent
 *  already. No system call tells that of a socket that has no descriptor, so it is read where the kernel has it, which
 *  changes nothing. The tree must be frozen: nobody accepts or sends meanwhile. */
export class UnacceptedReader {
  readonly #memory: KernelMemory;
  #pages: KernelPages | undefined;

  private constructor(memory: KernelMemory) {
    this.#memory = memory;
  }

  /** Learns beforehand, while the tree runs, what takes longest: how the kernel lays out its memory. */
  static prepare(): void {
    KernelTypes.read();
  }

  /** @returns undefined where the kernel does not let its memory be read, or does not describe it */
  static of(ctx: FileContext): UnacceptedReader | undefined {
    return ctx.shared('unaccepted', () => {
      const memory = KernelMemory.open();
      if (memory === undefined) return undefined;
      ctx.onRelease(() => memory[Symbol.dispose]());
      return new UnacceptedReader(memory);
    });
  }

  /** @param fd  a duplicate of a listening UNIX socket
   *  @returns undefined when they cannot be read */
  unix(fd: number): UnacceptedUnix[] | undefined {
    return this.#try(() => {
      const listener = this.#socketOf(fd);
      return this.#queue(listener).map((buffer) => {
        const socket = this.#memory.long(buffer, 'sk_buff', 'sk');
        return { ...this.#unixQueue(socket), ...this.#peerOf(socket) };
      });
    });
  }

  /** @param fd  a duplicate of a listening TCP socket
   *  @returns undefined when they cannot be read */
  tcp(fd: number): UnacceptedTcp[] | undefined {
    const memory = this.#memory;
    return this.#try(() => {
      const listener = this.#socketOf(fd);
      const found: UnacceptedTcp[] = [];
      let request = memory.long(
        listener,
        'inet_connection_sock',
        'icsk_accept_queue.rskq_accept_head',
      );
      for (; request !== 0n; request = memory.long(request, 'request_sock', 'dl_next')) {
        if (found.length > CONNECTIONS_MAX) throw new RangeError('endless');
        found.push(this.#tcpQueue(memory.long(request, 'request_sock', 'sk')));
      }
      return found;
    });
  }

  #try<T>(look: () => T): T | undefined {
    try {
      return look();
    } catch (error) {
      if (error instanceof SysError || error instanceof RangeError) return undefined;
      throw error;
    }
  }

  #socketOf(fd: number): bigint {
    const socket = this.#memory.long(this.#memory.file(fd), 'file', 'private_data');
    return this.#memory.long(socket, 'socket', 'sk');
  }

  #unixQueue(socket: bigint): Unaccepted {
    const memory = this.#memory;
    const buffers = this.#queue(socket).map((buffer) => {
      const control = memory.at(buffer, 'sk_buff', 'cb');
      const sender = memory.long(control, 'unix_skb_parms', 'pid');
      const [uid, gid] = ['uid', 'gid'].map((id) => memory.word(control, 'unix_skb_parms', id));
      return {
        data: this.#dataOf(buffer),
        sequence: 0,
        credentials: ucred(this.#pidOf(sender), uid!, gid!),
        hasRights: memory.long(control, 'unix_skb_parms', 'fp') !== 0n,
      };
    });
    // Kernels without urgent data have no such member.
    const canBeUrgent = memory.types.offsetOf('unix_sock', 'oob_skb') !== undefined;
    const isOdd = canBeUrgent && memory.long(socket, 'unix_sock', 'oob_skb') !== 0n;
    return { buffers, isOdd };
  }

  /** What the server will see of its client. */
  #peerOf(socket: bigint): Pick<UnacceptedUnix, 'name' | 'credentials'> {
    const memory = this.#memory;
    const client = memory.long(socket, 'unix_sock', 'peer');
    const address = memory.long(client, 'unix_sock', 'addr');
    const identity = memory.long(socket, 'sock', 'sk_peer_cred');
    const pid = this.#pidOf(memory.long(socket, 'sock', 'sk_peer_pid'));
    const [uid, gid] = ['euid', 'egid'].map((id) => memory.word(identity, 'cred', id));
    return { name: this.#nameAt(address), credentials: ucred(pid, uid!, gid!) };
  }

  /** struct unix_address: the name begins with its family. */
  #nameAt(address: bigint): Buffer {
    if (address === 0n) return Buffer.alloc(0);
    const length = this.#memory.word(address, 'unix_address', 'len');
    if (length < 2 || length > 110) throw new RangeError('no name');
    return this.#memory.read(this.#memory.at(address, 'unix_address', 'name') + 2n, length - 2);
  }

  /** The number that our own PID namespace has for a process; 0 for none. */
  #pidOf(pid: bigint): number {
    if (pid === 0n) return 0;
    const memory = this.#memory;
    const own = memory.long(memory.currentTask(), 'task_struct', 'thread_pid');
    const level = memory.word(own, 'pid', 'level');
    if (memory.word(pid, 'pid', 'level') < level) return 0;
    const size = memory.types.sizeOf('upid') ?? 0;
    return memory.word(memory.at(pid, 'pid', 'numbers') + BigInt(level * size), 'upid', 'nr');
  }

  #tcpQueue(socket: bigint): UnacceptedTcp {
    const memory = this.#memory;
    const buffers = this.#queue(socket).map((buffer) => {
      const control = memory.at(buffer, 'sk_buff', 'cb');
      const sequence = memory.word(control, 'tcp_skb_cb', 'seq');
      return {
        data: this.#dataOf(buffer),
        sequence,
        credentials: Buffer.alloc(0),
        hasRights: false,
      };
    });
    return {
      cookie: memory.long(socket, 'sock', '__sk_common.skc_cookie'),
      buffers,
      isOdd: (memory.word(socket, 'tcp_sock', 'urg_data') & 0xffff) !== 0,
      copiedSequence: memory.word(socket, 'tcp_sock', 'copied_seq'),
      receiveSequence: memory.word(socket, 'tcp_sock', 'rcv_nxt'),
    };
  }

  /** What waits in a socket to be received: struct sk_buff. */
  #queue(socket: bigint): bigint[] {
    const memory = this.#memory;
    const head = memory.at(socket, 'sock', 'sk_receive_queue');
    const found: bigint[] = [];
    let at = memory.long(head, 'sk_buff_head', 'next');
    for (; at !== head; at = memory.long(at, 'sk_buff', 'next')) {
      if (found.push(at) > BUFFERS_MAX) throw new RangeError('endless');
    }
    return found;
  }

  /** A buffer's bytes: those that are in one piece with it, those in pages, and those in further buffers. */
  #dataOf(buffer: bigint): Buffer {
    const memory = this.#memory;
    const length = memory.word(buffer, 'sk_buff', 'len');
    const apart = memory.word(buffer, 'sk_buff', 'data_len');
    if (length > BYTES_MAX || apart > length) throw new RangeError('no length');
    const parts = [memory.read(memory.long(buffer, 'sk_buff', 'data'), length - apart)];
    if (apart > 0) parts.push(...this.#apart(buffer));
    const data = Buffer.concat(parts);
    if (data.length !== length) throw new RangeError('another length');
    return data;
  }

  #apart(buffer: bigint): Buffer[] {
    const memory = this.#memory;
    const end = memory.word(buffer, 'sk_buff', 'end');
    const shared = memory.long(buffer, 'sk_buff', 'head') + BigInt(end);
    const count = memory.word(shared, 'skb_shared_info', 'nr_frags') & 0xff;
    const size = memory.types.sizeOf('skb_frag') ?? 0;
    const first = memory.at(shared, 'skb_shared_info', 'frags');
    const parts = Array.from({ length: count }, (_, i) => this.#fragment(first + BigInt(i * size)));
    const next = memory.long(shared, 'skb_shared_info', 'frag_list');
    for (let at = next; at !== 0n; at = memory.long(at, 'sk_buff', 'next')) {
      if (parts.push(this.#dataOf(at)) > BUFFERS_MAX) throw new RangeError('endless');
    }
    return parts;
  }

  #fragment(at: bigint): Buffer {
    const memory = this.#memory;
    const page = memory.long(at, 'skb_frag', 'netmem');
    // The lowest bit says that it is memory of a device.
    if ((page & 1n) !== 0n) throw new RangeError('no page');
    this.#pages ??= new KernelPages(memory);
    const [offset, length] = ['offset', 'len'].map((part) => memory.word(at, 'skb_frag', part));
    return this.#pages.read(page, offset!, length!);
  }
}

/** struct ucred */
function ucred(pid: number, uid: number, gid: number): Buffer {
  const raw = Buffer.alloc(12);
  raw.writeInt32LE(pid, 0);
  raw.writeUInt32LE(uid, 4);
  raw.writeUInt32LE(gid, 8);
  return raw;
}
