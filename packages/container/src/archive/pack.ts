import { createHash } from 'node:crypto';
import type { BigIntStats } from 'node:fs';
import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  read as readCallback,
  readlinkSync,
  readSync,
} from 'node:fs';
import { promisify } from 'node:util';
import { FerryError } from '@ferry/core';
import type { OwnedFd } from '@ferry/linux';
import {
  type Entry,
  EXTENT_BYTES_MAX,
  encodeEnd,
  encodeEndOfContent,
  encodeEntry,
  encodeExtent,
  LIMITS,
  MAGIC,
  type Metadata,
  shown,
} from './format.js';
import {
  memberPath,
  namesIn,
  openFolder,
  openSubfolder,
  Pacer,
  readXattrs,
  unlessGone,
} from './raw-fs.js';
import { identityOf, type TreeChanges } from './tree-state.js';

const read = promisify(readCallback);

/** Records are gathered into chunks of about this size. */
const CHUNK_BYTES = 256 * 1024;
/** Content is looked at in blocks of this size; a block of zeros is left out, so holes stay
 *  holes. */
const BLOCK_BYTES = 64 * 1024;
/** Below this a file is read within the event loop's turn. */
const SMALL_BYTES = 64 * 1024;
const ZEROS = Buffer.alloc(BLOCK_BYTES);

/** Overlayfs keeps notes about inode numbers of one host; what carries meaning is opaque folders
 *  and whiteouts. Documentation/filesystems/overlayfs.rst */
const XATTR_KEPT =
  /^(user\.|security\.capability$|system\.posix_acl_|trusted\.overlay\.(opaque|whiteouts?)$)/;

export function keepsXattr(name: string): boolean {
  return XATTR_KEPT.test(name);
}

export interface PackOptions {
  readonly signal?: AbortSignal | undefined;
  /** What is written meanwhile is no error: whoever asks for this looks again afterwards. It is told what was left out,
   *  because it was gone or had been replaced. */
  readonly leftOut?: ((path: string) => void) | undefined;
  /** Only this much of an overlay's upper layer, to be unpacked through an overlay: without whiteouts, and without the
   *  attributes that only an overlay itself can set. */
  readonly only?: Pick<TreeChanges, 'made' | 'whole'>;
}

function keepsXattrThroughOverlay(name: string): boolean {
  return keepsXattr(name) && !name.startsWith('trusted.overlay.');
}

/** The archive of the tree below `root` (a trusted path, or a folder held open) as a stream of
 *  chunks. The tree may be hostile: no symbolic link of it is followed, and no other mount entered.
 *  Equal trees give equal bytes.
 *  @throws FerryError container.archive when a file changes while it is read; the abort reason */
export async function* packTree(
  root: string | OwnedFd,
  options: PackOptions = {},
): AsyncGenerator<Buffer, void, undefined> {
  const folder = typeof root === 'string' ? openFolder(root) : root;
  try {
    const hash = createHash('sha256');
    for await (const chunk of new Packer(folder, options).run()) {
      hash.update(chunk);
      yield chunk;
    }
    const kind = Buffer.of(255);
    hash.update(kind);
    yield encodeEnd(hash.digest());
  } finally {
    if (typeof root === 'string') folder[Symbol.dispose]();
  }
}

class Packer {
  readonly #root: OwnedFd;
  readonly #device: bigint;
  readonly #signal: AbortSignal | undefined;
  readonly #leftOut: ((path: string) => void) | undefined;
  readonly #only: PackOptions['only'];
  readonly #pacer = new Pacer();
  /** First path of each inode with several names. */
  readonly #linked = new Map<string, string>();
  #pending: Buffer[] = [MAGIC];
  #pendingBytes = MAGIC.length;

  constructor(root: OwnedFd, { signal, leftOut, only }: PackOptions) {
    this.#leftOut = leftOut;
    this.#only = only;
    this.#root = root;
    this.#device = fstatSync(root.number, { bigint: true }).dev;
    this.#signal = signal;
  }

