import type { PageEncoding } from '@ferry/linux';

/** What agent and pager say to each other (native/pager.c): a type and a length of four bytes each, then the message. */

export const TO_PAGER = { space: 1, pages: 2, next: 3, figures: 4, askAgain: 5, end: 6 } as const;
export const FROM_PAGER = {
  ready: 1,
  failed: 2,
  want: 3,
  range: 4,
  figures: 5,
  done: 6,
  damaged: 7,
} as const;

/** Addresses [start, end). */
export interface PagerRange {
  readonly start: bigint;
  readonly end: bigint;
}

/** A process whose memory is still elsewhere. */
export interface PagerSpace {
  readonly hostPid: number;
  /** As numbered in the container. */
  readonly pid: number;
  /** A userfaultfd that it has just made, by the number that it has there. */
  readonly descriptor: number;
  /** Mappings, or parts of them, whose missing pages the pager fills. */
  readonly ranges: readonly PagerRange[];
  /** What is to come of them; the rest is zeros. */
  readonly owed: readonly PagerRange[];
}

/** Pages of a process of the container, by the address that they had at its source. */
export interface WantedPages {
  readonly pid: number;
  readonly address: bigint;
  readonly pages: number;
}

/** Pages as they have come. */
export interface CameIn extends WantedPages {
  readonly encoding: PageEncoding;
  readonly hash: bigint;
  readonly data: Buffer;
}

export interface PagerFigures {
  readonly pagesLeft: number;
  /** How often a thread had to wait for a page. */
  readonly faults: number;
  readonly longestStallMs: number;
  readonly pagesWanted: number;
  readonly pagesPushed: number;
  readonly pagesDropped: number;
  readonly spaces: number;
}

const HEAD_BYTES = 8;
const LENGTH_MAX = 1 << 20;

function message(type: number, length: number): Buffer {
  const out = Buffer.alloc(HEAD_BYTES + length);
  out.writeUInt32LE(type, 0);
  out.writeUInt32LE(length, 4);
  return out;
}

export function spaceMessage(space: PagerSpace): Buffer {
  const { ranges, owed } = space;
  const out = message(TO_PAGER.space, 24 + 16 * (ranges.length + owed.length));
  out.writeUInt32LE(space.hostPid, 8);
  out.writeUInt32LE(space.pid, 12);
  out.writeInt32LE(space.descriptor, 16);
  out.writeUInt32LE(ranges.length, 20);
  out.writeUInt32LE(owed.length, 24);
  let at = HEAD_BYTES + 24;
  for (const { start, end } of [...ranges, ...owed]) {
    out.writeBigUInt64LE(start, at);
    out.writeBigUInt64LE(end, at + 8);
    at += 16;
  }
  return out;
}

/** The head; the data follows. */
export function pagesHead({ pid, encoding, address, hash, pages, data }: CameIn): Buffer {
  const out = message(TO_PAGER.pages, 32);
  out.writeUInt32LE(32 + data.length, 4);
  out.writeUInt32LE(pid, 8);
  out.writeUInt32LE(encoding === 'lz4' ? 1 : 0, 12);
  out.writeBigUInt64LE(address, 16);
  out.writeBigUInt64LE(hash, 24);
  out.writeUInt32LE(pages, 32);
  return out;
}

export function nextMessage(pagesMax: number): Buffer {
  const out = message(TO_PAGER.next, 4);
  out.writeUInt32LE(pagesMax, 8);
  return out;
}

export function plainMessage(type: 'figures' | 'askAgain' | 'end'): Buffer {
  return message(TO_PAGER[type], 0);
}

/** Ends a pager whatever is missing. */
export function abandonMessage(): Buffer {
  return message(TO_PAGER.end, 1);
}

export interface FromPager {
  readonly type: number;
  readonly body: Buffer;
}

/** Takes whole messages off the front of what has come. */
export function takeMessages(received: Buffer): { messages: FromPager[]; rest: Buffer } {
  const messages: FromPager[] = [];
  let at = 0;
  while (received.length - at >= HEAD_BYTES) {
    const length = received.readUInt32LE(at + 4);
    if (length > LENGTH_MAX) throw new RangeError(`A message of ${length} bytes`);
    if (received.length - at < HEAD_BYTES + length) break;
    const type = received.readUInt32LE(at);
    const body = received.subarray(at + HEAD_BYTES, at + HEAD_BYTES + length);
    messages.push({ type, body });
    at += HEAD_BYTES + length;
  }
  return { messages, rest: received.subarray(at) };
}

export function rangeOf(body: Buffer): WantedPages {
  return {
    pid: body.readUInt32LE(0),
    pages: body.readUInt32LE(4),
    address: body.readBigUInt64LE(8),
  };
}

export function figuresOf(body: Buffer): PagerFigures {
  const word = (index: number) => Number(body.readBigUInt64LE(index * 8));
  return {
    pagesLeft: word(0),
    faults: word(1),
    longestStallMs: word(2) / 1000,
    pagesWanted: word(3),
    pagesPushed: word(4),
    pagesDropped: word(5),
    spaces: word(6),
  };
}
