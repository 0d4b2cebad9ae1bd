import type { FileObject, InetSocket, SocketOption, TreeImage } from '@ferry/image';
import type { ProgramBuilder } from '../program.js';
import { CHANGEABLE, F_SETFL, O_ASYNC, O_NONBLOCK } from './common.js';
import type { EmitContext, FileEmitter } from './emit.js';
import { inetText, localOf, remoteOf } from './inet-address.js';
import {
  constant,
  emitBuffers,
  emitIntOption,
  emitOption,
  emitPacketFilter,
  emitSocketFlags,
  isFilterLock,
  SOL,
} from './socket-options.js';
import { emitClosedConnection } from './tcp-closed.js';
import { emitConnected, emitGoOn, emitHalves, emitReuse } from './tcp-repair.js';
import { emitClosedClient, emitEarly, sentBy } from './tcp-waiting.js';
import { emitDatagramQueue, emitMemberships, emitUdpShutdown } from './udp-socket.js';

const SOCK_CLOEXEC = 0o2000000;
const SO_REUSEADDR = 2;
const SO_BROADCAST = 6;
const SO_REUSEPORT = 15;
const SO_MARK = 36;
const SO_BINDTODEVICE = 25;
/** IP_FREEBIND and IPV6_FREEBIND by family. */
const FREEBIND: Record<number, { level: number; name: number }> = {
  2: { level: SOL.ip, name: 15 },
  10: { level: SOL.ipv6, name: 78 },
};
const FIN_WAIT = [4, 5];
const SHUT_WR = 1;
const SOCK_STREAM = 1;
const TCP = { close: 7, listen: 10, synSent: 2, established: 1 } as const;
const ENOENT = 2;
const TCP_CONGESTION = 13;
/** Only before anything is done with a socket. */
const TCP_FASTOPEN_CONNECT = 30;
const TCP_REPAIR = 19;
const TCP_REPAIR_QUEUE = 20;
const TCP_QUEUE_SEQ = 21;
const REPAIR_OFF_SILENTLY = -1;
const SEND_QUEUE = 2;

/** TCP, UDP, raw and listening MPTCP sockets. All are bound first, with SO_REUSEADDR, so that their order does not matter;
 *  connections come back in repair mode, and go on when the tree does. */
export const inetSocketEmitter: FileEmitter = {
  create(b, file, ctx) {
    const socket = socketOf(file);
    const name = inetText(file.id, socket);
    const fd = ctx.fdOf(file.id);
    const slot = b.slotFor('socket');
    const type = socket.type | SOCK_CLOEXEC;
    b.sys('socket', [socket.family, type, socket.protocol], `make ${name}`, { into: slot });
    b.moveFd(slot, fd, name);
    for (const option of socket.options.filter(isNeededToBind)) emitOption(b, fd, option, name);
    if (isRepaired(socket, ctx.image)) {
      emitConnected(b, socket, { fd, name });
      return;
    }
    emitBind(b, socket, { fd, name });
    if (socket.type !== SOCK_STREAM && isConnected(socket)) emitConnect(b, socket, fd, name);
    if (socket.state === TCP.synSent) emitSequence(b, socket, fd, name);
  },
  connect(b, file, ctx) {
    const socket = socketOf(file);
    const name = inetText(file.id, socket);
    const fd = ctx.fdOf(file.id);
    if (socket.state === TCP.listen) emitListen(b, socket, { fd, name, ctx });
    const isDatagram = socket.type !== SOCK_STREAM;
    if (isDatagram) {
      emitMemberships(b, socket, { fd, name });
      emitDatagramQueue(b, socket, { fd, name });
    }
    if (socket.wasConnected) emitClosedConnection(b, socket, { fd, name });
    const repaired = isRepaired(socket, ctx.image);
    if (repaired) emitHalves(b, socket, { fd, name });
    const all = isConnectedTcp(socket) || socket.receiveQueue.length > 0;
    emitSettings(b, socket, { fd, name, all });
    if (!repaired) emitReuse(b, socket, { fd, name });
    if (isDatagram) emitUdpShutdown(b, socket, { fd, name });
    emitSocketFlags(b, file, fd);
  },
  // From here on the tree runs: nothing may fail, not even for a peer that is gone.
  resume(b, file, ctx) {
    const socket = socketOf(file);
    const name = inetText(file.id, socket);
    const fd = ctx.fdOf(file.id);
    if (isRepaired(socket, ctx.image)) emitGoOn(b, socket, { fd, name });
    if (socket.state !== TCP.synSent) return;
    b.sys('fcntl', [fd, F_SETFL, O_NONBLOCK], `connect ${name}`);
    const at = remoteOf(socket);
    b.sys('connect', [fd, constant(b, at), at.length], `connect ${name}`, { expect: 'any' });
    b.sys('fcntl', [fd, F_SETFL, file.flags & (CHANGEABLE | O_ASYNC)], `connect ${name}`);
  },
};

