import { dirname } from 'node:path';
import type { ExtendedAttribute, FileExtent, Nameless } from '@ferry/image';
import { call, cString, ERRNO, OwnedFd, sys } from '@ferry/linux';
import { canRead, isErrno, isPathOnly, O_CLOEXEC, O_DIRECT, refuse, typeOf } from './common.js';
import type { Descriptor, FileContext } from './context.js';
import { mountPrefix } from './mount-prefix.js';
import { findOtherName, makeOtherName } from './other-name.js';
import { lstatPath } from './read-descriptors.js';
import { readOnlyMountOf } from './read-only-mount.js';

/** Content of a file without a name goes into the image up to this many bytes, holes not counted. */
export const DELETED_BYTES_MAX = 64 * 1024 * 1024;

const O_TMPFILE_BIT = 0o20000000;
const O_NOATIME = 0o1000000;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const AT_EMPTY_PATH = 0x1000;
const NAMES_BYTES_MAX = 65536;
/** Files up to this length are carried without looking for holes. */
const SMALL_BYTES = 65536n;

/** What makes a file again that has lost the name `path`, as it was and where it was.
 *  @returns undefined after a blocker */
export function namelessOf(
  descriptor: Descriptor,
  path: string,
  ctx: FileContext,
): Nameless | undefined {
  const { uid, gid, rdev, links } = descriptor.stat;
  const type = typeOf(descriptor);
  const prefix = mountPrefix(descriptor, ctx);
  const neverNamed = type === 'regular' && isNeverNamed(descriptor, ctx);
  const readOnlyMount = readOnlyMountOf(descriptor, { path, neverNamed }, ctx);
  if (readOnlyMount === undefined) return undefined;
  const nameless: Nameless = {
    uid,
    gid,
    atimeNs: accessTime(descriptor),
    rdev,
    extents: [],
    attributes: [],
    missingFolders: missingFolders(prefix, path),
    otherName: '',
    otherNameIsTemporary: false,
    linkTarget: '',
    neverNamed,
    readOnlyMount,
  };
  if (links > 0 && type !== 'directory' && !nameless.neverNamed) {
    return withOtherName(descriptor, { path, prefix, nameless }, ctx);
  }
  if (type === 'regular') return withContent(descriptor, nameless, ctx);
  if (type === 'link') nameless.linkTarget = linkTarget(descriptor);
  return nameless;
}

/** Of an O_PATH descriptor: readlinkat(2) with an empty path. */
function linkTarget(descriptor: Descriptor): string {
  const target = Buffer.alloc(4096);
  const fd = descriptor.dup().number;
  const length = call('readlinkat', fd, cString(''), target, target.length);
  return target.toString('utf8', 0, length);
}

/** Where this process reaches the open file itself. */
function openedPath(descriptor: Descriptor): string {
  return `/proc/self/fd/${descriptor.dup().number}`;
}

function accessTime(descriptor: Descriptor): bigint {
  const raw = Buffer.alloc(144);
  // An empty path is the descriptor itself: fstat(2) refuses some O_PATH ones before Linux 3.6 only.
  const empty = cString('');
  const fd = descriptor.dup().number;
  if (sys('newfstatat', fd, empty, raw, AT_EMPTY_PATH) < 0) return 0n;
  return raw.readBigInt64LE(72) * 1_000_000_000n + raw.readBigInt64LE(80);
}

/** Any description of the file shows that it was made with O_TMPFILE. */
function isNeverNamed({ stat }: Descriptor, ctx: FileContext): boolean {
  const ids = ctx.idsOfInode(stat.device, stat.inode);
  return ids.some((id) => (ctx.descriptorOf(id).flags & O_TMPFILE_BIT) !== 0);
}

function missingFolders(prefix: string, path: string): string[] {
  const missing: string[] = [];
  for (let folder = dirname(path); folder !== '/' && folder !== '.'; folder = dirname(folder)) {
    if (lstatPath(prefix + folder) !== undefined) break;
    missing.unshift(folder);
  }
  return missing;
}

/** A file that still has a name somewhere else: the kernel does not tell it, so it is looked for, and a new one given to
 *  it for the restore where it is not found. */
function withOtherName(
  descriptor: Descriptor,
  { path, prefix, nameless }: { path: string; prefix: string; nameless: Nameless },
  ctx: FileContext,
): Nameless | undefined {
  if (ctx.scanning) return nameless;
  const { device, inode } = descriptor.stat;
  const known = ctx.shared('otherNames', () => new Map<string, string>());
  const key = `${device}:${inode}`;
  let otherName = known.get(key) ?? findOtherName(descriptor, { path, prefix });
  if (otherName === undefined) {
    otherName = makeOtherName(descriptor, { path, prefix }, ctx);
    nameless.otherNameIsTemporary = otherName !== undefined;
  }
  if (otherName === undefined) {
    return refuse(descriptor, ctx, {
      code: 'file.hardLinkElsewhere',
      reason:
        'the name it was opened by is gone; the file has another one, which could not be found, ' +
        'and it cannot be given a new one',
      remedy: 'close the file, or give it its name back (ln OTHER-NAME NAME)',
    });
  }
  known.set(key, otherName);
  return { ...nameless, otherName };
}

