import { FerryError } from '@ferry/core';
import { OwnedFd } from './fd.js';
import { call, sysError } from './sys.js';

const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 3 | 0o2000000;
const NLM_F_REQUEST = 1;
const NLM_F_REQUEST_DUMP = 0x301;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const ANSWER_BYTES = 64 * 1024;

/** Length of struct nlmsghdr. */
export const NETLINK_HEADER = 16;

/** A netlink(7) message: type, flags, what follows the header. */
export function netlinkMessage(type: number, flags: number, payload: Uint8Array): Buffer {
  const message = Buffer.alloc(NETLINK_HEADER + payload.length);
  message.writeUInt32LE(message.length, 0);
  message.writeUInt16LE(type, 4);
  message.writeUInt16LE(flags, 6);
  message.set(payload, NETLINK_HEADER);
  return message;
}

/** Everything of one kind in the thread's network namespace: whole messages, header included, copied.
 *  @param request  type and payload; NLM_F_DUMP is added
 *  @throws SysError what the kernel answered, ENOENT or EOPNOTSUPP when it does not know the kind */
export function netlinkDump(
  protocol: number,
  request: { type: number; payload: Uint8Array },
): Buffer[] {
  using socket = new OwnedFd(call('socket', AF_NETLINK, SOCK_RAW_CLOEXEC, protocol));
  const message = netlinkMessage(request.type, NLM_F_REQUEST_DUMP, request.payload);
  call('sendto', socket.number, message, message.length, 0, null, 0);
  const answer = Buffer.allocUnsafeSlow(ANSWER_BYTES);
  const found: Buffer[] = [];
  for (;;) {
    const total = call('recvfrom', socket.number, answer, answer.length, 0, null, null);
    for (let at = 0; at + NETLINK_HEADER <= total; ) {
      const size = answer.readUInt32LE(at);
      const type = answer.readUInt16LE(at + 4);
      if (type === NLMSG_DONE) {
        const error = size >= 20 ? answer.readInt32LE(at + 16) : 0;
        if (error < 0) throw sysError('netlink', -error, `dump ${request.type}`);
        return found;
      }
      if (type === NLMSG_ERROR) {
        throw sysError('netlink', -answer.readInt32LE(at + 16), `dump ${request.type}`);
      }
      if (size < NETLINK_HEADER)
        throw new FerryError('linux.netlink', 'A netlink message is cut short');
      found.push(Buffer.from(answer.subarray(at, at + size)));
      at += (size + 3) & ~3;
    }
  }
}

/** What the kernel answers to a request for one thing: the whole message, header included.
 *  @throws SysError what the kernel answered, ENODEV or ENOENT when there is no such thing */
export function netlinkAsk(
  protocol: number,
  request: { type: number; payload: Uint8Array },
): Buffer {
  using socket = new OwnedFd(call('socket', AF_NETLINK, SOCK_RAW_CLOEXEC, protocol));
  const message = netlinkMessage(request.type, NLM_F_REQUEST, request.payload);
  call('sendto', socket.number, message, message.length, 0, null, 0);
  const answer = Buffer.alloc(ANSWER_BYTES);
  const total = call('recvfrom', socket.number, answer, answer.length, 0, null, null);
  if (total >= NETLINK_HEADER + 4 && answer.readUInt16LE(4) === NLMSG_ERROR) {
    throw sysError('netlink', -answer.readInt32LE(NETLINK_HEADER), `request ${request.type}`);
  }
  if (total < NETLINK_HEADER || answer.readUInt32LE(0) > total) {
    throw new FerryError('linux.netlink', 'A netlink message is cut short');
  }
  return Buffer.from(answer.subarray(0, answer.readUInt32LE(0)));
}

/** Attributes (struct rtattr) from `start` to the end: type without flag bits, and value. */
export function* netlinkAttributes(message: Buffer, start: number): Generator<[number, Buffer]> {
  for (let at = start; at + 4 <= message.length; ) {
    const size = message.readUInt16LE(at);
    if (size < 4) return;
    yield [message.readUInt16LE(at + 2) & 0x3fff, message.subarray(at + 4, at + size)];
    at += (size + 3) & ~3;
  }
}

/** One attribute, padded to four bytes. */
export function netlinkAttribute(type: number, value: Uint8Array): Buffer {
  const out = Buffer.alloc((4 + value.length + 3) & ~3);
  out.writeUInt16LE(4 + value.length, 0);
  out.writeUInt16LE(type, 2);
  out.set(value, 4);
  return out;
}
