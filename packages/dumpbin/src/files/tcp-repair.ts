import type { InetSocket, TcpState } from '@ferry/image';
import type { DataRef, ProgramBuilder } from '../program.js';
import { localOf, plain, remoteOf } from './inet-address.js';
import { type Endpoint, TCP_FLAG, tcpPacket } from './inet-packets.js';
import { emitPoll, emitRawPacket, POLLRDHUP } from './inet-raw.js';
import {
  constant,
  emitBuffers,
  emitIntOption,
  emitOption,
  emitRoom,
  SOL,
} from './socket-options.js';

const SO_REUSEADDR = 2;
const SO_BINDTODEVICE = 25;
const IP_OPTIONS = 4;
const TCP_MAXSEG = 2;
/** MAX_TCP_WINDOW, include/net/tcp.h */
const MAXSEG_MAX = 32767;
const TCP_WINDOW_CLAMP = 10;
const TCP_REPAIR = 19;
const TCP_REPAIR_QUEUE = 20;
const TCP_QUEUE_SEQ = 21;
const TCP_REPAIR_OPTIONS = 22;
const TCP_TIMESTAMP = 24;
const TCP_REPAIR_WINDOW = 29;
const REPAIR_ON = 1;
const REPAIR_OFF = 0;
const QUEUE = { none: 0, receive: 1, send: 2 } as const;
/** Option kinds of a SYN: include/net/tcp.h. */
const TCPOPT = { mss: 2, window: 3, sackPermitted: 4, timestamp: 8 } as const;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const SOCK_RAW = 3;
const ICMP: readonly number[] = [1, 58];
const SHUT_RD = 0;
const SHUT_WR = 1;
/** RCV_SHUTDOWN, include/net/sock.h */
const READ = 1;
const SHUT_RDWR = 2;
/** The kernel takes at most this much at a time into a receive queue (tcp_send_rcvq, net/ipv4/tcp_input.c). */
const RECEIVE_PIECE = 32 * 1024;
const STATE = { finWait1: 4, finWait2: 5, closeWait: 8, lastAck: 9, closing: 11 } as const;

interface Target {
  readonly fd: number;
  readonly name: string;
}

/** Recreates a connection in repair mode: sequence numbers, addresses, what was negotiated, both queues. */
export function emitConnected(b: ProgramBuilder, socket: InetSocket, target: Target): void {
  const { fd, name } = target;
  const tcp = socket.tcp!;
  const set = (option: number, value: number, step: string) =>
    emitIntOption(b, fd, { level: SOL.tcp, name: option, value }, `${name}: ${step}`);
  set(TCP_REPAIR, REPAIR_ON, 'repair mode');
  if (socket.device !== '') {
    const value = Buffer.from(`${socket.device}\0`);
    emitOption(b, fd, { level: SOL.socket, name: SO_BINDTODEVICE, value }, name);
  }
  emitBuffers(b, fd, socket.buffers, { name, all: true });
  set(TCP_REPAIR_QUEUE, QUEUE.send, 'send queue');
  set(TCP_QUEUE_SEQ, tcp.sendSequence, 'send sequence');
  set(TCP_REPAIR_QUEUE, QUEUE.receive, 'receive queue');
  set(TCP_QUEUE_SEQ, tcp.receiveSequence - tcp.receiveQueue.length, 'receive sequence');
  if (tcp.mssClamp > 0) set(TCP_MAXSEG, Math.min(tcp.mssClamp, MAXSEG_MAX), 'segment size');
  const [local, remote] = [localOf(socket), remoteOf(socket)];
  b.sys('bind', [fd, constant(b, local), local.length], `bind ${name}`);
  b.sys('connect', [fd, constant(b, remote), remote.length], `connect ${name}`);
  if (tcp.mssClamp > 0) set(TCP_MAXSEG, 0, 'segment size');
  emitNegotiated(b, tcp, target);
  emitReceiveQueue(b, tcp, target);
  set(TCP_REPAIR_QUEUE, QUEUE.send, 'send queue');
  emitSent(b, tcp, target);
  if (tcp.timestamps) set(TCP_TIMESTAMP, tcp.timestamp, 'timestamps');
}

