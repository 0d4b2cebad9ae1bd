import { FerryError } from '@ferry/core';
import type { TcpState } from '@ferry/image';
import {
  call,
  ioctlInt,
  peekStream,
  SO,
  SOL,
  SyscallBatch,
  setSocketInt,
  socketInt,
  sys,
  sysError,
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
const WINDOW_SIZE = 20;
const INFO_SIZE = 104;
/** A segment at the head of the send queue may begin with bytes that the peer has acknowledged. */
const LARGEST_SEGMENT = 65536;
const TRIES = 16;
const NOTHING = Buffer.alloc(0);

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

export function parseTcpInfo(raw: Buffer): TcpInfo {
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

function int(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value, 0);
  return bytes;
}

/** One look at a connection in repair mode (TCP_REPAIR, net/ipv4/tcp.c), which ends with the look: were this process
 *  killed later, the connection goes on. Repair mode sets SO_REUSEADDR, and leaving it clears it. */
class RepairLook {
  readonly reuse = int(0);
  readonly received = int(0);
  readonly receivedAfter = int(0);
  readonly readable = int(0);
  /** As `readable`, beyond a place where urgent data is or was. */
  readonly readableInLine = int(0);
  readonly inLine = int(0);
  readonly written = int(0);
  readonly unacknowledged = int(0);
  readonly unsent = int(0);
  readonly segment = int(0);
  readonly timestamp = int(0);
  readonly clamp = int(0);
  readonly window = Buffer.alloc(WINDOW_SIZE);
  readonly info = Buffer.alloc(INFO_SIZE);
  readonly #batch: SyscallBatch;

  constructor() {
    const set = (name: number, value: number, level: number = SOL.tcp) => ({
      name: 'setsockopt' as const,
      args: [level, name, int(value), 4],
    });
    const get = (name: number, value: Buffer) => ({
      name: 'getsockopt' as const,
      args: [SOL.tcp, name, value, int(value.length)],
    });
    const ioctl = (request: number, value: Buffer) => ({
      name: 'ioctl' as const,
      args: [request, value],
    });
    this.#batch = new SyscallBatch([
      set(TCP_REPAIR, REPAIR_ON),
      set(TCP_REPAIR_QUEUE, RECEIVE_QUEUE),
      get(TCP_QUEUE_SEQ, this.received),
      ioctl(SIOCINQ, this.readable),
      set(SO.oobInline, 1, SOL.socket),
      ioctl(SIOCINQ, this.readableInLine),
      { name: 'setsockopt', args: [SOL.socket, SO.oobInline, this.inLine, 4] },
      get(TCP_INFO, this.info),
      get(TCP_REPAIR_WINDOW, this.window),
      get(TCP_QUEUE_SEQ, this.receivedAfter),
      set(TCP_REPAIR_QUEUE, SEND_QUEUE),
      get(TCP_QUEUE_SEQ, this.written),
      ioctl(SIOCOUTQ, this.unacknowledged),
      ioctl(SIOCOUTQNSD, this.unsent),
      get(TCP_MAXSEG, this.segment),
      get(TCP_TIMESTAMP, this.timestamp),
      get(TCP_WINDOW_CLAMP, this.clamp),
      set(TCP_REPAIR, REPAIR_OFF_SILENTLY),
      { name: 'setsockopt', args: [SOL.socket, SO.reuseAddress, this.reuse, 4] },
    ]);
  }

  /** @throws SysError EPERM without CAP_NET_ADMIN in the socket's network namespace */
  take(fd: number, { reuseAddress, isOobInline }: SetOptions): void {
    this.reuse.writeInt32LE(reuseAddress, 0);
    this.inLine.writeInt32LE(isOobInline ? 1 : 0, 0);
    for (let tries = 0; tries < TRIES; tries++) {
      this.#batch.run(fd);
      const entered = this.#batch.result(0);
      if (entered < 0) throw sysError('setsockopt TCP_REPAIR', -entered);
      // A segment that arrives between two of these calls makes them disagree.
      if (this.received.equals(this.receivedAfter)) return;
    }
    throw new FerryError('capture.tcpBusy', 'A TCP connection does not stop receiving', {
      remedy: 'cut the network of the container before it is captured',
    });
  }
}

/** What a look changes and puts back. */
interface SetOptions {
  readonly reuseAddress: number;
  readonly isOobInline: boolean;
}

let look: RepairLook | undefined;

/** What a connection must have to go on elsewhere: sequence numbers, queues, what was negotiated, and its state, which
 *  may have changed since it was last looked at.
 *  `isWhole`: nothing lies behind a place of urgent data, where no look reaches.
 *  @param fd  in any state from ESTABLISHED to LAST_ACK, or SYN_SENT
 *  @throws SysError EPERM without CAP_NET_ADMIN in the socket's network namespace */