/** Content goes with the first description of a file. */
function withContent(
  descriptor: Descriptor,
  nameless: Nameless,
  ctx: FileContext,
): Nameless | undefined {
  const { device, inode, size } = descriptor.stat;
  const carried = ctx.shared('deletedFiles', () => new Set<string>());
  const isFirst = !carried.has(`${device}:${inode}`);
  carried.add(`${device}:${inode}`);
  if (!isFirst || (ctx.scanning && size <= BigInt(DELETED_BYTES_MAX))) return nameless;
  using opened = openContent(descriptor);
  const file = opened ?? descriptor.dup();
  const ranges = opened === undefined ? [{ start: 0n, end: size }] : dataRanges(file.number, size);
  const total = ranges.reduce((sum, { start, end }) => sum + (end - start), 0n);
  if (total > BigInt(DELETED_BYTES_MAX)) {
    return refuse(descriptor, ctx, {
      code: 'file.deletedTooLarge',
      reason:
        `the file has no name any more and holds ${total} bytes; up to ` +
        `${DELETED_BYTES_MAX} are carried with the image`,
      remedy:
        'close the file, truncate it, or give it a name again ' +
        `(ln -L /proc/${descriptor.process.hostPid}/fd/${descriptor.fd} NAME)`,
    });
  }
  if (ctx.scanning) return nameless;
  if (opened === undefined) setFlags(file, descriptor.flags | O_NOATIME);
  try {
    const extents = ranges.map((range) => readRange(file.number, range));
    return { ...nameless, extents, attributes: attributesOf(file.number) };
  } finally {
    if (opened === undefined) setFlags(file, descriptor.flags);
  }
}

function setFlags(fd: OwnedFd, flags: number): void {
  const F_SETFL = 4;
  call('fcntl', fd.number, F_SETFL, flags);
}

/** The file opened anew, as looking for its holes would move the program's position, and its description may be
 *  write-only, or in the middle of O_DIRECT; undefined when it can be read whole through the description, which no
 *  watch on the file notices. */
function openContent(descriptor: Descriptor): OwnedFd | undefined {
  const { flags, stat, process, fd } = descriptor;
  const isWhole = stat.size <= SMALL_BYTES;
  if (isWhole && !isPathOnly(descriptor) && canRead(flags) && (flags & O_DIRECT) === 0) {
    return undefined;
  }
  const path = fd < 0 ? openedPath(descriptor) : `/proc/${process.hostPid}/fd/${fd}`;
  return new OwnedFd(call('open', cString(path), O_CLOEXEC | O_NOATIME, 0));
}

interface Range {
  readonly start: bigint;
  readonly end: bigint;
}

/** Where a file holds data: lseek(2), SEEK_DATA. A file system without holes says that it holds some everywhere. */
function dataRanges(fd: number, size: bigint): Range[] {
  const ranges: Range[] = [];
  for (let at = 0n; at < size; ) {
    const data = sys('lseek', fd, at, SEEK_DATA);
    if (isErrno(data, 'ENXIO')) break;
    if (data < 0) return [{ start: 0n, end: size }];
    const hole = sys('lseek', fd, data, SEEK_HOLE);
    const end = hole < 0 ? size : BigInt(hole);
    ranges.push({ start: BigInt(data), end });
    at = end;
  }
  return ranges;
}

/** Without the zeros at its end. */
function readRange(fd: number, { start, end }: Range): FileExtent {
  const data = Buffer.alloc(Number(end - start));
  let done = 0;
  while (done < data.length) {
    const at = start + BigInt(done);
    const n = call('pread64', fd, data.subarray(done), data.length - done, at);
    if (n === 0) break;
    done += n;
  }
  let length = done;
  while (length > 0 && data[length - 1] === 0) length--;
  return { offset: start, data: data.subarray(0, length) };
}

/** Those that a restore can set again: of the file systems' own, POSIX ACLs and file capabilities. */
const CARRIED_ATTRIBUTE =
  /^(user\.|trusted\.(?!overlay\.)|security\.capability$|system\.posix_acl_)/;

function attributesOf(fd: number): ExtendedAttribute[] {
  const names = Buffer.alloc(NAMES_BYTES_MAX);
  const length = sys('flistxattr', fd, names, names.length);
  if (length <= 0) return [];
  const found: ExtendedAttribute[] = [];
  for (const name of names.toString('utf8', 0, length).split('\0')) {
    if (!CARRIED_ATTRIBUTE.test(name)) continue;
    const value = Buffer.alloc(NAMES_BYTES_MAX);
    const size = sys('fgetxattr', fd, cString(name), value, value.length);
    if (size === -ERRNO.ENODATA || size < 0) continue;
    found.push({ name, value: Buffer.from(value.subarray(0, size)) });
  }
  return found;
}
