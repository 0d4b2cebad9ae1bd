import type { TcpState } from '@ferry/image';
import {
  call,
  ioctlInt,
  peekStream,
  SO,
  SOL,
  setSocketInt,
  socketInt,
  socketOption,
  sys,
} from '@ferry/linux';

/** include/net/tcp_states.h */
export const TCP = {
  established: 1,
  synSent: 2,
  synReceived: 3,
  finWait1: 4,
  finWait2: 5,
  close: 7,
  closeWait: 8,
  lastAck: 9,
  listen: 10,
  closing: 11,
} as const;

const TCP_MAXSEG = 2;
const TCP_WINDOW_CLAMP = 10;
const TCP_INFO = 11;
const TCP_REPAIR = 19;
const TCP_REPAIR_QUEUE = 20;
const TCP_QUEUE_SEQ = 21;
const TCP_TIMESTAMP = 24;
const TCP_REPAIR_WINDOW = 29;
const REPAIR_ON = 1;
const REPAIR_OFF_SILENTLY = -1;
const RECEIVE_QUEUE = 1;
const SEND_QUEUE = 2;
const SIOCINQ = 0x541b;
const SIOCOUTQ = 0x5411;
const SIOCOUTQNSD = 0x894b;
/** A segment at the head of the send queue may begin with bytes that the peer has acknowledged. */
const LARGEST_SEGMENT = 65536;

/** The part of struct tcp_info that is used. */
export interface TcpInfo {
  readonly state: number;
  readonly timestamps: boolean;
  readonly sack: boolean;
  readonly windowScale: boolean;
  readonly sendScale: number;
  readonly receiveScale: number;
  /** Listening: connections waiting to be accepted, and the backlog. */
  readonly waiting: number;
  readonly backlog: number;
}

/** undefined when the socket has none (an MPTCP socket without subflows). */
export function tcpInfo(fd: number): TcpInfo | undefined {
  const raw = socketOption(fd, SOL.tcp, TCP_INFO, 104);
  if (raw === undefined || raw.length < 32) return undefined;
  const options = raw.readUInt8(5);
  return {
    state: raw.readUInt8(0),
    timestamps: (options & 1) !== 0,
    sack: (options & 2) !== 0,
    windowScale: (options & 4) !== 0,
    sendScale: raw.readUInt8(6) & 0xf,
    receiveScale: raw.readUInt8(6) >> 4,
    waiting: raw.readUInt32LE(24),
    backlog: raw.readUInt32LE(28),
  };
}

/** Runs `query` with a socket in repair mode (TCP_REPAIR, net/ipv4/tcp.c), which it leaves at once: were this process
 *  killed later, the connection goes on. Repair mode sets SO_REUSEADDR, and leaving it clears it. */
export function inRepairMode<T>(fd: number, query: () => T): T {
  const reuse = socketInt(fd, SOL.socket, SO.reuseAddress) ?? 0;
  setSocketInt(fd, SOL.tcp, TCP_REPAIR, REPAIR_ON);
  try {
    return query();
  } finally {
    setSocketInt(fd, SOL.tcp, TCP_REPAIR, REPAIR_OFF_SILENTLY);
    if (reuse !== 0) setSocketInt(fd, SOL.socket, SO.reuseAddress, reuse);
  }
}

/** Puts the last descriptor of a connection into repair mode, in which closing it sends nothing. */
export function silence(fd: number): void {
  const on = Buffer.alloc(4);
  on.writeInt32LE(REPAIR_ON, 0);
  sys('setsockopt', fd, SOL.tcp, TCP_REPAIR, on, 4);
}

/** What a connection must have to go on elsewhere: sequence numbers, queues, what was negotiated.
 *  @param fd  connected, in any state from ESTABLISHED to LAST_ACK
 *  @throws SysError EPERM without CAP_NET_ADMIN in the socket's network namespace */
export function captureTcpState(fd: number, info: TcpInfo): TcpState {
  return inRepairMode(fd, () => {
    const receive = receiveSide(fd, info.state);
    const send = sendSide(fd, info.state);
    return {
      ...receive,
      ...send,
      mssClamp: socketInt(fd, SOL.tcp, TCP_MAXSEG) ?? 0,
      sendWindowScale: info.sendScale,
      receiveWindowScale: info.receiveScale,
      windowScale: info.windowScale,
      sackPermitted: info.sack,
      timestamps: info.timestamps,
      timestamp: info.timestamps ? (socketInt(fd, SOL.tcp, TCP_TIMESTAMP) ?? 0) >>> 0 : 0,
      window: socketOption(fd, SOL.tcp, TCP_REPAIR_WINDOW, 20) ?? Buffer.alloc(0),
      windowClamp: socketInt(fd, SOL.tcp, TCP_WINDOW_CLAMP) ?? 0,
    };
  });
}

function sequence(fd: number, queue: number): number {
  setSocketInt(fd, SOL.tcp, TCP_REPAIR_QUEUE, queue);
  return (socketInt(fd, SOL.tcp, TCP_QUEUE_SEQ) ?? 0) >>> 0;
}

function receiveSide(
  fd: number,
  state: number,
): Pick<TcpState, 'receiveSequence' | 'receiveQueue'> {
  const next = sequence(fd, RECEIVE_QUEUE);
  const length = ioctlInt(fd, SIOCINQ);
  const receiveQueue = length === 0 ? Buffer.alloc(0) : peekStream(fd, length);
  return { receiveSequence: (next - (hasReceivedFin(state) ? 1 : 0)) >>> 0, receiveQueue };
}

function sendSide(
  fd: number,
  state: number,
): Pick<TcpState, 'sendSequence' | 'sendQueue' | 'unsent' | 'finUnsent'> {
  const next = sequence(fd, SEND_QUEUE);
  const fin = hasSentFin(state) ? 1 : 0;
  const queued = Math.max(0, ioctlInt(fd, SIOCOUTQ) - (state === TCP.finWait2 ? 0 : fin));
  const notSent = queued === 0 && fin === 0 ? 0 : ioctlInt(fd, SIOCOUTQNSD);
  const finUnsent = fin === 1 && notSent > 0;
  return {
    sendSequence: (next - fin - queued) >>> 0,
    sendQueue: queued === 0 ? Buffer.alloc(0) : peekSendQueue(fd, queued),
    unsent: Math.min(queued, finUnsent ? notSent - 1 : notSent),
    finUnsent,
  };
}

/** In repair mode MSG_PEEK shows the send queue: whole segments, of which the end is wanted. */
function peekSendQueue(fd: number, length: number): Buffer {
  const out = Buffer.allocUnsafeSlow(length + LARGEST_SEGMENT);
  const got = call('recvfrom', fd, out, out.length, 2 | 0x40, null, null);
  return Buffer.from(out.subarray(Math.max(0, got - length), got));
}

/** This side has shut down sending. */
export function hasSentFin(state: number): boolean {
  return ([TCP.finWait1, TCP.finWait2, TCP.lastAck, TCP.closing] as number[]).includes(state);
}

/** The peer has. */
export function hasReceivedFin(state: number): boolean {
  return ([TCP.closeWait, TCP.lastAck, TCP.closing] as number[]).includes(state);
}
