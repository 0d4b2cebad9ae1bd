import { constants, readdirSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { call, ERRNO, OwnedFd, sys, sysError } from '@ferry/linux';

/** File system calls relative to a folder held open. Paths and names are latin1 strings, one
 *  character a byte. */

const RESOLVE_NO_XDEV = 0x01;
const RESOLVE_NO_MAGICLINKS = 0x02;
const RESOLVE_NO_SYMLINKS = 0x04;
const RESOLVE_BENEATH = 0x08;
const RESOLVE_IN_ROOT = 0x10;

export const AT_SYMLINK_NOFOLLOW = 0x100;
export const AT_EMPTY_PATH = 0x1000;
const AT_REMOVEDIR = 0x200;
export const O_CLOEXEC = 0o2000000;
export const O_PATH = 0o10000000;
const AT_FDCWD = -100;

export function pathBytes(path: string): Buffer {
  return Buffer.from(`${path}\0`, 'latin1');
}

/** Where Node's own fs functions find `name` of an open folder: no component of it can be a
 *  symbolic link that someone put there meanwhile, save the last, which callers do not follow. */
export function memberPath(folder: OwnedFd, name: string): Buffer {
  return Buffer.from(`/proc/self/fd/${folder.number}/${name}`, 'latin1');
}

/** Opens a folder by a path that we trust. */
export function openFolder(path: string): OwnedFd {
  const flags = constants.O_RDONLY | constants.O_DIRECTORY | O_CLOEXEC;
  const result = sys('openat', AT_FDCWD, Buffer.from(`${path}\0`), flags, 0);
  if (result < 0) throw sysError('openat', -result, path);
  return new OwnedFd(result);
}

/** Opens a folder directly in another, following nothing. */
export function openSubfolder(folder: OwnedFd, name: string): OwnedFd {
  const flags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW | O_CLOEXEC;
  return new OwnedFd(call('openat', folder.number, pathBytes(name), flags, 0));
}

function openat2(folder: OwnedFd, path: string, flags: number, resolve: number): number {
  const how = Buffer.alloc(24);
  how.writeBigUInt64LE(BigInt(flags), 0);
  how.writeBigUInt64LE(BigInt(resolve), 16);
  const name = pathBytes(path === '' ? '.' : path);
  return sys('openat2', folder.number, name, how, how.length);
}

/** Opens what is at `path` below `root`, where no component may be a symbolic link, another mount
 *  or "..". openat2(2), RESOLVE_BENEATH.
 *  @throws SysError ELOOP or EXDEV for a path that would leave */
export function openBeneath(root: OwnedFd, path: string, flags: number): OwnedFd {
  const resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
  const result = openat2(root, path, flags | O_CLOEXEC, resolve);
  if (result < 0) throw sysError('openat2', -result, path);
  return new OwnedFd(result);
}

/** Opens a folder as a process whose root folder is `root` would see it: symbolic links are
 *  followed, but within `root` only. openat2(2), RESOLVE_IN_ROOT. */
export function openInRoot(root: OwnedFd, path: string): OwnedFd {
  const flags = constants.O_RDONLY | constants.O_DIRECTORY | O_CLOEXEC;
  const result = openat2(root, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
  if (result < 0) throw sysError('openat2', -result, path);
  return new OwnedFd(result);
}

/** Names and values of the extended attributes that `keep` accepts, sorted by name; symbolic links
 *  not followed. */
export function readXattrs(path: Buffer, keep: (name: string) => boolean) {
  const target = Buffer.concat([path, Buffer.of(0)]);
  const listed = sys('llistxattr', target, LIST, LIST.length);
  if (listed <= 0) return [];
  const names = LIST.toString('latin1', 0, listed)
    .split('\0')
    .filter((name) => name !== '' && keep(name));
  return names.sort().flatMap((name) => {
    const length = sys('lgetxattr', target, pathBytes(name), VALUE, VALUE.length);
    return length < 0 ? [] : [{ name, value: Buffer.from(VALUE.subarray(0, length)) }];
  });
}
const LIST = Buffer.alloc(65536);
const VALUE = Buffer.alloc(65536);

/** The names in a folder, sorted, each byte of them one character, each once: of an entry that is replaced while the folder
 *  is read, the kernel may tell the name twice (readdir(3)).
 *  @param read  for tests */
export function namesIn(folder: OwnedFd, read = readNames): string[] {
  return [...new Set(read(folder))].sort();
}

function readNames(folder: OwnedFd): string[] {
  return readdirSync(memberPath(folder, '.'), { encoding: 'latin1' });
}

/** Lets the event loop turn when the current turn has worked for long enough. */
export class Pacer {
  static readonly #TURN_MS = 8;
  #since = performance.now();

  async step(): Promise<void> {
    if (performance.now() - this.#since < Pacer.#TURN_MS) return;
    await setImmediate();
    this.#since = performance.now();
  }
}

/** What `look` gives, or undefined when the name has vanished, or has become something else. */
export function unlessGone<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (error) {
    const code = (error as { code?: string }).code?.replace('linux.', '') ?? '';
    if (['ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO', 'EINVAL'].includes(code)) return undefined;
    throw error;
  }
}

/** Removes `name` of an open folder with all below, following nothing and entering no other mount. What is not there is no
 *  error. */
export function removeTree(folder: OwnedFd, name: string): void {
  const removed = sys('unlinkat', folder.number, pathBytes(name), 0);
  if (removed >= 0 || removed === -ERRNO.ENOENT) return;
  if (removed !== -ERRNO.EISDIR) throw sysError('unlinkat', -removed, name);
  {
    using inner = openBeneath(folder, name, constants.O_RDONLY | constants.O_DIRECTORY);
    for (const child of namesIn(inner)) {
      removeTree(inner, child);
    }
  }
  call('unlinkat', folder.number, pathBytes(name), AT_REMOVEDIR);
}
