import type { Datagram, InetSocket, SocketOption } from '@ferry/image';
import {
  AF,
  type InetDiag,
  ioctlInt,
  POLL,
  peekStream,
  pollNow,
  SO,
  SOCK,
  SOL,
} from '@ferry/linux';
import { refuse } from './common.js';
import type { Descriptor, FileCapture, FileContext } from './context.js';
import { membershipsOf } from './multicast.js';
import { readPacketFilter, type SocketFacts } from './socket-probe.js';
import { peekDatagrams, withoutPeekOffset } from './socket-queue.js';
import { isTreeSocket, NetworkTable, socketKind } from './socket-table.js';
import { checkPair } from './tcp-pairs.js';
import { captureTcpState, parseTcpInfo, silence, TCP, type TcpInfo } from './tcp-state.js';
import { refuseFilter } from './unix-socket.js';

const IPPROTO = { tcp: 6, udp: 17, mptcp: 262 } as const;
const SIOCINQ = 0x541b;
const POLLPRI = 2;
const READ_SHUTDOWN = 1;
const BOTH_SHUTDOWN = 3;

/** TCP, UDP and listening MPTCP sockets over IPv4 and IPv6. */
export const inetSocketCapture: FileCapture = {
  matches(descriptor) {
    const kind = socketKind(descriptor);
    if (kind?.domain !== AF.inet && kind?.domain !== AF.inet6) return false;
    if (kind.type === SOCK.raw) return false;
    return Object.values(IPPROTO).some((protocol) => protocol === kind.protocol);
  },
  capture(descriptor, ctx) {
    const kind = socketKind(descriptor)!;
    const value =
      kind.protocol === IPPROTO.udp ? captureUdp(descriptor, ctx) : captureTcp(descriptor, ctx);
    return value && { $case: 'inet', value };
  },
};

interface Looked {
  readonly socket: InetSocket;
  readonly facts: SocketFacts;
}

/** What every kind has. undefined after a blocker, or in a scan. */
function common(descriptor: Descriptor, ctx: FileContext): Looked | undefined {
  const kind = socketKind(descriptor)!;
  const fd = descriptor.dup().number;
  const probe = NetworkTable.of(descriptor.process, ctx).probe(kind);
  const facts = probe.read(fd);
  if (facts.cookie !== probe.cookie) {
    return refuse(descriptor, ctx, {
      code: 'socket.otherNamespace',
      reason: 'the socket belongs to another network namespace than its process',
      remedy: 'close it, or start the program in the network namespace it uses',
    });
  }
  if (facts.filterLength === undefined) return refuseFilter(descriptor, ctx);
  if (facts.upperProtocol === 'tls') return refuseKernelTls(descriptor, ctx);
  const local = parseAddress(facts.local);
  const remote = parseAddress(facts.peer);
  const socket: InetSocket = {
    inode: descriptor.stat.inode,
    family: kind.domain,
    type: kind.type,
    protocol: kind.protocol,
    localAddress: local.address,
    localPort: local.port,
    remoteAddress: remote.address,
    remotePort: remote.port,
    state: TCP.close,
    backlog: 0,
    shutdown: 0,
    scopeId: local.scope || remote.scope,
    boundDevice: 0,
    options: facts.options,
    tcp: undefined,
    receiveQueue: [],
    buffers: facts.buffers,
    device: facts.device,
    wasConnected: false,
    wasReset: false,
    pendingInodes: [],
    packetFilter: readPacketFilter(fd, facts),
    memberships: [],
  };
  return { socket, facts };
}

function refuseKernelTls(descriptor: Descriptor, ctx: FileContext): undefined {
  return refuse(descriptor, ctx, {
    code: 'socket.kernelTls',
    reason: 'the kernel encrypts this connection (kTLS) and does not give its keys back',
    remedy: 'turn kernel TLS off in the program (OpenSSL: without SSL_OP_ENABLE_KTLS)',
  });
}

interface Address {
  readonly address: Buffer;
  readonly port: number;
  readonly scope: number;
}

const NOTHING = Buffer.alloc(0);
const NOWHERE: Address = { address: NOTHING, port: 0, scope: 0 };

