import type { InetSocket } from '@ferry/image';
import type { ProgramBuilder } from '../program.js';
import { F_SETFL, O_NONBLOCK } from './common.js';
import { AF, sockaddr } from './inet-address.js';
import { emitPoll, POLLHUP, POLLRDHUP } from './inet-raw.js';
import { constant, emitOption, emitRoom, SOL } from './socket-options.js';

const SOCK_STREAM = 1;
const EINPROGRESS = 115;
const SO_LINGER = 13;
const SHUT_WR = 1;
const MSG_DONTWAIT = 0x40;
const LOOPBACK = {
  [AF.inet]: Buffer.from([127, 0, 0, 1]),
  [AF.inet6]: Buffer.from([...Array.from({ length: 15 }, () => 0), 1]),
};

/** A TCP socket whose connection is over: what it has not read yet, and whether it ended with a reset, are all that is
 *  left of it. A connection over loopback is brought to the same end. */
export function emitClosedConnection(
  b: ProgramBuilder,
  socket: InetSocket,
  { fd, name }: { fd: number; name: string },
): void {
  const family = socket.family === AF.inet ? AF.inet : AF.inet6;
  const step = `${name}: a connection that is over`;
  const [listener, other] = [b.slotFor('listener'), b.slotFor('accepted')];
  const address = b.bytes(sockaddr(family, { address: LOOPBACK[family], port: 0, scopeId: 0 }));
  const length = family === AF.inet ? 16 : 28;
  b.sys('socket', [family, SOCK_STREAM, 0], step, { into: listener });
  b.sys('bind', [listener, address, length], step);
  if (!socket.wasRefused) b.sys('listen', [listener, 1], step);
  const size = b.bytes(Buffer.from([length, 0, 0, 0]));
  b.sys('getsockname', [listener, address, size], step);
  if (socket.wasRefused) {
    // Without waiting for the answer, which connect(2) would take.
    b.sys('fcntl', [fd, F_SETFL, O_NONBLOCK], step);
    b.sys('connect', [fd, address, length], step, { expect: { value: -EINPROGRESS } });
    b.sys('close', [listener], step);
    b.sys('fcntl', [fd, F_SETFL, 0], step);
    emitPoll(b, fd, POLLHUP, step);
    return;
  }
  b.sys('connect', [fd, address, length], step);
  b.sys('accept4', [listener, 0, 0, 0], step, { into: other });
  b.sys('close', [listener], step);
  for (const { data } of socket.receiveQueue) {
    emitRoom(b, fd, [{ data }], 'receive');
    emitRoom(b, other, [{ data }], 'send');
    b.sys('sendto', [other, b.bytes(data), data.length, MSG_DONTWAIT, 0, 0], step, {
      expect: { value: data.length },
    });
  }
  if (socket.wasReset) {
    const value = Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]);
    emitOption(b, fd, { level: SOL.socket, name: SO_LINGER, value: Buffer.alloc(8) }, step);
    b.sys('setsockopt', [other, SOL.socket, SO_LINGER, constant(b, value), 8], step);
    b.sys('close', [other], step);
  } else {
    b.sys('close', [other], step);
    emitPoll(b, fd, POLLRDHUP, step);
    b.sys('shutdown', [fd, SHUT_WR], step);
  }
  emitPoll(b, fd, POLLHUP, step);
}
