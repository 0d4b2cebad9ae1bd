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
  encodeHole,
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
import { BLOCK_BYTES, type FileBlocks, type SentBlocks, ZEROS } from './sent-blocks.js';
import { identity, identityOf, type TreeChanges, type TreeState } from './tree-state.js';

const read = promisify(readCallback);

/** Records are gathered into chunks of about this size. */
const CHUNK_BYTES = 256 * 1024;
/** Below this a file is read within the event loop's turn. */
const SMALL_BYTES = 64 * 1024;

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
  /** Only this much. Of an overlay's upper layer, to be unpacked through an overlay: without whiteouts, and without the
   *  attributes that only an overlay itself can set. */
  readonly only?: Omit<TreeChanges, 'removed'>;
  /** Only what is there as it was looked at: what came since is made, or not, the next time. With `only`, of folders of which
   *  all is wanted. */
  readonly looked?: TreeState | undefined;
  /** What was sent of its files before, by which they are patched, and is from now on. */
  readonly sent?: SentBlocks | undefined;
  /** Without files that something else is mounted on. */
  readonly ownFiles?: boolean;
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
  readonly #sent: SentBlocks | undefined;
  readonly #ownFiles: boolean;
  /** Of each inode with several names the path that the others are linked to: the first one, or one that is there. While
   *  names come and go each inode may have several. */
  readonly #linked = new Map<string, string>();
  /** Names by what is there and they were linked to. */
  readonly #links = new Map<string, string[]>();
  readonly #upToDate = new Set<string>();
  readonly #looked: TreeState | undefined;
  /** What was to be found and is not yet. */
  readonly #missing: Set<string>;
  #pending: Buffer[] = [MAGIC];
  #pendingBytes = MAGIC.length;

  constructor(root: OwnedFd, { signal, leftOut, only, looked, sent, ownFiles }: PackOptions) {
    this.#looked = looked;
    this.#missing = new Set(only?.made.keys() ?? looked?.keys() ?? []);
    this.#missing.delete('');
    this.#ownFiles = ownFiles === true;
    this.#leftOut = leftOut;
    this.#only = only;
    this.#sent = sent;
    this.#root = root;
    this.#device = fstatSync(root.number, { bigint: true }).dev;
    this.#signal = signal;
    for (const [inode, path] of only?.kept ?? []) this.#linked.set(this.#key(inode), path);
  }

  /** The copy has it there, and it stays the file that it is. */
  #isKept(inode: bigint, path: string): boolean {
    return this.#only?.kept.get(inode) === path;
  }

  #key(inode: bigint): string {
    return `${this.#device}:${inode}`;
  }

  async *run(): AsyncGenerator<Buffer, void, undefined> {
    const about = fstatSync(this.#root.number, { bigint: true });
    const path = Buffer.from(`/proc/self/fd/${this.#root.number}/.`, 'latin1');
    this.#put(encodeEntry({ kind: 'directory', path: '', meta: this.#metadata(about, path) }));
    yield* this.#folder(this.#root, '', 1, this.#only === undefined);
    yield* this.#flush();
    for (const path of this.#missing) this.#leftOut?.(path);
    // They were linked to what is there, and it was not brought up to date.
    for (const [target, names] of this.#links) {
      if (!this.#upToDate.has(target)) for (const name of names) this.#leftOut?.(name);
    }
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
      this.#missing.delete(path);
      const isOwn = about.dev === this.#device || about.isDirectory();
      if ((this.#ownFiles && !isOwn) || !this.#wants(path, about, whole)) continue;
      if (about.isDirectory()) {
        yield* this.#subfolder(folder, name, path, { depth, whole });
      } else if (!this.#hardLink(about, path)) {
        yield* this.#leaf(folder, name, path, about);
      }
      if (this.#pendingBytes >= CHUNK_BYTES) yield* this.#flush();
    }
  }

  #wants(path: string, about: BigIntStats, whole: boolean): boolean {
    const only = this.#only;
    const isHidden = only?.plain === false && isWhiteout(about);
    if (only !== undefined && !whole) {
      return this.#isAsLooked(path, about, only.made.get(path)) && !isHidden;
    }
    if (this.#looked === undefined) return !isHidden;
    const entry = this.#looked.get(path);
    const looked = entry === undefined ? undefined : identity(entry);
    return this.#isAsLooked(path, about, looked) && !isHidden;
  }

  #isAsLooked(path: string, about: BigIntStats, looked: string | undefined): boolean {
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
    // Sent once more it would be another file there, and what is known of its content that of one of them.
    if (about.nlink < 2n && this.#leftOut === undefined) return false;
    const key = `${about.dev}:${about.ino}`;
    const target = this.#linked.get(key);
    if (target === undefined || target === path) {
      this.#linked.set(key, path);
      return false;
    }
    if (this.#isKept(about.ino, target)) {
      const names = this.#links.get(target) ?? [];
      this.#links.set(target, names);
      names.push(path);
    }
    this.#put(encodeEntry({ kind: 'hardLink', path, target }));
    return true;
  }

  async *#leaf(folder: OwnedFd, name: string, path: string, about: BigIntStats) {
    const key = `${about.dev}:${about.ino}`;
    const isKept = this.#isKept(about.ino, path);
    const sent = about.isFile()
      ? yield* this.#file(folder, name, path, about.ino)
      : this.#special(folder, name, path, about);
    if (sent && isKept) this.#upToDate.add(path);
    // Another name of it must not be linked to what is not there.
    if (!sent && !isKept && this.#linked.get(key) === path) this.#linked.delete(key);
  }

  #special(folder: OwnedFd, name: string, path: string, about: BigIntStats): boolean {
    const where = memberPath(folder, name);
    const entry = this.#unlessGone(path, () =>
      special(path, this.#metadata(about, where), about, where),
    );
    if (entry !== undefined) this.#put(encodeEntry(entry));
    return entry !== undefined;
  }

  /** @param inode  as it was looked at: of another one in its place nothing is known
   *  @returns whether it was sent */
  async *#file(folder: OwnedFd, name: string, path: string, inode: bigint) {
    const where = memberPath(folder, name);
    // O_NONBLOCK: it may have become a FIFO since it was looked at.
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    const fd = this.#unlessGone(path, () => openSync(where, flags));
    if (fd === undefined) return false;
    try {
      const about = fstatSync(fd, { bigint: true });
      if (!about.isFile() || about.ino !== inode) {
        if (this.#leftOut === undefined) throw changed(path);
        this.#leftOut(path);
        return false;
      }
      yield* this.#content(fd, { path, about, meta: this.#metadata(about, where) });
      return true;
    } finally {
      closeSync(fd);
    }
  }

  async *#content(
    fd: number,
    { path, about, meta }: { path: string; about: BigIntStats; meta: Metadata },
  ) {
    const { ino, size } = about;
    const before = this.#isKept(ino, path) ? this.#sent?.get(ino) : undefined;
    const blocks = this.#sent?.begin(ino, size);
    const patched = before === undefined || blocks === undefined ? undefined : { before, blocks };
    const kind = patched === undefined ? 'file' : 'patch';
    // One that has become shorter must be cut there, or what it held would be back once it grows.
    const isDoubted = patched?.before.size === size && this.#only?.doubted.has(path) === true;
    let head: Buffer | undefined = encodeEntry({ kind, path, meta, size });
    const begin = (): void => {
      if (head !== undefined) this.#put(head);
      head = undefined;
    };
    if (!isDoubted) begin();
    for (let offset = 0n; offset < size; offset += BigInt(EXTENT_BYTES_MAX)) {
      this.#signal?.throwIfAborted();
      await this.#pacer.step();
      const left = size - offset;
      const window = Buffer.allocUnsafeSlow(
        left < EXTENT_BYTES_MAX ? Number(left) : EXTENT_BYTES_MAX,
      );
      await this.#read(fd, offset, window, path);
      if (blocks !== undefined) remember(blocks, offset, window);
      for (const { start, end, hole } of runsOf(window, offset, patched)) {
        begin();
        const at = offset + BigInt(start);
        if (hole) this.#put(encodeHole(at, end - start));
        else this.#extent(at, window.subarray(start, end));
      }
      if (this.#pendingBytes >= CHUNK_BYTES) yield* this.#flush();
    }
    if (head === undefined) this.#put(encodeEndOfContent());
  }

  /** Reads one window of a file; what is not there any more is zeros. */
  async #read(fd: number, offset: bigint, window: Buffer, path: string): Promise<void> {
    const { length } = window;
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
  }

  #metadata(about: BigIntStats, path: Buffer): Metadata {
    const isPlain = this.#only === undefined || this.#only.plain;
    const keep = isPlain ? keepsXattr : keepsXattrThroughOverlay;
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

function isWhiteout(about: BigIntStats): boolean {
  return about.isCharacterDevice() && about.rdev === 0n;
}

function remember(blocks: FileBlocks, offset: bigint, window: Buffer): void {
  const first = Number(offset) / BLOCK_BYTES;
  for (let at = 0; at < window.length; at += BLOCK_BYTES) {
    blocks.set(first + at / BLOCK_BYTES, window.subarray(at, at + BLOCK_BYTES));
  }
}

/** The runs of blocks of a window that are to be sent: those that are not zero; where a file is patched those that differ,
 *  zeros apart. */
function* runsOf(
  window: Buffer,
  offset: bigint,
  patched: { readonly before: FileBlocks; readonly blocks: FileBlocks } | undefined,
): Generator<{ start: number; end: number; hole: boolean }> {
  const first = Number(offset) / BLOCK_BYTES;
  let run: { start: number; end: number; hole: boolean } | undefined;
  for (let at = 0; at < window.length; at += BLOCK_BYTES) {
    const block = window.subarray(at, at + BLOCK_BYTES);
    const hole = block.equals(ZEROS.subarray(0, block.length));
    const index = first + at / BLOCK_BYTES;
    const wanted = patched === undefined ? !hole : !patched.blocks.equals(index, patched.before);
    if (run !== undefined && (!wanted || run.hole !== hole)) {
      yield run;
      run = undefined;
    }
    if (!wanted) continue;
    run ??= { start: at, end: at, hole };
    run.end = at + block.length;
  }
  if (run !== undefined) yield run;
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