/** struct sockaddr_in and sockaddr_in6. */
function parseAddress(raw: Buffer | undefined): Address {
  if (raw === undefined) return NOWHERE;
  const isIpv4 = raw.readUInt16LE(0) === AF.inet;
  const address = Buffer.allocUnsafe(isIpv4 ? 4 : 16);
  raw.copy(address, 0, isIpv4 ? 4 : 8);
  return { address, port: raw.readUInt16BE(2), scope: isIpv4 ? 0 : raw.readUInt32LE(24) };
}

function captureTcp(descriptor: Descriptor, ctx: FileContext): InetSocket | undefined {
  const looked = common(descriptor, ctx);
  if (looked === undefined) return undefined;
  const { socket, facts } = looked;
  const info = facts.tcpInfo === undefined ? undefined : parseTcpInfo(facts.tcpInfo);
  const state = info?.state ?? TCP.close;
  const isMptcp = socket.protocol === IPPROTO.mptcp;
  if (isMptcp && state !== TCP.listen && state !== TCP.close) return refuseMptcp(descriptor, ctx);
  if (ctx.scanning || info === undefined) return socket;
  socket.state = state;
  if (isMptcp) dropRepeated(socket);
  if (state === TCP.listen) return listening(descriptor, socket, info, ctx);
  if (state === TCP.close) return closed(descriptor, socket);
  if (state === TCP.synSent) return connecting(descriptor, looked, ctx);
  if (state === TCP.synReceived) {
    return refuse(descriptor, ctx, {
      code: 'socket.handshake',
      reason: 'the connection is half made (SYN_RECV)',
      remedy: 'try again',
    });
  }
  return connected(descriptor, looked, ctx);
}

function refuseMptcp(descriptor: Descriptor, ctx: FileContext): undefined {
  return refuse(descriptor, ctx, {
    code: 'socket.mptcp',
    reason:
      'established MPTCP connections cannot be carried: the kernel has no repair mode for them',
    remedy: 'turn MPTCP off: GODEBUG=multipathtcp=0 for Go programs, sysctl net.mptcp.enabled=0',
  });
}

/** An MPTCP socket shows options of its first subflow that it does not take. */
function dropRepeated(socket: InetSocket): void {
  socket.options = socket.options.filter(({ level }) => level !== SOL.tcp);
}

function listening(
  descriptor: Descriptor,
  socket: InetSocket,
  info: TcpInfo,
  ctx: FileContext,
): InetSocket | undefined {
  socket.backlog = info.backlog;
  if (info.waiting === 0) return socket;
  const all = NetworkTable.of(descriptor.process, ctx).inet(IPPROTO.tcp);
  const children = all.filter((entry) => entry.inode === 0 && isChildOf(entry, socket));
  const clients = children.map((child) => all.find((entry) => isOtherEnd(entry, child)));
  const lost = clients.filter(
    (client, i) =>
      client === undefined ||
      !isTreeSocket(client.inode, descriptor, ctx) ||
      children[i]!.received > 0,
  );
  if (lost.length > 0 || children.length < info.waiting) {
    return refuse(descriptor, ctx, {
      code: 'socket.tcpPending',
      reason: `${info.waiting} connections wait to be accepted, which the kernel does not show`,
      remedy: 'try again once the program has accepted them',
    });
  }
  socket.pendingInodes = clients.map((client) => BigInt(client!.inode));
  return socket;
}

function isChildOf(entry: InetDiag, listener: InetSocket): boolean {
  if (entry.localPort !== listener.localPort) return false;
  const isAny = listener.localAddress.every((byte) => byte === 0);
  return isAny || entry.localAddress.equals(listener.localAddress);
}

/** Addresses of both families compare equal when they are the same over IPv4. */
function isOtherEnd(entry: InetDiag, child: InetDiag): boolean {
  return (
    entry.inode !== 0 &&
    entry.localPort === child.remotePort &&
    entry.remotePort === child.localPort &&
    plain(entry.localAddress).equals(plain(child.remoteAddress)) &&
    plain(entry.remoteAddress).equals(plain(child.localAddress))
  );
}

const MAPPED = Buffer.from('00000000000000000000ffff', 'hex');

/** An IPv4 address in 4 bytes where it is written as IPv6. */
export function plain(address: Buffer): Buffer {
  const isMapped = address.length === 16 && address.compare(MAPPED, 0, 12, 0, 12) === 0;
  return isMapped ? address.subarray(12) : address;
}

