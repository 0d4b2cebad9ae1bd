import { FerryError } from '@ferry/core';
import type { PageEncoding } from '@ferry/linux';

/** A batch of pages under way: proto/ferry/cluster/v1/migration_source.proto, PageChunk. */
export interface PageChunk {
  /** Where it begins: index in the segment list, page in that segment. It goes on into the segments that follow. */
  readonly segment: number;
  readonly firstPage: number;
  readonly pages: number;
  readonly encoding: PageEncoding;
  /** XXH64 of the uncompressed pages. */
  readonly hash: bigint;
  readonly data: Buffer;
  /** Called once its data is not needed any more. */
  readonly release?: () => void;
}

/** A chunk but for its data. */
export type PageHead = Omit<PageChunk, 'data' | 'release'>;

/** Room to leave before a chunk's data so that the message is made around it without a copy. */
export const CHUNK_HEADROOM = 64;

// Protobuf field keys: number << 3 | wire type.
const KEY = { segment: 0x08, firstPage: 0x10, pages: 0x18, encoding: 0x20, hash: 0x29, data: 0x32 };

/** Writes a varint of up to 2^53 and returns where it ends. */
function putVarint(out: Buffer, value: number, start: number): number {
  let at = start;
  let rest = value;
  while (rest > 127) {
    out[at++] = (rest % 128) | 128;
    rest = Math.floor(rest / 128);
  }
  out[at++] = rest;
  return at;
}

function putHeader(out: Buffer, chunk: PageHead, length: number): number {
  let at = 0;
  const put = (key: number, value: number) => {
    if (value === 0) return;
    out[at++] = key;
    at = putVarint(out, value, at);
  };
  put(KEY.segment, chunk.segment);
  put(KEY.firstPage, chunk.firstPage);
  put(KEY.pages, chunk.pages);
  put(KEY.encoding, chunk.encoding === 'lz4' ? 1 : 0);
  if (chunk.hash !== 0n) {
    out[at++] = KEY.hash;
    at = out.writeBigUInt64LE(chunk.hash, at);
  }
  put(KEY.data, length);
  return at;
}

/** The message, byte for byte as the generated codec makes it. */
export function encodePageChunk(chunk: PageChunk): Buffer {
  const out = Buffer.allocUnsafe(CHUNK_HEADROOM + chunk.data.length);
  const length = putHeader(out, chunk, chunk.data.length);
  chunk.data.copy(out, length);
  return out.subarray(0, length + chunk.data.length);
}

/** The message made in place: `space` holds CHUNK_HEADROOM bytes of room, then `length` bytes of data. */
export function framePageChunk(chunk: PageHead, space: Buffer, length: number): Buffer {
  const header = Buffer.allocUnsafe(CHUNK_HEADROOM);
  const headerLength = putHeader(header, chunk, length);
  const start = CHUNK_HEADROOM - headerLength;
  header.copy(space, start, 0, headerLength);
  return space.subarray(start, CHUNK_HEADROOM + length);
}

class Reader {
  at = 0;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  readonly bytes: Buffer;

  varint(): number {
    let value = 0;
    let scale = 1;
    for (let i = 0; i < 10; i++) {
      const byte = this.bytes[this.at++];
      if (byte === undefined) throw damaged('a number is cut off');
      value += (byte & 127) * scale;
      if (byte < 128) {
        if (!Number.isSafeInteger(value)) throw damaged('a number is too large');
        return value;
      }
      scale *= 128;
    }
    throw damaged('a number does not end');
  }

  take(length: number): Buffer {
    if (length > this.bytes.length - this.at) throw damaged('it is cut off');
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }
}

function damaged(how: string): FerryError {
  return new FerryError('pages.damaged', `A page message is damaged: ${how}`);
}

/** Reads a message; `data` is a view of `bytes`. Unknown fields are passed over.
 *  @throws FerryError pages.damaged */
export function decodePageChunk(bytes: Buffer): PageChunk {
  const reader = new Reader(bytes);
  const chunk = {
    segment: 0,
    firstPage: 0,
    pages: 0,
    encoding: 0,
    hash: 0n,
    data: bytes.subarray(0, 0),
  };
  while (reader.at < bytes.length) {
    const key = reader.varint();
    if (key === KEY.segment) chunk.segment = reader.varint();
    else if (key === KEY.firstPage) chunk.firstPage = reader.varint();
    else if (key === KEY.pages) chunk.pages = reader.varint();
    else if (key === KEY.encoding) chunk.encoding = reader.varint();
    else if (key === KEY.hash) chunk.hash = reader.take(8).readBigUInt64LE();
    else if (key === KEY.data) chunk.data = reader.take(reader.varint());
    else skip(reader, key);
  }
  if (chunk.encoding > 1) throw damaged(`encoding ${chunk.encoding} is not known`);
  return { ...chunk, encoding: chunk.encoding === 1 ? 'lz4' : 'raw' };
}

function skip(reader: Reader, key: number): void {
  switch (key % 8) {
    case 0:
      reader.varint();
      return;
    case 1:
      reader.take(8);
      return;
    case 2:
      reader.take(reader.varint());
      return;
    case 5:
      reader.take(4);
      return;
    default:
      throw damaged(`field key ${key}`);
  }
}
