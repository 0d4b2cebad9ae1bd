import { FerryError, unreachable } from '@ferry/core';
import type { ByteReader } from './byte-reader.js';

/** Ferry's archive of a file tree: a stream of typed records in one fixed order, so that equal
 *  trees give equal bytes and the sha256 of the stream is the tree's name.
 *
 *      magic, then records: kind u8, fields, and for a file its content; last an end
 *      record with the sha256 of all bytes before it (kind included).
 *
 *  Order: the root folder (path ""), then depth first, names of a folder by byte value. A later
 *  name of an inode already seen is a hard link to its first path. Integers are little endian. A
 *  file's content is a list of extents (offset u64, length u32, bytes) ended by END_OF_CONTENT;
 *  what lies between them is zero. Paths and names are bytes, held here as latin1 strings: one
 *  character, one byte.
 *
 *  A patch is for a file that is there: its extents are what differs. */

export const MAGIC = Buffer.from('FERRYTREE\x00\x00\x01', 'latin1');
const END_OF_CONTENT = 0xffff_ffff_ffff_ffffn;

/** In a patch, set in the length of an extent of zeros, which has no bytes. */
const HOLE = 0x8000_0000;

/** One extent; also the size of one read of a file. */
export const EXTENT_BYTES_MAX = 1024 * 1024;
export const LIMITS = {
  pathBytes: 4096,
  nameBytes: 255,
  depth: 256,
  xattrs: 256,
  xattrValueBytes: 65536,
  entries: 20_000_000,
  fileBytes: 1n << 44n,
} as const;

const KINDS = {
  directory: 1,
  file: 2,
  symlink: 3,
  hardLink: 4,
  character: 5,
  block: 6,
  fifo: 7,
  socket: 8,
  patch: 9,
  end: 255,
} as const;
const KIND_NAMES = new Map<number, Kind>(
  Object.entries(KINDS).map(([name, code]) => [code, name as Kind]),
);
type Kind = keyof typeof KINDS;

export interface Metadata {
  /** Permission bits only, 0..0o7777. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Modification time since 1970, nanoseconds. */
  readonly mtimeNs: bigint;
  /** Sorted by name; values as bytes. */
  readonly xattrs: readonly { readonly name: string; readonly value: Buffer }[];
}

export type Entry =
  | { readonly kind: 'directory'; readonly path: string; readonly meta: Metadata }
  | {
      readonly kind: 'file' | 'patch';
      readonly path: string;
      readonly meta: Metadata;
      readonly size: bigint;
    }
  | {
      readonly kind: 'symlink';
      readonly path: string;
      readonly meta: Metadata;
      readonly target: string;
    }
  | { readonly kind: 'hardLink'; readonly path: string; readonly target: string }
  | {
      readonly kind: 'character' | 'block';
      readonly path: string;
      readonly meta: Metadata;
      readonly major: number;
      readonly minor: number;
    }
  | { readonly kind: 'fifo' | 'socket'; readonly path: string; readonly meta: Metadata };

/** Collects the fields of one record. */
class RecordWriter {
  #parts: Buffer[] = [];

  u8(value: number): this {
    return this.#push(Buffer.of(value));
  }

  u32(value: number): this {
    const bytes = Buffer.allocUnsafe(4);
    bytes.writeUInt32LE(value);
    return this.#push(bytes);
  }

  i64(value: bigint): this {
    const bytes = Buffer.allocUnsafe(8);
    bytes.writeBigInt64LE(value);
    return this.#push(bytes);
  }

  u64(value: bigint): this {
    const bytes = Buffer.allocUnsafe(8);
    bytes.writeBigUInt64LE(value);
    return this.#push(bytes);
  }

  /** A length (u32) and that many bytes. */
  bytes(value: Buffer): this {
    return this.u32(value.length).#push(value);
  }

  text(value: string): this {
    return this.bytes(Buffer.from(value, 'latin1'));
  }

  meta(meta: Metadata): this {
    this.u32(meta.mode).u32(meta.uid).u32(meta.gid).i64(meta.mtimeNs).u32(meta.xattrs.length);
    for (const { name, value } of meta.xattrs) this.text(name).bytes(value);
    return this;
  }

  done(): Buffer {
    return Buffer.concat(this.#parts);
  }

  #push(bytes: Buffer): this {
    this.#parts.push(bytes);
    return this;
  }
}

/** The bytes of a record; a file's content follows separately. */
export function encodeEntry(entry: Entry): Buffer {
  const out = new RecordWriter().u8(KINDS[entry.kind]).text(entry.path);
  switch (entry.kind) {
    case 'directory':
    case 'fifo':
    case 'socket':
      return out.meta(entry.meta).done();
    case 'file':
    case 'patch':
      return out.meta(entry.meta).u64(entry.size).done();
    case 'symlink':
      return out.meta(entry.meta).text(entry.target).done();
    case 'hardLink':
      return out.text(entry.target).done();
    case 'character':
    case 'block':
      return out.meta(entry.meta).u32(entry.major).u32(entry.minor).done();
    default:
      return unreachable(entry);
  }
}

/** The bytes before an extent's content. */
export function encodeExtent(offset: bigint, length: number): Buffer {
  return new RecordWriter().u64(offset).u32(length).done();
}

