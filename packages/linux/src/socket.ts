import { addressOf, call, ERRNO, sys } from './sys.js';

export const AF = { unix: 1, inet: 2, inet6: 10, netlink: 16, packet: 17, vsock: 40 } as const;
export const SOCK = { stream: 1, dgram: 2, raw: 3, seqpacket: 5, cloexec: 0o2000000 } as const;
export const SOL = { socket: 1, ip: 0, tcp: 6, udp: 17, ipv6: 41 } as const;
export const MSG = {
  peek: 2,
  truncated: 0x20,
  dontWait: 0x40,
  noSignal: 0x4000,
  closeOnExec: 0x40000000,
} as const;

/** Socket options that code names; the tables of what is carried are elsewhere. */
export const SO = {
  reuseAddress: 2,
  type: 3,
  sendBuffer: 7,
  receiveBuffer: 8,
  oobInline: 10,
  passCredentials: 16,
  peerCredentials: 17,
  bindToDevice: 25,
  getFilter: 26,
  protocol: 38,
  domain: 39,
  peekOffset: 42,
  netnsCookie: 71,
  bufferLock: 72,
} as const;

const scratch = Buffer.alloc(512);
const length = Buffer.alloc(4);

/** getsockopt(2): a copy of the value's bytes, at most `size` (512 at most); undefined when the socket has no such
 *  option. */
export function socketOption(
  fd: number,
  level: number,
  name: number,
  size: number,
): Buffer | undefined {
  length.writeUInt32LE(size, 0);
  const result = sys('getsockopt', fd, level, name, scratch, length);
  if (result < 0) return undefined;
  return Buffer.from(scratch.subarray(0, length.readUInt32LE(0)));
}

/** An option that is an int; undefined when the socket has no such option. */
export function socketInt(fd: number, level: number, name: number): number | undefined {
  length.writeUInt32LE(4, 0);
  if (sys('getsockopt', fd, level, name, scratch, length) < 0) return undefined;
  return scratch.readInt32LE(0);
}

/** setsockopt(2) of an int. @throws SysError */
export function setSocketInt(fd: number, level: number, name: number, value: number): void {
  scratch.writeInt32LE(value, 0);
  call('setsockopt', fd, level, name, scratch, 4);
}

/** getpeername(2): the sockaddr's bytes; undefined when it is not connected. */
export function peerAddress(fd: number): Buffer | undefined {
  length.writeUInt32LE(128, 0);
  if (sys('getpeername', fd, scratch, length) < 0) return undefined;
  return Buffer.from(scratch.subarray(0, Math.min(128, length.readUInt32LE(0))));
}

/** An ioctl(2) that gives an int, such as SIOCINQ (0x541b) and SIOCOUTQ (0x5411). @throws SysError */
export function ioctlInt(fd: number, request: number): number {
  call('ioctl', fd, request, scratch);
  return scratch.readInt32LE(0);
}

export const POLL = { in: 1, out: 4, error: 8, hangUp: 0x10, readHangUp: 0x2000 } as const;

/** poll(2) of one descriptor without waiting: the events that hold now. */
export function pollNow(fd: number, events: number): number {
  scratch.writeInt32LE(fd, 0);
  scratch.writeInt16LE(events, 4);
  scratch.writeInt16LE(0, 6);
  call('poll', scratch, 1, 0);
  return scratch.readUInt16LE(6);
}

/** A message as recvmsg(2) gives it. */
export interface ReceivedMessage {
  readonly data: Buffer;
  /** Larger than `data` when the message was cut to the size asked for. */
  readonly fullLength: number;
  /** The sender's sockaddr, empty when it has none. */
  readonly name: Buffer;
  readonly control: readonly { level: number; type: number; data: Buffer }[];
}

let body = Buffer.allocUnsafeSlow(256 * 1024);
const name = Buffer.alloc(128);
const control = Buffer.alloc(8192);
const vector = Buffer.alloc(16);
const header = Buffer.alloc(56);

/** Looks at the next message without taking it (MSG_PEEK); with SO_PEEK_OFF set, the one after the last that was looked
 *  at. Descriptors that come with it are installed in this process, close-on-exec.
 *  @param size  what to take at most of it; at least 256 KiB are
 *  @param more  flags; kinds of sockets with which no descriptors come refuse MSG_CMSG_CLOEXEC (packet(7): EINVAL)
 *  @returns undefined when there is none; an error of the socket is cleared by that, as by any receive */
export function peekMessage(
  fd: number,
  size: number,
  more: number = MSG.closeOnExec,
): ReceivedMessage | undefined {
  if (body.length < size) body = Buffer.allocUnsafeSlow(size);
  vector.writeBigUInt64LE(addressOf(body), 0);
  vector.writeBigUInt64LE(BigInt(body.length), 8);
  header.writeBigUInt64LE(addressOf(name), 0);
  header.writeUInt32LE(name.length, 8);
  header.writeBigUInt64LE(addressOf(vector), 16);
  header.writeBigUInt64LE(1n, 24);
  header.writeBigUInt64LE(addressOf(control), 32);
  header.writeBigUInt64LE(BigInt(control.length), 40);
  header.writeUInt32LE(0, 48);
  const result = sys('recvmsg', fd, header, MSG.peek | MSG.dontWait | MSG.truncated | more);
  if (result < 0) return undefined;
  const messages = parseControl(Number(header.readBigUInt64LE(40)));
  return {
    data: Buffer.from(body.subarray(0, Math.min(result, body.length))),
    fullLength: result,
    name: Buffer.from(name.subarray(0, Math.min(name.length, header.readUInt32LE(8)))),
    control: messages,
  };
}

function parseControl(total: number): { level: number; type: number; data: Buffer }[] {
  const messages: { level: number; type: number; data: Buffer }[] = [];
  for (let at = 0; at + 16 <= total; ) {
    const size = Number(control.readBigUInt64LE(at));
    if (size < 16 || at + size > total) break;
    messages.push({
      level: control.readInt32LE(at + 8),
      type: control.readInt32LE(at + 12),
      data: Buffer.from(control.subarray(at + 16, at + size)),
    });
    at += (size + 7) & ~7;
  }
  return messages;
}

/** Up to `size` bytes at the head of a stream's queue (or at SO_PEEK_OFF), not taken from it.
 *  @throws SysError, EAGAIN aside: nothing there is an empty buffer */
export function peekStream(fd: number, size: number): Buffer {
  const out = Buffer.allocUnsafeSlow(size);
  const result = sys('recvfrom', fd, out, size, MSG.peek | MSG.dontWait, null, null);
  if (result === -ERRNO.EAGAIN) return out.subarray(0, 0);
  if (result < 0) call('recvfrom', fd, out, size, MSG.peek | MSG.dontWait, null, null);
  return out.subarray(0, Math.max(0, result));
}
