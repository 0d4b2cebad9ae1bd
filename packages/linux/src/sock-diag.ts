import { FerryError } from '@ferry/core';
import { OwnedFd } from './fd.js';
import { call, sysError } from './sys.js';

/** A UNIX socket as the kernel lists it: sock_diag(7), unix_diag. */
export interface UnixDiag {
  readonly inode: number;
  readonly type: number;
  /** 1 established, 7 closed, 10 listening. */
  readonly state: number;
  /** sun_path as bound, without a path's final NUL; empty when it has no name. */
  readonly name: Buffer;
  /** Inode of the file its path named when it was bound. */
  readonly fileInode: number | undefined;
  /** Undefined when it was never connected; 0 when the peer was closed or never accepted. */
  readonly peer: number | undefined;
  /** Listening: inodes of the clients not accepted yet, 0 for those closed since. */
  readonly pending: readonly number[];
  /** Bytes to read; listening: connections waiting. */
  readonly received: number;
  /** Bytes sent and not read yet, as memory; listening: the backlog. */
  readonly sent: number;
  readonly shutdown: number;
}

/** A TCP or UDP socket: inet_diag. */
export interface InetDiag {
  readonly state: number;
  readonly localPort: number;
  readonly remotePort: number;
  /** 4 or 16 bytes. */
  readonly localAddress: Buffer;
  readonly remoteAddress: Buffer;
  /** 0 when no descriptor refers to it (not accepted yet). */
  readonly inode: number;
  readonly received: number;
  readonly shutdown: number;
}

const SOCK_DIAG_BY_FAMILY = 20;
const NLM_F_REQUEST_DUMP = 0x301;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const UDIAG_SHOW = { name: 1, vfs: 2, peer: 4, icons: 8, queueLength: 16 };

/** Every UNIX socket of the thread's network namespace. @throws SysError */
export function listUnixSockets(): UnixDiag[] {
  const { name, vfs, peer, icons, queueLength } = UDIAG_SHOW;
  const request = Buffer.alloc(24);
  request.writeUInt8(1, 0);
  request.writeUInt32LE(0xffffffff, 4);
  request.writeUInt32LE(name | vfs | peer | icons | queueLength, 12);
  const found: UnixDiag[] = [];
  dump(request, (message) => found.push(parseUnix(message)));
  return found;
}

/** Every socket of a family and protocol in the thread's network namespace that is in one of `states`, a mask of
 *  1 << state. @throws SysError ENOENT when the kernel has no diag module for it */
export function listInetSockets(kind: {
  family: number;
  protocol: number;
  states: number;
}): InetDiag[] {
  const request = Buffer.alloc(56);
  request.writeUInt8(kind.family, 0);
  request.writeUInt8(kind.protocol, 1);
  request.writeUInt32LE(kind.states, 4);
  const found: InetDiag[] = [];
  dump(request, (message) => found.push(parseInet(message)));
  return found;
}

function dump(payload: Buffer, take: (message: Buffer) => void): void {
  using socket = new OwnedFd(call('socket', 16, 3 | 0o2000000, 4 /* NETLINK_SOCK_DIAG */));
  const request = Buffer.alloc(16 + payload.length);
  request.writeUInt32LE(request.length, 0);
  request.writeUInt16LE(SOCK_DIAG_BY_FAMILY, 4);
  request.writeUInt16LE(NLM_F_REQUEST_DUMP, 6);
  payload.copy(request, 16);
  call('sendto', socket.number, request, request.length, 0, null, 0);
  const answer = Buffer.allocUnsafeSlow(64 * 1024);
  for (;;) {
    const total = call('recvfrom', socket.number, answer, answer.length, 0, null, null);
    for (let at = 0; at + 16 <= total; ) {
      const size = answer.readUInt32LE(at);
      const type = answer.readUInt16LE(at + 4);
      if (type === NLMSG_DONE) return;
      if (type === NLMSG_ERROR) {
        throw sysError('sock_diag', -answer.readInt32LE(at + 16), `family ${payload[0]}`);
      }
      if (size < 16) throw new FerryError('linux.netlink', 'A netlink message is cut short');
      take(answer.subarray(at + 16, at + size));
      at += (size + 3) & ~3;
    }
  }
}

function* attributes(message: Buffer, start: number): Generator<[number, Buffer]> {
  for (let at = start; at + 4 <= message.length; ) {
    const size = message.readUInt16LE(at);
    if (size < 4) return;
    yield [message.readUInt16LE(at + 2), message.subarray(at + 4, at + size)];
    at += (size + 3) & ~3;
  }
}

function parseUnix(message: Buffer): UnixDiag {
  let name = Buffer.alloc(0) as Buffer;
  let fileInode: number | undefined;
  let peer: number | undefined;
  let pending: number[] = [];
  let received = 0;
  let sent = 0;
  let shutdown = 0;
  for (const [type, value] of attributes(message, 16)) {
    if (type === 0) name = unixName(value);
    else if (type === 1) fileInode = value.readUInt32LE(0);
    else if (type === 2) peer = value.readUInt32LE(0);
    else if (type === 3) {
      pending = Array.from({ length: value.length / 4 }, (_, i) => value.readUInt32LE(i * 4));
    } else if (type === 4) {
      received = value.readUInt32LE(0);
      sent = value.readUInt32LE(4);
    } else if (type === 6) shutdown = value.readUInt8(0);
  }
  return {
    inode: message.readUInt32LE(4),
    type: message.readUInt8(1),
    state: message.readUInt8(2),
    name,
    fileInode,
    peer,
    pending,
    received,
    sent,
    shutdown,
  };
}

/** sun_path without the NUL that ends a path; a copy. */
export function unixName(path: Buffer): Buffer {
  if (path.length === 0 || path[0] === 0) return Buffer.from(path);
  const end = path.indexOf(0);
  return Buffer.from(end < 0 ? path : path.subarray(0, end));
}

function parseInet(message: Buffer): InetDiag {
  const size = message.readUInt8(0) === 2 ? 4 : 16;
  let shutdown = 0;
  for (const [type, value] of attributes(message, 72)) {
    if (type === 8) shutdown = value.readUInt8(0);
  }
  return {
    state: message.readUInt8(1),
    localPort: message.readUInt16BE(4),
    remotePort: message.readUInt16BE(6),
    localAddress: Buffer.from(message.subarray(8, 8 + size)),
    remoteAddress: Buffer.from(message.subarray(24, 24 + size)),
    received: message.readUInt32LE(56),
    inode: message.readUInt32LE(68),
    shutdown,
  };
}