  async *run(): AsyncGenerator<Buffer, void, undefined> {
    const about = fstatSync(this.#root.number, { bigint: true });
    const path = Buffer.from(`/proc/self/fd/${this.#root.number}/.`, 'latin1');
    this.#put(encodeEntry({ kind: 'directory', path: '', meta: this.#metadata(about, path) }));
    yield* this.#folder(this.#root, '', 1, this.#only === undefined);
    yield* this.#flush();
  }

  /** @param whole  all of it is wanted */
  async *#folder(
    folder: OwnedFd,
    prefix: string,
    depth: number,
    whole: boolean,
  ): AsyncGenerator<Buffer> {
    if (depth > LIMITS.depth) {
      throw new FerryError('container.archive', `Folder ${shown(prefix)} is nested too deep`);
    }
    const names = namesIn(folder);
    for (const name of names) {
      this.#signal?.throwIfAborted();
      await this.#pacer.step();
      const path = prefix === '' ? name : `${prefix}/${name}`;
      const about = lstatSync(memberPath(folder, name), { bigint: true, throwIfNoEntry: false });
      if (about === undefined) {
        this.#leftOut?.(path);
        continue;
      }
      if (!this.#wants(path, about, whole)) continue;
      if (about.isDirectory()) {
        yield* this.#subfolder(folder, name, path, { depth, whole });
      } else if (!this.#hardLink(about, path)) {
        yield* this.#leaf(folder, name, path, about);
      }
      if (this.#pendingBytes >= CHUNK_BYTES) yield* this.#flush();
    }
  }

  #wants(path: string, about: BigIntStats, whole: boolean): boolean {
    if (this.#only === undefined) return true;
    const isWhiteout = about.isCharacterDevice() && about.rdev === 0n;
    if (isWhiteout || whole) return !isWhiteout;
    const looked = this.#only.made.get(path);
    const isSame = looked === identityOf(about);
    // Another one in its place may not fit to what is there of it.
    if (looked !== undefined && !isSame) this.#leftOut?.(path);
    return isSame;
  }

  async *#subfolder(
    folder: OwnedFd,
    name: string,
    path: string,
    { depth, whole }: { depth: number; whole: boolean },
  ) {
    const opened = this.#unlessGone(path, () => openSubfolder(folder, name));
    if (opened === undefined) return;
    using inner = opened;
    const about = fstatSync(inner.number, { bigint: true });
    const meta = this.#metadata(about, memberPath(inner, '.'));
    this.#put(encodeEntry({ kind: 'directory', path, meta }));
    const all = whole || (this.#only?.whole.has(path) ?? false);
    if (about.dev === this.#device) yield* this.#folder(inner, path, depth + 1, all);
  }

  #hardLink(about: BigIntStats, path: string): boolean {
    if (about.nlink < 2n) return false;
    const key = `${about.dev}:${about.ino}`;
    const target = this.#linked.get(key);
    if (target === undefined) {
      this.#linked.set(key, path);
      return false;
    }
    this.#put(encodeEntry({ kind: 'hardLink', path, target }));
    return true;
  }

  async *#leaf(folder: OwnedFd, name: string, path: string, about: BigIntStats) {
    if (about.isFile()) {
      yield* this.#file(folder, name, path);
      return;
    }
    const where = memberPath(folder, name);
    const entry = this.#unlessGone(path, () =>
      special(path, this.#metadata(about, where), about, where),
    );
    if (entry !== undefined) this.#put(encodeEntry(entry));
  }

  async *#file(folder: OwnedFd, name: string, path: string) {
    const where = memberPath(folder, name);
    // O_NONBLOCK: it may have become a FIFO since it was looked at.
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    const fd = this.#unlessGone(path, () => openSync(where, flags));
    if (fd === undefined) return;
    try {
      const about = fstatSync(fd, { bigint: true });
      if (!about.isFile()) {
        if (this.#leftOut === undefined) throw changed(path);
        this.#leftOut(path);
        return;
      }
      const meta = this.#metadata(about, where);
      this.#put(encodeEntry({ kind: 'file', path, meta, size: about.size }));
      for (let offset = 0n; offset < about.size; offset += BigInt(EXTENT_BYTES_MAX)) {
        this.#signal?.throwIfAborted();
        const left = about.size - offset;
        const length = left < EXTENT_BYTES_MAX ? Number(left) : EXTENT_BYTES_MAX;
        await this.#window(fd, offset, length, path);
        if (this.#pendingBytes >= CHUNK_BYTES) yield* this.#flush();
      }
      this.#put(encodeEndOfContent());
    } finally {
      closeSync(fd);
    }
  }

  /** Reads one window of a file and puts its runs of blocks that are not zero. */
  async #window(fd: number, offset: bigint, length: number, path: string): Promise<void> {
    const window = Buffer.allocUnsafeSlow(length);
    for (let done = 0; done < length; ) {
      const position = Number(offset) + done;
      const got =
        length <= SMALL_BYTES
          ? readSync(fd, window, done, length - done, position)
          : (await read(fd, window, done, length - done, position)).bytesRead;
      if (got === 0 && this.#leftOut === undefined) throw changed(path);
      if (got === 0) window.fill(0, done);
      done = got === 0 ? length : done + got;
    }
    let start = -1;
    for (let at = 0; at <= length; at += BLOCK_BYTES) {
      const block = window.subarray(at, at + BLOCK_BYTES);
      const empty = block.length === 0 || block.equals(ZEROS.subarray(0, block.length));
      if (!empty && start < 0) start = at;
      if (empty && start >= 0) {
        this.#extent(offset + BigInt(start), window.subarray(start, at));
        start = -1;
      }
    }
    if (start >= 0) this.#extent(offset + BigInt(start), window.subarray(start));
  }

  #metadata(about: BigIntStats, path: Buffer): Metadata {
    const keep = this.#only === undefined ? keepsXattr : keepsXattrThroughOverlay;
    return {
      mode: Number(about.mode & 0o7777n),
      uid: Number(about.uid),
      gid: Number(about.gid),
      mtimeNs: about.mtimeNs,
      xattrs: readXattrs(path, keep),
    };
  }

  #unlessGone<T>(path: string, look: () => T): T | undefined {
    if (this.#leftOut === undefined) return look();
    const found = unlessGone(look);
    if (found === undefined) this.#leftOut(path);
    return found;
  }

  #extent(offset: bigint, bytes: Buffer): void {
    this.#put(encodeExtent(offset, bytes.length));
    this.#put(bytes);
  }