/** An extent of zeros, in a patch. */
export function encodeHole(offset: bigint, length: number): Buffer {
  return new RecordWriter()
    .u64(offset)
    .u32(HOLE + length)
    .done();
}

/** Where the next extent is, checked against the entry; undefined after the last. Its bytes follow unless it is a hole.
 *  @param end  where the last one ended
 *  @throws FerryError container.archive */
export async function decodeExtent(
  reader: ByteReader,
  { kind, path, size }: Extract<Entry, { kind: 'file' | 'patch' }>,
  end: bigint,
): Promise<{ offset: bigint; length: number; hole: boolean } | undefined> {
  const offset = await reader.u64();
  if (offset === END_OF_CONTENT) return undefined;
  const field = await reader.u32();
  const hole = kind === 'patch' && field >= HOLE;
  const length = hole ? field - HOLE : field;
  const fits = length > 0 && length <= EXTENT_BYTES_MAX;
  if (!fits || offset < end || offset + BigInt(length) > size) {
    throw damaged(`content of ${shown(path)} at ${offset}, ${length} bytes, of ${size}`);
  }
  return { offset, length, hole };
}

export function encodeEndOfContent(): Buffer {
  return new RecordWriter().u64(END_OF_CONTENT).done();
}

export function encodeEnd(sha256: Buffer): Buffer {
  return new RecordWriter().u8(KINDS.end).bytes(sha256).done();
}

/** The next record, its fields checked against LIMITS; 'end' at the end record, whose hash is not
 *  yet read.
 *  @throws FerryError container.archive */
export async function decodeEntry(reader: ByteReader): Promise<Entry | 'end'> {
  const code = await reader.u8();
  const kind = KIND_NAMES.get(code);
  if (kind === undefined) throw damaged(`record of unknown kind ${code}`);
  if (kind === 'end') return 'end';
  const path = await text(reader, LIMITS.pathBytes, 'path');
  switch (kind) {
    case 'directory':
    case 'fifo':
    case 'socket':
      return { kind, path, meta: await metadata(reader) };
    case 'file':
    case 'patch': {
      const meta = await metadata(reader);
      const size = await reader.u64();
      if (size > LIMITS.fileBytes) throw damaged(`file of ${size} bytes`);
      return { kind, path, meta, size };
    }
    case 'symlink': {
      const meta = await metadata(reader);
      return { kind, path, meta, target: await text(reader, LIMITS.pathBytes, 'link target') };
    }
    case 'hardLink':
      return { kind, path, target: await text(reader, LIMITS.pathBytes, 'link target') };
    case 'character':
    case 'block': {
      const meta = await metadata(reader);
      return { kind, path, meta, major: await reader.u32(), minor: await reader.u32() };
    }
    default:
      return unreachable(kind);
  }
}

/** The hash inside the end record. */
export async function decodeEndHash(reader: ByteReader): Promise<string> {
  const length = await reader.u32();
  if (length !== 32) throw damaged(`end record with a hash of ${length} bytes`);
  return Buffer.from(await reader.read(32)).toString('hex');
}

async function metadata(reader: ByteReader): Promise<Metadata> {
  const fixed = await reader.read(24);
  const mode = fixed.readUInt32LE(0);
  const uid = fixed.readUInt32LE(4);
  const gid = fixed.readUInt32LE(8);
  const mtimeNs = fixed.readBigInt64LE(12);
  const count = fixed.readUInt32LE(20);
  if (mode > 0o7777) throw damaged(`mode ${mode.toString(8)}`);
  if (count > LIMITS.xattrs) throw damaged(`${count} extended attributes on one file`);
  const xattrs: { name: string; value: Buffer }[] = [];
  for (let index = 0; index < count; index++) {
    const name = await text(reader, LIMITS.nameBytes, 'attribute name');
    const length = await reader.u32();
    if (length > LIMITS.xattrValueBytes) throw damaged(`attribute value of ${length} bytes`);
    xattrs.push({ name, value: Buffer.from(await reader.read(length)) });
  }
  return { mode, uid, gid, mtimeNs, xattrs };
}

async function text(reader: ByteReader, max: number, what: string): Promise<string> {
  const length = await reader.u32();
  if (length > max) throw damaged(`${what} of ${length} bytes`);
  const value = (await reader.read(length)).toString('latin1');
  if (value.includes('\0')) throw damaged(`${what} with a NUL byte`);
  return value;
}

export function damaged(what: string): FerryError {
  return new FerryError('container.archive', `The archive is damaged or hostile: ${what}`);
}

/** Splits and checks a path of an archive: relative, no empty, "." or ".." component.
 *  @returns its components; none for the root
 *  @throws FerryError container.archive */
export function pathComponents(path: string): string[] {
  if (path === '') return [];
  const components = path.split('/');
  if (components.length > LIMITS.depth) throw damaged(`path ${shown(path)} is too deep`);
  for (const name of components) {
    if (name === '' || name === '.' || name === '..' || name.length > LIMITS.nameBytes) {
      throw damaged(`path ${shown(path)} leaves the tree or is not in its plain form`);
    }
  }
  return components;
}

/** For messages: printable, and short. */
export function shown(path: string): string {
  return JSON.stringify(Buffer.from(path, 'latin1').toString('utf8').slice(0, 200));
}