/** Half closed ends, and windows, once all connections are there: the kernel may acknowledge the peer's FIN at once, and a
 *  peer in the same tree that were not there yet would answer with a reset. Apart from that it stays silent until
 *  `emitGoOn`. */
export function emitHalves(b: ProgramBuilder, socket: InetSocket, target: Target): void {
  const { fd, name } = target;
  const tcp = socket.tcp!;
  emitHalfClosed(b, socket, target);
  if (tcp.window.length > 0) {
    b.sys(
      'setsockopt',
      [fd, SOL.tcp, TCP_REPAIR_WINDOW, b.bytes(tcp.window), tcp.window.length],
      `${name}: window`,
    );
  }
  if (tcp.windowClamp > 0) {
    const clamp = { level: SOL.tcp, name: TCP_WINDOW_CLAMP, value: tcp.windowClamp };
    emitIntOption(b, fd, clamp, `${name}: window clamp`);
  }
  if (plain(socket.remoteAddress).length === 4) emitSegmentSize(b, target);
}

/** connect(2) has worked out the size of segments by TCP_MAXSEG, which ends at 32 KiB, and repair mode does not do it
 *  again. Setting IP options does, also to none: do_ip_setsockopt, net/ipv4/ip_sockglue.c. IPv6 has nothing like it. */
function emitSegmentSize(b: ProgramBuilder, { fd, name }: Target): void {
  b.sys('setsockopt', [fd, SOL.ip, IP_OPTIONS, 0, 0], `${name}: segment size`);
}

/** struct tcp_repair_opt[]. Without window scaling both scales are 0, which must be said: repair mode assumes its own. */
function emitNegotiated(b: ProgramBuilder, tcp: TcpState, { fd, name }: Target): void {
  const scales = tcp.windowScale ? tcp.sendWindowScale | (tcp.receiveWindowScale << 16) : 0;
  const options: [number, number][] = [
    [TCPOPT.mss, tcp.mssClamp],
    [TCPOPT.window, scales],
  ];
  if (tcp.sackPermitted) options.push([TCPOPT.sackPermitted, 0]);
  if (tcp.timestamps) options.push([TCPOPT.timestamp, 0]);
  const raw = Buffer.alloc(options.length * 8);
  options.forEach(([code, value], i) => {
    raw.writeUInt32LE(code, i * 8);
    raw.writeUInt32LE(value >>> 0, i * 8 + 4);
  });
  const at = constant(b, raw);
  const step = `${name}: options of the handshake`;
  b.sys('setsockopt', [fd, SOL.tcp, TCP_REPAIR_OPTIONS, at, raw.length], step);
}

function emitReceiveQueue(b: ProgramBuilder, tcp: TcpState, { fd, name }: Target): void {
  const { receiveQueue } = tcp;
  if (receiveQueue.length === 0) return;
  emitRoom(b, fd, [{ data: receiveQueue }], 'receive');
  const at = b.bytes(receiveQueue);
  for (let done = 0; done < receiveQueue.length; done += RECEIVE_PIECE) {
    const length = Math.min(RECEIVE_PIECE, receiveQueue.length - done);
    emitSend(b, at.plus(done), length, { fd, name: `${name}: receive queue` });
  }
}

/** What was sent and not acknowledged; in repair mode nothing goes out. */
function emitSent(b: ProgramBuilder, tcp: TcpState, { fd, name }: Target): void {
  const { sendQueue, unsent } = tcp;
  if (sendQueue.length > 0) emitRoom(b, fd, [{ data: sendQueue }], 'send');
  const sent = sendQueue.subarray(0, sendQueue.length - unsent);
  if (sent.length > 0) emitSend(b, b.bytes(sent), sent.length, { fd, name: `${name}: sent` });
}

function emitSend(b: ProgramBuilder, at: DataRef, length: number, { fd, name }: Target): void {
  b.sys('sendto', [fd, at, length, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0], name, {
    expect: { value: length },
  });
}

/** FINs. Ours is queued by shutdown(2), which repair mode keeps in. The peer's, and its acknowledgement of ours, arrive
 *  as packets that it might have sent; what the connection answers the peer takes for a repetition. */