/** Listens, and has those clients of the tree connect that were not accepted yet. */
function emitListen(
  b: ProgramBuilder,
  socket: InetSocket,
  { fd, name, ctx }: { fd: number; name: string; ctx: EmitContext },
): void {
  b.sys('listen', [fd, socket.backlog], `listen on ${name}`);
  for (const [i, inode] of socket.pendingInodes.entries()) {
    const file = inode === 0n ? undefined : byInode(ctx.image).get(inode);
    const waiting = socket.waiting[i];
    if (file === undefined) {
      if (waiting !== undefined) emitClosedClient(b, waiting, name);
      continue;
    }
    const client = socketOf(file);
    const to = ctx.fdOf(file.id);
    const clientName = inetText(file.id, client);
    emitConnect(b, client, to, clientName);
    if (waiting !== undefined) emitEarly(b, sentBy(client, waiting), to, clientName);
    if (FIN_WAIT.includes(client.state)) {
      b.sys('shutdown', [to, SHUT_WR], `shut down ${clientName}`);
    }
  }
}

const inodes = new WeakMap<TreeImage, Map<bigint, FileObject>>();

function byInode(image: TreeImage): Map<bigint, FileObject> {
  let known = inodes.get(image);
  if (known === undefined) {
    known = new Map();
    for (const file of image.files) {
      if (file.kind?.$case === 'inet') known.set(file.kind.value.inode, file);
    }
    inodes.set(image, known);
  }
  return known;
}

function socketOf(file: FileObject): InetSocket {
  if (file.kind?.$case !== 'inet') throw new TypeError(`File ${file.id} is no Internet socket`);
  return file.kind.value;
}

/** A raw socket has no port, but an address. */
function isConnected({ remotePort, remoteAddress }: InetSocket): boolean {
  return remotePort !== 0 || remoteAddress.some((byte) => byte !== 0);
}

function isConnectedTcp({ type, state }: InetSocket): boolean {
  return type === SOCK_STREAM && ![TCP.close, TCP.listen, TCP.synSent].includes(state as 7);
}

const waiting = new WeakMap<TreeImage, Set<bigint>>();

/** A connection that its server, also of the tree, has not accepted yet is made anew; every other comes back as it was. */
function isRepaired(socket: InetSocket, image: TreeImage): boolean {
  if (!isConnectedTcp(socket)) return false;
  let inodes = waiting.get(image);
  if (inodes === undefined) {
    inodes = new Set();
    for (const { kind } of image.files) {
      if (kind?.$case === 'inet') for (const inode of kind.value.pendingInodes) inodes.add(inode);
    }
    waiting.set(image, inodes);
  }
  return !inodes.has(socket.inode);
}

/** IPV6_V6ONLY, IP_FREEBIND, IP_TRANSPARENT, SO_MARK, SO_REUSEPORT and the like decide what bind(2) accepts, SO_BROADCAST
 *  what connect(2) does. */
