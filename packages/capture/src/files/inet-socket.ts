import type { Datagram, InetSocket, SocketOption } from '@ferry/image';
import {
  AF,
  ioctlInt,
  POLL,
  peekStream,
  pollNow,
  SO,
  SOCK,
  SOL,
  socketOption,
  tryReadProc,
} from '@ferry/linux';
import { refuse } from './common.js';
import type { Descriptor, FileCapture, FileContext } from './context.js';
import { membershipsOf } from './multicast.js';
import { hasReusePortProgram } from './reuse-port.js';
import { type SegmentKeys, segmentKeysOf, UNSEEN_KEYS } from './segment-keys.js';
import { isMemoryClosed, prepareSocketMemory } from './socket-memory.js';
import { readPacketFilter, type SocketFacts } from './socket-probe.js';
import { peekDatagrams, withoutPeekOffset } from './socket-queue.js';
import { refuseFilter, refuseReusePort, refuseSigned, refuseUrgent } from './socket-refusals.js';
import { NetworkTable, socketKind } from './socket-table.js';
import { checkPair } from './tcp-pairs.js';
import { captureTcpState, hasReceivedFin, parseTcpInfo, silence, TCP } from './tcp-state.js';
import { captureListening } from './tcp-waiting.js';
import { UnacceptedReader } from './unaccepted.js';

const IPPROTO = { icmp: 1, tcp: 6, udp: 17, icmpv6: 58, udpLite: 136, mptcp: 262 } as const;
/** Datagrams of these that wait can be sent again as packets. */
const RESENT: readonly number[] = [IPPROTO.udp, IPPROTO.udpLite];
const SIOCINQ = 0x541b;
const SIOCOUTQ = 0x5411;
const POLLPRI = 2;
const TCP_INFO = 11;
/** struct tcp_info: tcpi_segs_in */
const TCP_SEGMENTS_IN = 140;
/** Above, a list of all sockets is faster than a look at each: it takes as long as twenty. */
const FEW = 16;
const READ_SHUTDOWN = 1;
const BOTH_SHUTDOWN = 3;

/** TCP, UDP, UDP-Lite, ICMP, raw and listening MPTCP sockets over IPv4 and IPv6. */
export const inetSocketCapture: FileCapture = {
  matches(descriptor) {
    const kind = socketKind(descriptor);
    if (kind?.domain !== AF.inet && kind?.domain !== AF.inet6) return false;
    if (kind.type === SOCK.raw) return true;
    return Object.values(IPPROTO).some((protocol) => protocol === kind.protocol);
  },
  capture(descriptor, ctx) {
    const isStream = socketKind(descriptor)!.type === SOCK.stream;
    const value = isStream ? captureTcp(descriptor, ctx) : captureDatagrams(descriptor, ctx);
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
  const probe = NetworkTable.of(descriptor, ctx).probe(kind);
  const facts = probe.read(fd);
  if (facts.filterLength === undefined) return refuseFilter(descriptor, ctx);
  if (facts.upperProtocol === 'tls') return refuseKernelTls(descriptor, ctx);
  if (ctx.scanning && hasReusePortProgram(fd, facts, ctx)) return refuseReusePort(descriptor, ctx);
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
    foreignAddress: false,
    wasRefused: false,
    waiting: [],
  };
  if (!ctx.scanning && local.port !== 0 && remote.port === 0) {
    socket.foreignAddress = isForeign(descriptor, { socket, facts }, ctx);
  }
  return { socket, facts };
}

/** Whether the host has not the address that a socket is bound to: then only IP_FREEBIND lets it be bound again. */
function isForeign(descriptor: Descriptor, { socket, facts }: Looked, ctx: FileContext): boolean {
  const isAny = socket.localAddress.every((byte) => byte === 0);
  if (isAny || socket.options.some(isFreeBind)) return false;
  return NetworkTable.of(descriptor, ctx).isForeignAddress(socket.family, facts.local);
}

