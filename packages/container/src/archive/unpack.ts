import { constants, fstatSync, type Stats, write as writeCallback, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import { FerryError } from '@ferry/core';
import { call, ERRNO, OwnedFd, sys, sysError } from '@ferry/linux';
import type { ByteReader } from './byte-reader.js';
import { type FileMaker, makingAs } from './file-maker.js';
import {
  damaged,
  decodeEndHash,
  decodeEntry,
  decodeExtent,
  type Entry,
  LIMITS,
  MAGIC,
  type Metadata,
  pathComponents,
  shown,
} from './format.js';
import { keepsXattr } from './pack.js';
import {
  AT_EMPTY_PATH,
  AT_SYMLINK_NOFOLLOW,
  O_CLOEXEC,
  O_PATH,
  openBeneath,
  openFolder,
  Pacer,
  pathBytes,
  readXattrs,
  unlessGone,
} from './raw-fs.js';

const write = promisify(writeCallback);
const SMALL_BYTES = 64 * 1024;
const FALLOC_PUNCH_HOLE_KEEP_SIZE = 3;
const S_IFMT = { fifo: 0o010000, character: 0o020000, block: 0o060000, socket: 0o140000 } as const;

export interface UnpackOptions {
  readonly signal?: AbortSignal | undefined;
  /** `prepared`: folders of the archive may exist already (a mount that the runtime has prepared). `changed`: files too,
   *  which are then written in place. */
  readonly into?: 'empty' | 'prepared' | 'changed';
  /** Into no overlay, which keeps attributes of its own. */
  readonly plain?: boolean;
  /** Where the file system belongs to a user namespace: its root. */
  readonly maker?: FileMaker | undefined;
}

export interface Unpacked {
  /** sha256 in hex of the archive: what its end record says, and what was computed. */
  readonly digest: string;
  /** Bytes of content, holes not counted. */
  readonly sizeBytes: bigint;
}

/** Reads one archive from `reader` into the folder `root`. The archive may be hostile: whatever it
 *  says, nothing outside `root` is touched, and no symbolic link is followed. What was made stays
 *  when it fails: unpack into a folder that is thrown away then.
 *  @throws FerryError container.archive (damaged, truncated, hostile), SysError, or the abort
 *    reason */
export async function unpackTree(
  root: string | OwnedFd,
  reader: ByteReader,
  options: UnpackOptions = {},
): Promise<Unpacked> {
  const folder = typeof root === 'string' ? openFolder(root) : root;
  const unpacker = new Unpacker(folder, reader, options);
  try {
    return await unpacker.run();
  } finally {
    unpacker[Symbol.dispose]();
    if (typeof root === 'string') folder[Symbol.dispose]();
  }
}

/** A folder whose entries are being made: its own metadata is set when it is left, for each entry
 *  changes it. */
interface OpenFolder {
  readonly path: string;
  /** Undefined for a mount point met in a prepared tree: nothing is put into another mount. */
  readonly fd: OwnedFd | undefined;
  readonly meta: Metadata;
}

class Unpacker {
  readonly #root: OwnedFd;
  readonly #reader: ByteReader;
  readonly #options: UnpackOptions;
  readonly #pacer = new Pacer();
  readonly #open: OpenFolder[] = [];
  #sizeBytes = 0n;

  constructor(root: OwnedFd, reader: ByteReader, options: UnpackOptions) {
    this.#root = root;
    this.#reader = reader;
    this.#options = { into: 'empty', ...options };
  }

  async run(): Promise<Unpacked> {
    this.#reader.restartHash();
    const magic = await this.#reader.read(MAGIC.length);
    if (!magic.equals(MAGIC))
      throw damaged('it does not start as a Ferry archive, or has another version');
    let entries = 0;
    for (;;) {
      this.#options.signal?.throwIfAborted();
      await this.#pacer.step();
      const entry = await decodeEntry(this.#reader);
      if (entry === 'end') break;
      entries++;
      if (entries > LIMITS.entries) throw damaged(`more than ${LIMITS.entries} entries`);
      if ((entry.path === '') !== (entries === 1))
        throw damaged('its first entry must be the root folder');
      await this.#make(entry);
    }
    while (this.#open.length > 0) this.#leave();
    if (entries === 0) throw damaged('it is empty');
    const digest = this.#reader.digest();
    const recorded = await decodeEndHash(this.#reader);
    if (recorded !== digest) {
      throw damaged(`its content has the hash ${digest}, its end record says ${recorded}`);
    }
    return { digest, sizeBytes: this.#sizeBytes };
  }

  [Symbol.dispose](): void {
    for (const { path, fd } of this.#open) if (path !== '') fd?.[Symbol.dispose]();
    this.#open.length = 0;
  }

  async #make(entry: Entry): Promise<void> {
    const components = pathComponents(entry.path);
    const name = components.pop();
    if (name === undefined) {
      if (entry.kind !== 'directory') throw damaged('its root is not a folder');
      this.#open.push({ path: '', fd: this.#root, meta: entry.meta });
      return;
    }
    const parent = this.#enter(components.join('/'), entry.path);
    switch (entry.kind) {
      case 'directory':
        return this.#folder(parent, name, entry);
      case 'file':
      case 'patch':
        return await this.#file(parent, name, entry);
      case 'symlink':
        this.#must(
          'symlinkat',
          entry.path,
          pathBytes(entry.target),
          parent.number,
          pathBytes(name),
        );
        return setMetadata(parent, name, entry.meta, 'symlink');
      case 'hardLink':
        return this.#hardLink(parent, name, entry);
      default: {
        const device = 'major' in entry ? makeDevice(entry.major, entry.minor) : 0;
        const mode = S_IFMT[entry.kind] | 0o600;
        this.#must('mknodat', entry.path, parent.number, pathBytes(name), mode, device);
        return setMetadata(parent, name, entry.meta, 'node');
      }
    }
  }

  /** The folder that the next entry belongs into: the archive is in depth-first order, so it is the
   *  one open now or one above it. A parent that is a link, or was never in the archive, cannot be
   *  entered. */
  #enter(parentPath: string, path: string): OwnedFd {
    for (;;) {
      const top = this.#open.at(-1);
      if (top === undefined)
        throw damaged(`entry ${shown(path)} is not inside a folder of the archive`);
      if (top.path === parentPath) {
        if (top.fd !== undefined) return top.fd;
        throw damaged(`entry ${shown(path)} lies in another mount`);
      }
      if (top.path === '')
        throw damaged(`entry ${shown(path)} is not inside a folder of the archive`);
      this.#leave();
    }
  }

  #leave(): void {
    const folder = this.#open.pop();
    if (folder?.fd === undefined) return;
    try {
      this.#removeOtherXattrs(folder.fd, '.', folder.meta);
      setMetadata(folder.fd, '.', folder.meta, 'node');
    } finally {
      if (folder.path !== '') folder.fd[Symbol.dispose]();
    }
  }

  #folder(parent: OwnedFd, name: string, entry: Extract<Entry, { kind: 'directory' }>): void {
    const made = this.#create('mkdirat', parent.number, pathBytes(name), 0o700);
    const mayExist = this.#options.into !== 'empty' && made === -ERRNO.EEXIST;
    if (made < 0 && !mayExist) throw conflict('mkdirat', made, entry.path);
    const flags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
    const fd = openUnlessMount(parent, name, flags);
    if (fd === undefined && !mayExist) throw damaged(`${shown(entry.path)} is a mount point`);
    this.#open.push({ path: entry.path, fd, meta: entry.meta });
  }

  async #file(
    parent: OwnedFd,
    name: string,
    entry: Extract<Entry, { kind: 'file' | 'patch' }>,
  ): Promise<void> {
    using fd = this.#openFile(parent, name, entry);
    if (entry.kind === 'patch' || entry.size > 0n) call('ftruncate', fd.number, entry.size);
    let end = 0n;
    for (;;) {
      const extent = await decodeExtent(this.#reader, entry, end);
      if (extent === undefined) break;
      const { offset, length, hole } = extent;
      end = offset + BigInt(length);
      if (hole) call('fallocate', fd.number, FALLOC_PUNCH_HOLE_KEEP_SIZE, offset, length);
      else await this.#content(fd.number, Number(offset), length);
      this.#options.signal?.throwIfAborted();
    }
    this.#removeOtherXattrs(parent, name, entry.meta);
    setMetadata(parent, name, entry.meta, 'node');
  }

  #openFile(
    parent: OwnedFd,
    name: string,
    { kind, path }: Extract<Entry, { kind: 'file' | 'patch' }>,
  ): OwnedFd {
    const { O_WRONLY, O_CREAT, O_EXCL, O_TRUNC, O_NOFOLLOW, O_NONBLOCK } = constants;
    const flags = O_WRONLY | O_NOFOLLOW | O_CLOEXEC;
    if (this.#options.into === 'changed') {
      // It may be there, and be a mount, or a device that is not for us to open.
      const isFile = kindThere(parent, name)?.isFile() ?? kind === 'file';
      if (!isFile) throw damaged(`${shown(path)} is no file there`);
      const how = kind === 'patch' ? O_NONBLOCK : O_NONBLOCK | O_CREAT | O_TRUNC;
      return makingAs(this.#options.maker, () => openBeneath(parent, name, flags | how));
    }
    if (kind === 'patch') throw damaged(`${shown(path)} is a patch`);
    const args = [parent.number, pathBytes(name), flags | O_CREAT | O_EXCL, 0o600] as const;
    return new OwnedFd(this.#must('openat', path, ...args));
  }

  /** Of what was there before: attributes that it has no longer. */
  #removeOtherXattrs(folder: OwnedFd, name: string, { xattrs }: Metadata): void {
    const { into, plain } = this.#options;
    if (into !== 'changed') return;
    const kept = new Set(xattrs.map((attribute) => attribute.name));
    const where = pathBytes(`/proc/self/fd/${folder.number}/${name}`);
    const gone = (attribute: string) =>
      keepsXattr(attribute) &&
      !kept.has(attribute) &&
      (plain === true || !attribute.startsWith('trusted.'));
    for (const attribute of readXattrs(where.subarray(0, -1), gone)) {
      call('lremovexattr', where, pathBytes(attribute.name));
    }
  }

  async #content(fd: number, offset: number, length: number): Promise<void> {
    for (let done = 0; done < length; ) {
      const part = await this.#reader.readSome(length - done);
      for (let wrote = 0; wrote < part.length; ) {
        const rest = part.length - wrote;
        const position = offset + done + wrote;
        wrote +=
          rest <= SMALL_BYTES
            ? writeSync(fd, part, wrote, rest, position)
            : (await write(fd, part, wrote, rest, position)).bytesWritten;
      }
      done += part.length;
    }
    this.#sizeBytes += BigInt(length);
  }

  #hardLink(parent: OwnedFd, name: string, entry: Extract<Entry, { kind: 'hardLink' }>): void {
    if (pathComponents(entry.target).length === 0)
      throw damaged(`${shown(entry.path)} links to the root`);
    using target = openBeneath(this.#root, entry.target, O_PATH | constants.O_NOFOLLOW);
    const empty = Buffer.of(0);
    this.#must(
      'linkat',
      entry.path,
      target.number,
      empty,
      parent.number,
      pathBytes(name),
      AT_EMPTY_PATH,
    );
  }

  #must(
    name: Parameters<typeof sys>[0],
    path: string,
    ...args: (number | bigint | Buffer)[]
  ): number {
    const result = this.#create(name, ...args);
    if (result < 0) throw conflict(name, result, path);
    return result;
  }

  #create(name: Parameters<typeof sys>[0], ...args: (number | bigint | Buffer)[]): number {
    return makingAs(this.#options.maker, () => sys(name, ...args));
  }
}