function isNeededToBind({ level, name }: SocketOption): boolean {
  if (level === SOL.socket) return [SO_REUSEPORT, SO_MARK, SO_BROADCAST].includes(name);
  if (level === SOL.tcp) return name === TCP_FASTOPEN_CONNECT;
  if (level === SOL.ip) return [15, 19, 24, 51].includes(name);
  return level === SOL.ipv6 && [26, 75, 78].includes(name);
}

export function emitBind(
  b: ProgramBuilder,
  socket: InetSocket,
  { fd, name }: { fd: number; name: string },
): void {
  const { device, localPort, wasConnected } = socket;
  if (device !== '' && socket.receiveQueue.length === 0) emitDevice(b, device, fd, name);
  if (localPort === 0 || wasConnected) return;
  const reuse = { level: SOL.socket, name: SO_REUSEADDR, value: 1 };
  emitIntOption(b, fd, reuse, name);
  const at = localOf(socket);
  const freely = FREEBIND[socket.family];
  if (socket.foreignAddress && freely !== undefined) {
    emitIntOption(b, fd, { ...freely, value: 1 }, name);
  }
  b.sys('bind', [fd, constant(b, at), at.length], `bind ${name}`);
  if (socket.foreignAddress && freely !== undefined) {
    emitIntOption(b, fd, { ...freely, value: 0 }, name);
  }
}

function emitDevice(b: ProgramBuilder, device: string, fd: number, name: string): void {
  const value = Buffer.from(`${device}\0`);
  emitOption(b, fd, { level: SOL.socket, name: SO_BINDTODEVICE, value }, name);
}

function emitConnect(b: ProgramBuilder, socket: InetSocket, fd: number, name: string): void {
  const at = remoteOf(socket);
  b.sys('connect', [fd, constant(b, at), at.length], `connect ${name}`);
}

/** The sequence number of the SYN that is on its way, which connect(2) then takes again. */
function emitSequence(b: ProgramBuilder, socket: InetSocket, fd: number, name: string): void {
  const set = (option: number, value: number) =>
    emitIntOption(b, fd, { level: SOL.tcp, name: option, value }, `${name}: sequence`);
  set(TCP_REPAIR, 1);
  set(TCP_REPAIR_QUEUE, SEND_QUEUE);
  set(TCP_QUEUE_SEQ, (socket.tcp?.sendSequence ?? 0) - 1);
  set(TCP_REPAIR, REPAIR_OFF_SILENTLY);
}

/** Everything that was set on a socket but SO_REUSEADDR, which was changed to bind it, and by repair mode. */
function emitSettings(
  b: ProgramBuilder,
  socket: InetSocket,
  { fd, name, all }: { fd: number; name: string; all: boolean },
): void {
  const { options, buffers, packetFilter, device } = socket;
  const isReuse = ({ level, name }: SocketOption) => level === SOL.socket && name === SO_REUSEADDR;
  const early = (option: SocketOption) => isNeededToBind(option) || isFilterLock(option);
  for (const option of options) {
    if (early(option) || isReuse(option)) continue;
    if (isCongestion(option)) emitCongestion(b, fd, option.value, name);
    else emitOption(b, fd, option, name);
  }
  if (device !== '' && socket.receiveQueue.length > 0) emitDevice(b, device, fd, name);
  emitBuffers(b, fd, buffers, { name, all });
  emitPacketFilter(b, fd, packetFilter, name);
  for (const option of options.filter(isFilterLock)) emitOption(b, fd, option, name);
}

function isCongestion({ level, name }: SocketOption): boolean {
  return level === SOL.tcp && name === TCP_CONGESTION;
}

/** A host without the algorithm uses its own: the connection is the same. */
function emitCongestion(b: ProgramBuilder, fd: number, value: Uint8Array, name: string): void {
  const at = constant(b, value);
  const step = `${name}: congestion control`;
  b.sys('setsockopt', [fd, SOL.tcp, TCP_CONGESTION, at, value.length], step, {
    expect: { orErrno: ENOENT },
  });
}