/** Never connected, or connected once and at its end (then it may still have data). */
function closed(descriptor: Descriptor, socket: InetSocket): InetSocket {
  const fd = descriptor.dup().number;
  const events = pollNow(fd, POLL.readHangUp);
  if ((events & (POLL.readHangUp | POLL.error)) === 0) return socket;
  socket.wasConnected = true;
  socket.options = socket.options.filter((option) => !isNegotiated(option));
  socket.wasReset = (events & POLL.error) !== 0;
  socket.shutdown = BOTH_SHUTDOWN;
  const length = ioctlInt(fd, SIOCINQ);
  if (length > 0) {
    const data = withoutPeekOffset(fd, () => peekStream(fd, length));
    socket.receiveQueue = [{ data, source: NOTHING }];
  }
  return socket;
}

/** A handshake whose answer is awaited: the same SYN goes out again. getpeername(2) does not tell its target. */
function connecting(
  descriptor: Descriptor,
  { socket, facts }: Looked,
  ctx: FileContext,
): InetSocket | undefined {
  const all = NetworkTable.of(descriptor.process, ctx).inet(IPPROTO.tcp);
  const entry = all.find((candidate) => candidate.inode === Number(socket.inode));
  if (entry === undefined || entry.state !== TCP.synSent) {
    return refuse(descriptor, ctx, {
      code: 'socket.handshake',
      reason: 'its connection was just being made',
      remedy: 'try again',
    });
  }
  socket.remoteAddress = entry.remoteAddress;
  socket.remotePort = entry.remotePort;
  socket.tcp = captureTcpState(descriptor.dup().number, facts.reuseAddress).tcp;
  return socket;
}

function connected(
  descriptor: Descriptor,
  { socket, facts }: Looked,
  ctx: FileContext,
): InetSocket | undefined {
  const fd = descriptor.dup().number;
  if ((pollNow(fd, POLLPRI) & POLLPRI) !== 0) {
    return refuse(descriptor, ctx, {
      code: 'socket.urgentData',
      reason: 'urgent data (MSG_OOB) waits to be read',
      remedy: 'try again once the program has read it',
    });
  }
  socket.options = socket.options.filter((option) => !isNegotiated(option));
  const isOffset = facts.options.some(
    ({ level, name }) => level === SOL.socket && name === SO.peekOffset,
  );
  const look = () => captureTcpState(fd, facts.reuseAddress);
  const take = () => {
    const taken = isOffset ? withoutPeekOffset(fd, look) : look();
    socket.state = taken.state;
    socket.tcp = taken.tcp;
  };
  take();
  ctx.onRelease((outcome) => {
    if (outcome === 'killed') silence(fd);
  });
  checkPair(socket, take, ctx);
  return socket;
}

/** TCP_MAXSEG and TCP_WINDOW_CLAMP of a connection are its state, not somebody's wish. */
function isNegotiated({ level, name }: SocketOption): boolean {
  return level === SOL.tcp && (name === 2 || name === 10);
}

function captureUdp(descriptor: Descriptor, ctx: FileContext): InetSocket | undefined {
  const looked = common(descriptor, ctx);
  if (looked === undefined || ctx.scanning) return looked?.socket;
  const { socket } = looked;
  const fd = descriptor.dup().number;
  const events = pollNow(fd, POLL.in | POLL.readHangUp);
  socket.memberships = membershipsOf(descriptor, socket.family, ctx);
  if (socket.remotePort !== 0) {
    socket.state = TCP.established;
    socket.shutdown = udpShutdown(descriptor, ctx);
  }
  if ((events & POLL.in) !== 0 && (socket.shutdown & READ_SHUTDOWN) === 0) {
    socket.receiveQueue = queueOf(fd);
  }
  return socket;
}

function udpShutdown(descriptor: Descriptor, ctx: FileContext): number {
  const { inode } = descriptor.stat;
  const all = NetworkTable.of(descriptor.process, ctx).inet(IPPROTO.udp);
  return all.find((entry) => entry.inode === Number(inode))?.shutdown ?? 0;
}

function queueOf(fd: number): Datagram[] {
  return peekDatagrams(fd).map(({ data, name }) => ({ data, source: name }));
}