function emitHalfClosed(b: ProgramBuilder, socket: InetSocket, target: Target): void {
  const { state } = socket;
  const tcp = socket.tcp!;
  const shutDown = () => b.sys('shutdown', [target.fd, SHUT_WR], `${target.name}: half close`);
  const acknowledged = tcp.sendSequence;
  if (state === STATE.closeWait || state === STATE.lastAck) {
    emitFromPeer(b, socket, target, { flags: TCP_FLAG.fin | TCP_FLAG.ack, acknowledged });
  }
  if ((state === STATE.finWait1 || state === STATE.lastAck) && !tcp.finUnsent) shutDown();
  if (state === STATE.closing) {
    if (!tcp.finUnsent) shutDown();
    emitFromPeer(b, socket, target, { flags: TCP_FLAG.fin | TCP_FLAG.ack, acknowledged });
  }
  if (state === STATE.finWait2) {
    shutDown();
    emitFromPeer(b, socket, target, { flags: TCP_FLAG.ack, acknowledged: acknowledged + 1 });
  }
}

function emitFromPeer(
  b: ProgramBuilder,
  socket: InetSocket,
  { fd, name }: Target,
  { flags, acknowledged }: { flags: number; acknowledged: number },
): void {
  const [from, to] = endpoints(socket);
  const sequence = socket.tcp!.receiveSequence;
  const packet = tcpPacket(from, to, { sequence, acknowledged, flags, window: 1024 });
  emitRawPacket(b, packet, to, name);
  if ((flags & TCP_FLAG.fin) !== 0) emitPoll(b, fd, POLLRDHUP, `${name}: the peer's FIN`);
}

function endpoints(socket: InetSocket): [Endpoint, Endpoint] {
  const { remoteAddress, remotePort, localAddress, localPort } = socket;
  return [
    { address: plain(remoteAddress), port: remotePort },
    { address: plain(localAddress), port: localPort },
  ];
}

/** Leaves repair mode: a window probe tells the peer where we are, and starts both sides again. Then comes what had not
 *  been sent yet. A peer that is gone resets the connection at any of these steps, which is not our failure. */
export function emitGoOn(b: ProgramBuilder, socket: InetSocket, target: Target): void {
  const { fd, name } = target;
  const tcp = socket.tcp!;
  const off = { level: SOL.tcp, name: TCP_REPAIR, value: REPAIR_OFF };
  emitIntOption(b, fd, off, `${name}: leave repair mode`);
  emitReuse(b, socket, target);
  if (socket.shutdown === READ) {
    b.sys('shutdown', [fd, SHUT_RD], `${name}: reads nothing more`, { expect: 'any' });
  }
  if (tcp.unsent > 0) emitUnsent(b, socket, target);
  if (tcp.finUnsent) {
    b.sys('shutdown', [fd, SHUT_WR], `${name}: half close`, { expect: 'any' });
  }
}

/** Were there no room for all of it, the connection would end, rather than go on with a gap. */
function emitUnsent(b: ProgramBuilder, socket: InetSocket, { fd, name }: Target): void {
  const { sendQueue, unsent } = socket.tcp!;
  const data = sendQueue.subarray(sendQueue.length - unsent);
  const step = `${name}: what was not sent yet`;
  const result = b.slotFor('sent');
  const whole = b.label();
  emitRoom(b, fd, [{ data: sendQueue }], 'send');
  const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
  b.sys('sendto', [fd, b.bytes(data), data.length, flags, 0, 0], step, {
    expect: 'any',
    into: result,
  });
  b.op('jump', [result, data.length], step, { target: whole });
  b.sys('shutdown', [fd, SHUT_RDWR], step, { expect: 'any' });
  b.place(whole);
  emitBuffers(b, fd, socket.buffers, { name, all: true });
}

/** SO_REUSEADDR as it was: repair mode leaves it cleared. */
export function emitReuse(
  b: ProgramBuilder,
  socket: InetSocket,
  { fd, name }: { fd: number; name: string },
): void {
  const own = socket.options.find(
    (option) => option.level === SOL.socket && option.name === SO_REUSEADDR,
  );
  // Raw and ICMP sockets are born with it: inetsw_array, net/ipv4/af_inet.c.
  const usual = socket.type === SOCK_RAW || ICMP.includes(socket.protocol) ? 1 : 0;
  const value = own === undefined ? usual : Buffer.from(own.value).readInt32LE(0);
  emitIntOption(b, fd, { level: SOL.socket, name: SO_REUSEADDR, value }, name);
}