function kindThere(parent: OwnedFd, name: string): Stats | undefined {
  const opened = unlessGone(() => openBeneath(parent, name, O_PATH | constants.O_NOFOLLOW));
  if (opened === undefined) return undefined;
  using fd = opened;
  return fstatSync(fd.number);
}

function openUnlessMount(parent: OwnedFd, name: string, flags: number): OwnedFd | undefined {
  try {
    return openBeneath(parent, name, flags);
  } catch (error) {
    if ((error as { code?: string }).code === 'linux.EXDEV') return undefined;
    throw error;
  }
}

/** An entry that exists twice, or in the place of another, is the archive's fault; the rest is the
 *  system's. */
function conflict(syscall: string, result: number, path: string): FerryError {
  const cause = sysError(syscall, -result, shown(path));
  if (result !== -ERRNO.EEXIST && result !== -ERRNO.ELOOP && result !== -ERRNO.EXDEV) return cause;
  return new FerryError(
    'container.archive',
    `The archive is damaged or hostile: entry ${shown(path)} collides with another`,
    { cause },
  );
}

/** Owner, permissions, attributes, times: in this order, for each resets some of those before it.
 *  `name` was just made by us in `folder`, and nobody else writes there. */
function setMetadata(
  folder: OwnedFd,
  name: string,
  meta: Metadata,
  kind: 'node' | 'symlink',
): void {
  const path = pathBytes(name);
  call('fchownat', folder.number, path, meta.uid, meta.gid, AT_SYMLINK_NOFOLLOW);
  if (kind === 'node') call('fchmodat', folder.number, path, meta.mode);
  const where = pathBytes(`/proc/self/fd/${folder.number}/${name}`);
  for (const { name: attribute, value } of meta.xattrs) {
    if (!keepsXattr(attribute)) throw damaged(`attribute ${shown(attribute)}`);
    const result = sys('lsetxattr', where, pathBytes(attribute), value, value.length, 0);
    if (result < 0) throw sysError('lsetxattr', -result, attribute);
  }
  const times = Buffer.alloc(32);
  let seconds = meta.mtimeNs / 1_000_000_000n;
  let nanoseconds = meta.mtimeNs % 1_000_000_000n;
  if (nanoseconds < 0n) {
    nanoseconds += 1_000_000_000n;
    seconds -= 1n;
  }
  for (const at of [0, 16]) {
    times.writeBigInt64LE(seconds, at);
    times.writeBigInt64LE(nanoseconds, at + 8);
  }
  call('utimensat', folder.number, path, times, AT_SYMLINK_NOFOLLOW);
}

/** dev_t as mknod(2) takes it: the inverse of what pack.ts takes apart; the kernel reads 32
 *  bits. */
function makeDevice(major: number, minor: number): number {
  if (major > 0xfff || minor > 0xfffff) throw damaged(`device ${major}:${minor}`);
  return (minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12);
}
