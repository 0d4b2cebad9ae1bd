import type { FileObject, SocketBuffers, SocketOption } from '@ferry/image';
import type { Argument, DataRef, ProgramBuilder } from '../program.js';
import { CHANGEABLE, F_SETFL, O_ASYNC } from './common.js';

export const SOL = { socket: 1, ip: 0, tcp: 6, udp: 17, ipv6: 41 } as const;
const SO_ATTACH_FILTER = 26;
const EPERM = 1;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const SO_SNDBUFFORCE = 32;
const SO_RCVBUFFORCE = 33;
const SO_LOCK_FILTER = 44;
const SO_BUF_LOCK = 72;
const SEND_LOCK = 1;
const RECEIVE_LOCK = 2;
/** What the kernel adds to each message's length when it counts a buffer's use, rounded up. */
const MESSAGE_OVERHEAD = 4096;
const INT_BYTES = 4;

const constants = new WeakMap<ProgramBuilder, Map<string, DataRef>>();

/** Bytes that steps only read: the same ones stand in the program once. */
export function constant(b: ProgramBuilder, bytes: Uint8Array): DataRef {
  if (bytes.length === INT_BYTES) return constantInt(b, intOf(bytes));
  let known = constants.get(b);
  if (known === undefined) {
    known = new Map();
    constants.set(b, known);
  }
  const key = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1');
  let at = known.get(key);
  if (at === undefined) {
    at = b.bytes(bytes);
    known.set(key, at);
  }
  return at;
}

const numbers = new WeakMap<ProgramBuilder, Map<number, DataRef>>();

/** The same for an `int`. */
function constantInt(b: ProgramBuilder, value: number): DataRef {
  let known = numbers.get(b);
  if (known === undefined) {
    known = new Map();
    numbers.set(b, known);
  }
  const number = value | 0;
  let at = known.get(number);
  if (at === undefined) {
    at = b.bytes(intBytes(number));
    known.set(number, at);
  }
  return at;
}

/** Little endian. */
function intOf(bytes: Uint8Array): number {
  return bytes[0]! | (bytes[1]! << 8) | (bytes[2]! << 16) | (bytes[3]! << 24);
}

export function intBytes(value: number): Buffer {
  const bytes = Buffer.alloc(INT_BYTES);
  bytes.writeInt32LE(value | 0, 0);
  return bytes;
}

/** setsockopt(2). */
export function emitOption(
  b: ProgramBuilder,
  fd: Argument,
  option: SocketOption,
  name: string,
): void {
  const { level, name: number, value } = option;
  const at = constant(b, value);
  b.sys('setsockopt', [fd, level, number, at, value.length], `${name}: option ${level}/${number}`);
}

export function emitIntOption(
  b: ProgramBuilder,
  fd: Argument,
  option: { level: number; name: number; value: number },
  name: string,
): void {
  const { level, name: number, value } = option;
  const at = constantInt(b, value);
  b.sys('setsockopt', [fd, level, number, at, 4], `${name}: option ${level}/${number}`);
}

/** Room in a socket's buffers for messages that are put there, whatever its limits. */
export function emitRoom(
  b: ProgramBuilder,
  fd: Argument,
  messages: readonly { data: Uint8Array }[],
  which: 'send' | 'receive',
): void {
  const length = messages.reduce((sum, { data }) => sum + data.length, 0);
  const value = Math.min(0x3fffffff, length * 2 + (messages.length + 16) * MESSAGE_OVERHEAD);
  emitBufferSize(b, fd, { which, value }, 'room for what is queued');
}

/** Without privileges over the host (in a user namespace) no more than its limit: net.core.wmem_max, rmem_max. */
function emitBufferSize(
  b: ProgramBuilder,
  fd: Argument,
  { which, value }: { which: 'send' | 'receive'; value: number },
  name: string,
): void {
  const [forced, plain] =
    which === 'send' ? [SO_SNDBUFFORCE, SO_SNDBUF] : [SO_RCVBUFFORCE, SO_RCVBUF];
  const done = b.slotFor('buffer size');
  const after = b.label();
  const at = constantInt(b, value);
  b.sys('setsockopt', [fd, SOL.socket, forced, at, 4], `${name}: ${which} buffer`, {
    into: done,
    expect: { orErrno: EPERM },
  });
  b.op('jump', [done, 0], `${name}: ${which} buffer is set`, { target: after });
  b.sys('setsockopt', [fd, SOL.socket, plain, at, 4], `${name}: ${which} buffer`);
  b.place(after);
}

/** Buffer sizes as they were. Setting one locks it against the kernel's tuning: SO_BUF_LOCK says which were. The kernel
 *  doubles what is set. `all`: also those that nobody set, as they have been changed or have grown. */
export function emitBuffers(
  b: ProgramBuilder,
  fd: Argument,
  buffers: SocketBuffers | undefined,
  { name, all }: { name: string; all: boolean },
): void {
  if (buffers === undefined) return;
  const { send, receive, locks } = buffers;
  if (all || (locks & SEND_LOCK) !== 0) {
    emitBufferSize(b, fd, { which: 'send', value: send >>> 1 }, name);
  }
  if (all || (locks & RECEIVE_LOCK) !== 0) {
    emitBufferSize(b, fd, { which: 'receive', value: receive >>> 1 }, name);
  }
  if (all) {
    const lock = { level: SOL.socket, name: SO_BUF_LOCK, value: locks };
    emitIntOption(b, fd, lock, `${name}: buffer tuning`);
  }
}

/** SO_ATTACH_FILTER with struct sock_fprog; then nothing more may be received that the filter would drop. */
export function emitPacketFilter(
  b: ProgramBuilder,
  fd: Argument,
  program: Uint8Array,
  name: string,
): void {
  if (program.length === 0) return;
  const descriptor = Buffer.alloc(16);
  descriptor.writeUInt16LE(program.length / 8, 0);
  const at = b.bytes(descriptor);
  b.storeAddress(b.bytes(program), at.plus(8), `${name}: packet filter`);
  b.sys('setsockopt', [fd, SOL.socket, SO_ATTACH_FILTER, at, 16], `${name}: packet filter`);
}

/** SO_LOCK_FILTER forbids to set the filter: it comes after it. */
export function isFilterLock({ level, name }: SocketOption): boolean {
  return level === SOL.socket && name === SO_LOCK_FILTER;
}

/** O_NONBLOCK and the like, once nothing has to wait any more. */
export function emitSocketFlags(b: ProgramBuilder, file: FileObject, fd: Argument): void {
  const flags = file.flags & (CHANGEABLE | O_ASYNC);
  if (flags !== 0) b.sys('fcntl', [fd, F_SETFL, flags], `socket of file ${file.id}: flags`);
}