/** IP_FREEBIND, IP_TRANSPARENT, IPV6_TRANSPARENT, IPV6_FREEBIND. */
function isFreeBind({ level, name }: SocketOption): boolean {
  return level === SOL.ip
    ? name === 15 || name === 19
    : level === SOL.ipv6 && (name === 75 || name === 78);
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
  const keys = isMptcp ? undefined : keysOf(descriptor, state, ctx);
  if (keys !== undefined) return refuseSigned(descriptor, keys, ctx);
  if (ctx.scanning && state === TCP.listen && info!.waiting > 0) UnacceptedReader.prepare();
  if (ctx.scanning || info === undefined) return socket;
  socket.state = state;
  if (isMptcp) dropRepeated(socket);
  socket.options = socket.options.filter((option) => !isComputed(option));
  if (state === TCP.listen) return captureListening(descriptor, { socket, info }, ctx);
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

/** In a scan. Of a program that gives keys to a socket afterwards that is told later, for it takes a while to look. */
function keysOf(descriptor: Descriptor, state: number, ctx: FileContext): SegmentKeys | undefined {
  if (ctx.scanning) {
    prepareSocketMemory(ctx);
    return segmentKeysOf(descriptor, { state, few: false }, ctx);
  }
  if (state === TCP.close && isMemoryClosed()) ctx.lose(UNSEEN_KEYS, descriptor, { passes: false });
  const all = ctx.shared('tcpSockets', () => ({ count: 0 }));
  all.count += 1;
  ctx.checkLater(() => {
    const keys = segmentKeysOf(descriptor, { state, few: all.count <= FEW }, ctx);
    if (keys !== undefined) refuseSigned(descriptor, keys, ctx);
  });
  return undefined;
}

function refuseMptcp(descriptor: Descriptor, ctx: FileContext): undefined {
  return refuse(descriptor, ctx, {
    code: 'socket.mptcp',
    reason:
      'established MPTCP connections cannot be carried: the kernel has no repair mode for them',
    remedy: 'turn MPTCP off: GODEBUG=multipathtcp=0 for Go programs, sysctl net.mptcp.enabled=0',
  });
}

/** An MPTCP socket shows options of its first subflow that it does not take. It takes TCP_NODELAY, CORK, KEEPIDLE, KEEPINTVL,
 *  KEEPCNT, DEFER_ACCEPT, CONGESTION, FASTOPEN, NOTSENT_LOWAT, FASTOPEN_CONNECT, FASTOPEN_NO_COOKIE, INQ:
 *  mptcp_setsockopt_sol_tcp, net/mptcp/sockopt.c. */
const MPTCP_TAKES = [1, 3, 4, 5, 6, 9, 13, 23, 25, 30, 34, 36];

function dropRepeated(socket: InetSocket): void {
  socket.options = socket.options.filter(
    ({ level, name }) => level !== SOL.tcp || MPTCP_TAKES.includes(name),
  );
}

/** TCP_MAXSEG that nobody has set, but IP options have brought below what may be set (TCP_MIN_MSS, include/net/tcp.h). */
function isComputed({ level, name, value }: SocketOption): boolean {
  return level === SOL.tcp && name === 2 && Buffer.from(value).readInt32LE(0) < 88;
}

/** Never connected, or connected once and at its end (then it may still have data). */
function closed(descriptor: Descriptor, socket: InetSocket): InetSocket {
  const fd = descriptor.dup().number;
  const events = pollNow(fd, POLL.readHangUp);
  if ((events & (POLL.readHangUp | POLL.error)) === 0) return socket;
  socket.wasConnected = true;
  socket.options = socket.options.filter((option) => !isNegotiated(option));
  socket.wasReset = (events & POLL.error) !== 0;
  socket.wasRefused = socket.wasReset && isRefused(fd);
  socket.shutdown = BOTH_SHUTDOWN;
  const length = ioctlInt(fd, SIOCINQ);
  if (length > 0) {
    const data = withoutPeekOffset(fd, () => peekStream(fd, length));
    socket.receiveQueue = [{ data, source: NOTHING }];
  }
  return socket;
}

/** Whether the first thing that came back was the reset: then nobody listened. */
function isRefused(fd: number): boolean {
  const segments = socketOption(fd, SOL.tcp, TCP_INFO, TCP_SEGMENTS_IN + 4);
  return segments?.length === TCP_SEGMENTS_IN + 4 && segments.readUInt32LE(TCP_SEGMENTS_IN) <= 1;
}

/** A handshake whose answer is awaited: the same SYN goes out again. getpeername(2) does not tell its target. */
function connecting(
  descriptor: Descriptor,
  { socket, facts }: Looked,
  ctx: FileContext,
): InetSocket | undefined {
  const all = NetworkTable.of(descriptor, ctx).inet(IPPROTO.tcp);
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
  socket.tcp = captureTcpState(descriptor.dup().number, setOptions(facts)).tcp;
  return socket;
}

function connected(
  descriptor: Descriptor,
  { socket, facts }: Looked,
  ctx: FileContext,
): InetSocket | undefined {
  const fd = descriptor.dup().number;
  const events = pollNow(fd, POLLPRI | POLL.readHangUp);
  if ((events & POLLPRI) !== 0) return refuseUrgent(descriptor, ctx);
  socket.options = socket.options.filter((option) => !isNegotiated(option));
  const isOffset = facts.options.some(
    ({ level, name }) => level === SOL.socket && name === SO.peekOffset,
  );
  const look = () => captureTcpState(fd, setOptions(facts));
  const take = () => {
    const taken = isOffset ? withoutPeekOffset(fd, look) : look();
    socket.state = taken.state;
    socket.tcp = taken.tcp;
    return taken.isWhole;
  };
  if (!take()) return refuseUrgent(descriptor, ctx);
  // Where it is not the peer's end that has shut it down, which comes back with that. (tcp_poll, net/ipv4/tcp.c; to list the
  // sockets of a network takes a walk through the table of all networks.)
  if (!hasReceivedFin(socket.state) && (events & POLL.readHangUp) !== 0) {
    socket.shutdown = READ_SHUTDOWN;
  }
  ctx.onRelease((outcome) => {
    if (outcome === 'killed') silence(fd);
  });
  checkPair(socket, take, ctx);
  return socket;
}

function setOptions({ reuseAddress, options }: SocketFacts) {
  const isInline = ({ level, name }: SocketOption) => level === SOL.socket && name === SO.oobInline;
  return { reuseAddress, isOobInline: options.some(isInline) };
}

/** TCP_MAXSEG and TCP_WINDOW_CLAMP of a connection are its state, not somebody's wish; TCP_FASTOPEN, _CONNECT and _KEY
 *  are wishes for one that there is already, and are refused. */
function isNegotiated({ level, name }: SocketOption): boolean {
  return level === SOL.tcp && [2, 10, 23, 30, 33].includes(name);
}

/** Everything but TCP. What waits in a raw or an ICMP socket is not carried. */
function captureDatagrams(descriptor: Descriptor, ctx: FileContext): InetSocket | undefined {
  const looked = common(descriptor, ctx);
  if (looked === undefined || ctx.scanning) return looked?.socket;
  const { socket } = looked;
  const fd = descriptor.dup().number;
  const events = pollNow(fd, POLL.in | POLL.readHangUp);
  socket.memberships = membershipsOf(descriptor, socket.family, ctx);
  if (socket.type === SOCK.raw) socket.remoteAddress = rawPeer(descriptor, socket);
  const resent = RESENT.includes(socket.protocol) && socket.type === SOCK.dgram;
  if (socket.remotePort !== 0 && resent) {
    socket.state = TCP.established;
    socket.shutdown = datagramShutdownOf(descriptor, socket.protocol, ctx);
  }
  if ((events & POLL.error) !== 0) ctx.lose('errors', descriptor);
  if (resent && ioctlInt(fd, SIOCOUTQ) > 0) return refuseCorked(descriptor, ctx);
  // A socket that reads nothing more is always ready.
  const isEnded = (socket.shutdown & READ_SHUTDOWN) !== 0;
  if (isEnded ? ioctlInt(fd, SIOCINQ) > 0 : (events & POLL.in) !== 0) {
    if (resent) socket.receiveQueue = queueOf(fd);
    else ctx.lose('packets', descriptor);
  }
  return socket;
}

/** Parts of a datagram can be read by nobody before it is sent. */
function refuseCorked(descriptor: Descriptor, ctx: FileContext): undefined {
  return refuse(descriptor, ctx, {
    code: 'socket.corked',
    reason: 'a datagram is not complete yet (UDP_CORK, MSG_MORE), or was not sent yet',
    remedy: 'try again once the program has sent it',
  });
}

/** The address a raw socket is connected to, which has no port and which getpeername(2) does not tell; empty for none.
 *  `  1: 0100007F:0001 00000000:0000 07 …`, the inode is the tenth word. */
function rawPeer({ process, stat }: Descriptor, { family }: InetSocket): Buffer {
  const table = tryReadProc(`/proc/${process.hostPid}/net/${family === AF.inet ? 'raw' : 'raw6'}`);
  for (const line of (table ?? '').split('\n')) {
    const words = line.trim().split(/\s+/);
    if (words[9] !== `${stat.inode}`) continue;
    const address = Buffer.from(words[2]!.split(':')[0]!, 'hex');
    // Each word of four bytes is printed as a number.
    for (let at = 0; at + 4 <= address.length; at += 4) address.subarray(at, at + 4).reverse();
    return address.every((byte) => byte === 0) ? NOTHING : address;
  }
  return NOTHING;
}

function datagramShutdownOf(descriptor: Descriptor, protocol: number, ctx: FileContext): number {
  const { inode } = descriptor.stat;
  const all = NetworkTable.of(descriptor, ctx).inet(protocol);
  return all.find((entry) => entry.inode === Number(inode))?.shutdown ?? 0;
}

function queueOf(fd: number): Datagram[] {
  return peekDatagrams(fd).map(({ data, name }) => ({ data, source: name }));
}
