import { NETLINK_HEADER, netlinkAttribute, netlinkMessage } from '@ferry/linux';
import type { ProgramBuilder } from '../program.js';
import { emitSend, emitSocket, only, parseMessage } from './netlink.js';

const NETLINK_NETFILTER = 12;
const SUBSYSTEM = 10;
const BATCH_BEGIN = 0x10;
const BATCH_END = 0x11;
const REQUEST = 1;
const ACK = 4;
const CREATE = 0x400;
const APPEND = 0x800;
/** NFT_MSG_*, with the attributes that describe the object; handles and use counts are the kernel's. */
const KINDS: Readonly<Record<number, { flags: number; keep: readonly number[] }>> = {
  0: { flags: CREATE, keep: [1, 2, 6] }, // table
  3: { flags: CREATE, keep: [1, 3, 4, 5, 7, 8, 10, 12] }, // chain
  6: { flags: CREATE | APPEND, keep: [1, 2, 4, 5, 7] }, // rule
  9: { flags: CREATE, keep: [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 17, 18] }, // set
  12: { flags: CREATE, keep: [1, 2, 3] }, // set elements
  18: { flags: CREATE, keep: [1, 2, 3, 4, 8] }, // object
};
const NFTA_SET_ID = 10;

/** Tables, chains, sets and rules of nf_tables, in one transaction. */
export function emitFilters(b: ProgramBuilder, messages: readonly Uint8Array[]): void {
  const batch: Buffer[] = [netlinkMessage(BATCH_BEGIN, REQUEST, Buffer.from([0, 0, 0, SUBSYSTEM]))];
  const described = messages.flatMap((message, i) => describe(Buffer.from(message), i));
  if (described.length === 0) return;
  batch.push(...described.map((message, i) => numbered(message, i, i === described.length - 1)));
  batch.push(netlinkMessage(BATCH_END, REQUEST, Buffer.from([0, 0, 0, SUBSYSTEM])));
  const socket = emitSocket(b, NETLINK_NETFILTER);
  emitSend(b, socket, Buffer.concat(batch), 'packet filter');
  b.sys('close', [socket], 'close the netlink socket');
}

function describe(message: Buffer, i: number): Buffer[] {
  const type = message.readUInt16LE(4) & 0xff;
  const kind = KINDS[type];
  if (kind === undefined) return [];
  const parsed = parseMessage(message, 4);
  const attributes = [only(parsed, kind.keep)];
  if (type === 9) {
    const id = Buffer.alloc(4);
    id.writeUInt32BE(i + 1);
    attributes.push(netlinkAttribute(NFTA_SET_ID, id));
  }
  const payload = Buffer.concat([parsed.fixed.subarray(0, 2), Buffer.alloc(2), ...attributes]);
  return [netlinkMessage((SUBSYSTEM << 8) | type, REQUEST | kind.flags, payload)];
}

function numbered(message: Buffer, i: number, isLast: boolean): Buffer {
  message.writeUInt32LE(i + 1, 8);
  if (isLast) message.writeUInt16LE(message.readUInt16LE(6) | ACK, 6);
  return message.subarray(0, Math.max(NETLINK_HEADER, message.length));
}