  #put(bytes: Buffer): void {
    this.#pending.push(bytes);
    this.#pendingBytes += bytes.length;
  }

  /** Yields what is pending: small pieces together, large ones as they are. */
  *#flush(): Generator<Buffer> {
    const pending = this.#pending;
    this.#pending = [];
    this.#pendingBytes = 0;
    let first = 0;
    for (const [index, piece] of pending.entries()) {
      if (piece.length < SMALL_BYTES) continue;
      if (index > first) yield Buffer.concat(pending.slice(first, index));
      yield piece;
      first = index + 1;
    }
    if (first < pending.length) yield Buffer.concat(pending.slice(first));
  }
}

function special(path: string, meta: Metadata, about: BigIntStats, where: Buffer): Entry {
  if (about.isSymbolicLink()) {
    return { kind: 'symlink', path, meta, target: readlinkSync(where, { encoding: 'latin1' }) };
  }
  if (about.isFIFO()) return { kind: 'fifo', path, meta };
  if (about.isSocket()) return { kind: 'socket', path, meta };
  const kind = about.isCharacterDevice() ? 'character' : 'block';
  return { kind, path, meta, major: major(about.rdev), minor: minor(about.rdev) };
}

/** The encoding of dev_t that stat(2) returns: include/linux/kdev_t.h, new_encode_dev, widened by
 *  glibc. */
function major(device: bigint): number {
  return Number(((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n));
}

function minor(device: bigint): number {
  return Number((device & 0xffn) | ((device >> 12n) & 0xffffff00n));
}

function changed(path: string): FerryError {
  return new FerryError('container.archive', `File ${shown(path)} changed while it was read`, {
    remedy: 'freeze the container before its files are exported',
  });
}
