import { NETLINK_HEADER, netlinkAttribute, netlinkAttributes, netlinkMessage } from '@ferry/linux';
import type { ProgramBuilder, Slot } from '../program.js';

const AF_NETLINK = 16;
const SOCK_RAW = 3;
const NLM_F_REQUEST_ACK = 0x5;
const ANSWER = 64;

/** How a message changes what is there: NLM_F_*. */
export const CHANGE = { create: 0x600, replace: 0x500, append: 0xc00, set: 0 } as const;

/** Attributes of a dumped message as a record. */
export interface Parsed {
  /** What stands between the header and the attributes. */
  readonly fixed: Buffer;
  readonly attributes: [number, Buffer][];
}

export function parseMessage(message: Uint8Array, fixedLength: number): Parsed {
  const bytes = Buffer.from(message);
  const start = NETLINK_HEADER + fixedLength;
  return {
    fixed: Buffer.from(bytes.subarray(NETLINK_HEADER, start)),
    attributes: [...netlinkAttributes(bytes, start)],
  };
}

export function attributeOf(parsed: Parsed, type: number): Buffer | undefined {
  return parsed.attributes.find(([found]) => found === type)?.[1];
}

/** Only attributes of these types. */
export function only(parsed: Parsed, types: readonly number[]): Buffer {
  return Buffer.concat(
    parsed.attributes
      .filter(([type]) => types.includes(type))
      .map(([type, value]) => netlinkAttribute(type, value)),
  );
}

/** All attributes but those of these types. */
export function without(parsed: Parsed, types: readonly number[]): Buffer {
  return Buffer.concat(
    parsed.attributes
      .filter(([type]) => !types.includes(type))
      .map(([type, value]) => netlinkAttribute(type, value)),
  );
}

/** A netlink socket in whatever network namespace the program is in, for the length of a few steps. */
export function emitSocket(b: ProgramBuilder, protocol: number): Slot {
  const socket = b.slotFor('netlink');
  b.sys('socket', [AF_NETLINK, SOCK_RAW, protocol], 'netlink socket', { into: socket });
  return socket;
}

/** Sends one change and checks the kernel's answer. @param orErrno  an error that is as good as success */
export function emitChange(
  b: ProgramBuilder,
  socket: Slot | number,
  change: { type: number; flags: number; payload: Buffer; step: string },
): void {
  const { type, flags, payload, step } = change;
  emitSend(b, socket, netlinkMessage(type, NLM_F_REQUEST_ACK | flags, payload), step);
}

/** Sends bytes that are answered once, and checks that the answer is no error. */
export function emitSend(
  b: ProgramBuilder,
  socket: Slot | number,
  message: Buffer,
  step: string,
): void {
  const answer = b.reserve(ANSWER);
  const expect = { value: message.length };
  b.sys('sendto', [socket, b.bytes(message), message.length, 0, 0, 0], step, { expect });
  b.sys('recvfrom', [socket, answer, ANSWER, 0, 0, 0], `answer to: ${step}`);
  const code = b.slotFor('netlink answer');
  b.op('load', [answer.plus(NETLINK_HEADER), 4], `result of: ${step}`, {
    into: code,
    expect: { value: 0 },
    value: 0,
  });
}
