import type { InetSocket, InetWaiting } from '@ferry/image';
import type { Argument, ProgramBuilder } from '../program.js';
import { constant, emitRoom, SOL } from './socket-options.js';

const SOCK_STREAM_CLOEXEC = 0o2000001;
const SO_REUSEADDR = 2;
const MSG_NOSIGNAL = 0x4000;

/** All that a client has sent to a server that has not accepted it: what has come, and what is still under way. */
export function sentBy(client: InetSocket, { data, receiveSequence }: InetWaiting): Buffer {
  const { sendQueue = Buffer.alloc(0), sendSequence = receiveSequence } = client.tcp ?? {};
  const come = Math.max(0, (receiveSequence - sendSequence) | 0);
  return Buffer.concat([data, sendQueue.subarray(come)]);
}

/** Sends what was sent before, in one go: the kernel keeps what does not fit on the other side. */
export function emitEarly(b: ProgramBuilder, data: Buffer, to: Argument, name: string): void {
  if (data.length === 0) return;
  emitRoom(b, to, [{ data }], 'send');
  const step = `${name}: sent before it was accepted`;
  b.sys('sendto', [to, b.bytes(data), data.length, MSG_NOSIGNAL, 0, 0], step, {
    expect: { value: data.length },
  });
}

/** A client that has closed its end: it connects from where it was, sends what it had sent, and closes it. */
export function emitClosedClient(b: ProgramBuilder, waiting: InetWaiting, name: string): void {
  const { client, server, data } = waiting;
  const step = `a closed client of ${name}`;
  const from = b.slotFor('client');
  const family = Buffer.from(client).readUInt16LE(0);
  b.sys('socket', [family, SOCK_STREAM_CLOEXEC, 0], `make ${step}`, { into: from });
  const one = constant(b, Buffer.from([1, 0, 0, 0]));
  b.sys('setsockopt', [from, SOL.socket, SO_REUSEADDR, one, 4], `${step}: SO_REUSEADDR`);
  b.sys('bind', [from, constant(b, client), client.length], `bind ${step}`);
  b.sys('connect', [from, constant(b, server), server.length], `connect ${step}`);
  emitEarly(b, Buffer.from(data), from, step);
  b.sys('close', [from], `close ${step}`);
}
