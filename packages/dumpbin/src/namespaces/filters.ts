import { NETLINK_HEADER, netlinkAttribute, netlinkAttributes, netlinkMessage } from '@ferry/linux';
import type { ProgramBuilder } from '../program.js';
import { emitSend, emitSocket, only, type Parsed, parseMessage } from './netlink.js';

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
const ELEMENTS = 12;
const RULE = 6;
const NFTA_RULE_EXPRESSIONS = 4;
const NFTA_EXPR_NAME = 1;
const NFTA_EXPR_DATA = 2;
const NFTA_EXTHDR_FLAGS = 5;
const NFTA_EXTHDR_SREG = 7;
const NFTA_SET_ELEM_LIST_ELEMENTS = 3;
const NFTA_SET_ELEM_KEY = 1;
const NFTA_SET_ELEM_FLAGS = 3;
const INTERVAL_END = 1;
const NESTED = 0x8000;

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
  const attributes = [rewritten(type, parsed) ?? only(parsed, kind.keep)];
  if (type === 9) {
    const id = Buffer.alloc(4);
    id.writeUInt32BE(i + 1);
    attributes.push(netlinkAttribute(NFTA_SET_ID, id));
  }
  const payload = Buffer.concat([parsed.fixed.subarray(0, 2), Buffer.alloc(2), ...attributes]);
  return [netlinkMessage((SUBSYSTEM << 8) | type, REQUEST | kind.flags, payload)];
}

/** What a dump tells and the kernel does not take back. */
function rewritten(type: number, parsed: Parsed): Buffer | undefined {
  const [list, change] =
    type === ELEMENTS
      ? [NFTA_SET_ELEM_LIST_ELEMENTS, intervalEnd]
      : type === RULE
        ? [NFTA_RULE_EXPRESSIONS, optionSetter]
        : [];
  if (change === undefined) return undefined;
  return Buffer.concat(
    parsed.attributes
      .filter(([each]) => KINDS[type]!.keep.includes(each))
      .map(([each, value]) => {
        if (each !== list) return netlinkAttribute(each, value);
        const parts = [...netlinkAttributes(value, 0)].map(([kind, part]) =>
          netlinkAttribute(kind | NESTED, change(part)),
        );
        return netlinkAttribute(each | NESTED, Buffer.concat(parts));
      }),
  );
}

/** The end of an interval is told by its key alone: nft_add_set_elem, net/netfilter/nf_tables_api.c. */
function intervalEnd(element: Buffer): Buffer {
  const attributes = [...netlinkAttributes(element, 0)];
  const flags = attributes.find(([type]) => type === NFTA_SET_ELEM_FLAGS)?.[1].readUInt32BE(0) ?? 0;
  if ((flags & INTERVAL_END) === 0) return element;
  const key = attributes.find(([type]) => type === NFTA_SET_ELEM_KEY)?.[1] ?? Buffer.alloc(0);
  const number = Buffer.alloc(4);
  number.writeUInt32BE(flags);
  return Buffer.concat([
    netlinkAttribute(NFTA_SET_ELEM_KEY | NESTED, key),
    netlinkAttribute(NFTA_SET_ELEM_FLAGS, number),
  ]);
}

/** An expression that sets a TCP option has no flags: nft_exthdr_tcp_set_init, net/netfilter/nft_exthdr.c. */
function optionSetter(expression: Buffer): Buffer {
  const attributes = [...netlinkAttributes(expression, 0)];
  const name = attributes.find(([type]) => type === NFTA_EXPR_NAME)?.[1];
  const data = attributes.find(([type]) => type === NFTA_EXPR_DATA)?.[1];
  if (name?.toString('latin1') !== 'exthdr\0' || data === undefined) return expression;
  const parts = [...netlinkAttributes(data, 0)];
  if (!parts.some(([type]) => type === NFTA_EXTHDR_SREG)) return expression;
  const kept = parts
    .filter(([type]) => type !== NFTA_EXTHDR_FLAGS)
    .map(([type, value]) => netlinkAttribute(type, value));
  return Buffer.concat([
    netlinkAttribute(NFTA_EXPR_NAME, name),
    netlinkAttribute(NFTA_EXPR_DATA | NESTED, Buffer.concat(kept)),
  ]);
}

function numbered(message: Buffer, i: number, isLast: boolean): Buffer {
  message.writeUInt32LE(i + 1, 8);
  if (isLast) message.writeUInt16LE(message.readUInt16LE(6) | ACK, 6);
  return message.subarray(0, Math.max(NETLINK_HEADER, message.length));
}