export function captureTcpState(
  fd: number,
  set: SetOptions,
): { state: number; tcp: TcpState; isWhole: boolean } {
  look ??= new RepairLook();
  look.take(fd, set);
  const info = parseTcpInfo(look.info);
  const { state } = info;
  const received = look.received.readUInt32LE(0);
  const length = look.readable.readInt32LE(0);
  const isInOne = look.readableInLine.readInt32LE(0) === length;
  const mssClamp = look.segment.readInt32LE(0);
  const windowClamp = look.clamp.readInt32LE(0);
  const timestamp = look.timestamp.readUInt32LE(0);
  const window = Buffer.from(look.window);
  const receiveQueue = length === 0 ? NOTHING : peekStream(fd, length);
  const send = sendSide(fd, state, { look, reuseAddress: set.reuseAddress });
  const tcp = {
    receiveSequence: (received - (hasReceivedFin(state) ? 1 : 0)) >>> 0,
    receiveQueue,
    ...send,
    mssClamp,
    sendWindowScale: info.sendScale,
    receiveWindowScale: info.receiveScale,
    windowScale: info.windowScale,
    sackPermitted: info.sack,
    timestamps: info.timestamps,
    timestamp: info.timestamps ? timestamp : 0,
    window,
    windowClamp,
  };
  return { state, tcp, isWhole: isInOne && receiveQueue.length >= length };
}

function sendSide(
  fd: number,
  state: number,
  { look, reuseAddress }: { look: RepairLook; reuseAddress: number },
): Pick<TcpState, 'sendSequence' | 'sendQueue' | 'unsent' | 'finUnsent'> {
  const fin = hasSentFin(state) ? 1 : 0;
  // In FIN_WAIT2 the FIN is acknowledged, and no longer queued.
  const queuedFin = state === TCP.finWait2 ? 0 : fin;
  let written = look.written.readUInt32LE(0);
  let queued = Math.max(0, look.unacknowledged.readInt32LE(0) - queuedFin);
  let notSent = look.unsent.readInt32LE(0);
  let sendQueue: Buffer = NOTHING;
  if (queued > 0) {
    inRepairMode(fd, reuseAddress, () => {
      setSocketInt(fd, SOL.tcp, TCP_REPAIR_QUEUE, SEND_QUEUE);
      written = (socketInt(fd, SOL.tcp, TCP_QUEUE_SEQ) ?? 0) >>> 0;
      sendQueue = peekSendQueue(fd, queued);
      queued = Math.max(0, ioctlInt(fd, SIOCOUTQ) - queuedFin);
      notSent = ioctlInt(fd, SIOCOUTQNSD);
    });
    sendQueue = sendQueue.subarray(Math.max(0, sendQueue.length - queued));
  }
  const finUnsent = queuedFin === 1 && notSent > 0;
  return {
    sendSequence: (written - fin - queued) >>> 0,
    sendQueue,
    unsent: Math.min(queued, finUnsent ? notSent - 1 : notSent),
    finUnsent,
  };
}

function inRepairMode(fd: number, reuseAddress: number, query: () => void): void {
  setSocketInt(fd, SOL.tcp, TCP_REPAIR, REPAIR_ON);
  try {
    query();
  } finally {
    setSocketInt(fd, SOL.tcp, TCP_REPAIR, REPAIR_OFF_SILENTLY);
    if (reuseAddress !== 0) setSocketInt(fd, SOL.socket, SO.reuseAddress, reuseAddress);
  }
}

/** In repair mode MSG_PEEK shows the send queue: whole segments, of which the end is wanted. */
function peekSendQueue(fd: number, length: number): Buffer {
  const out = Buffer.allocUnsafeSlow(length + LARGEST_SEGMENT);
  const got = call('recvfrom', fd, out, out.length, 2 | 0x40, null, null);
  return Buffer.from(out.subarray(0, got));
}

const silent = int(REPAIR_ON);

/** Puts the last descriptor of a connection into repair mode, in which closing it sends nothing. */
export function silence(fd: number): void {
  sys('setsockopt', fd, SOL.tcp, TCP_REPAIR, silent, 4);
}

/** This side has shut down sending. */
export function hasSentFin(state: number): boolean {
  return ([TCP.finWait1, TCP.finWait2, TCP.lastAck, TCP.closing] as number[]).includes(state);
}

/** The peer has. */
export function hasReceivedFin(state: number): boolean {
  return ([TCP.closeWait, TCP.lastAck, TCP.closing] as number[]).includes(state);
}
