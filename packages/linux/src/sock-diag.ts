import { NETLINK_HEADER, netlinkAttributes, netlinkDump } from './netlink.js';

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
  /** The kernel's name for it, which no other socket ever has. */
  readonly cookie: bigint;
  /** It has keys of TCP_MD5SIG. Told when asked for, and with CAP_NET_ADMIN. */
  readonly hasKeys: boolean;
}

/** A packet socket: packet_diag. */
export interface PacketDiag {
  readonly inode: number;
  /** ETH_P_* */
  readonly protocol: number;
  readonly memberships: readonly {
    index: number;
    count: number;
    type: number;
    address: Buffer;
  }[];
  /** In the form of struct tpacket_req3; empty without a ring. */
  readonly receiveRing: Buffer;
  readonly sendRing: Buffer;
}

const SOCK_DIAG_BY_FAMILY = 20;
const NETLINK_SOCK_DIAG = 4;
/** linux/inet_diag.h */
const INET_DIAG = { info: 2, shutdown: 8, md5Signature: 18 } as const;
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
  /** Whether `hasKeys` is wanted, which makes answers much longer. */
  withKeys?: boolean;
}): InetDiag[] {
  const request = Buffer.alloc(56);
  request.writeUInt8(kind.family, 0);
  request.writeUInt8(kind.protocol, 1);
  // Keys come with struct tcp_info: inet_sk_diag_fill, net/ipv4/inet_diag.c.
  if (kind.withKeys === true) request.writeUInt8(1 << (INET_DIAG.info - 1), 2);
  request.writeUInt32LE(kind.states, 4);
  const found: InetDiag[] = [];
  dump(request, (message) => found.push(parseInet(message)));
  return found;
}

/** Every packet socket of the thread's network namespace. @throws SysError ENOENT when the kernel has no diag module */
export function listPacketSockets(): PacketDiag[] {
  const SHOW_MEMBERSHIPS_AND_RINGS = 6;
  const request = Buffer.alloc(20);
  request.writeUInt8(17, 0);
  request.writeUInt32LE(SHOW_MEMBERSHIPS_AND_RINGS, 8);
  const found: PacketDiag[] = [];
  dump(request, (message) => found.push(parsePacket(message)));
  return found;
}

/** struct packet_diag_mclist: index, count, type, address length, address */
const MEMBERSHIP_SIZE = 44;

function parsePacket(message: Buffer): PacketDiag {
  const NOTHING = Buffer.alloc(0);
  let [receiveRing, sendRing] = [NOTHING, NOTHING];
  const memberships: { index: number; count: number; type: number; address: Buffer }[] = [];
  for (const [type, value] of netlinkAttributes(message, 16)) {
    if (type === 2) receiveRing = Buffer.from(value);
    else if (type === 3) sendRing = Buffer.from(value);
    if (type !== 1) continue;
    for (let at = 0; at + MEMBERSHIP_SIZE <= value.length; at += MEMBERSHIP_SIZE) {
      const length = value.readUInt16LE(at + 10);
      memberships.push({
        index: value.readUInt32LE(at),
        count: value.readUInt32LE(at + 4),
        type: value.readUInt16LE(at + 8),
        address: Buffer.from(value.subarray(at + 12, at + 12 + length)),
      });
    }
  }
  const protocol = message.readUInt16LE(2);
  return { inode: message.readUInt32LE(4), protocol, memberships, receiveRing, sendRing };
}

function dump(payload: Buffer, take: (message: Buffer) => void): void {
  const found = netlinkDump(NETLINK_SOCK_DIAG, { type: SOCK_DIAG_BY_FAMILY, payload });
  for (const message of found) take(message.subarray(NETLINK_HEADER));
}

function parseUnix(message: Buffer): UnixDiag {
  let name = Buffer.alloc(0) as Buffer;
  let fileInode: number | undefined;
  let peer: number | undefined;
  let pending: number[] = [];
  let received = 0;
  let sent = 0;
  let shutdown = 0;
  for (const [type, value] of netlinkAttributes(message, 16)) {
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
  let hasKeys = false;
  for (const [type, value] of netlinkAttributes(message, 72)) {
    if (type === INET_DIAG.shutdown) shutdown = value.readUInt8(0);
    else if (type === INET_DIAG.md5Signature) hasKeys = true;
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
    cookie: message.readBigUInt64LE(44),
    hasKeys,
  };
}
