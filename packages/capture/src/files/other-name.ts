import { dirname, join } from 'node:path';
import { TEMPORARY_NAME } from '@ferry/image';
import { cString, OwnedFd, sys } from '@ferry/linux';
import type { Descriptor, FileContext } from './context.js';
import { lstatPath } from './read-descriptors.js';

const O_DIRECTORY_CLOEXEC = 0o2200000;
const O_NOFOLLOW = 0o400000;
const AT_FDCWD = -100;
const AT_SYMLINK_FOLLOW = 0x400;
const DT_DIRECTORY = 4;
/** Bounds of the search: it is made while the tree stands still. */
const ENTRIES_MAX = 50_000;
const LEVELS_UP = 3;

interface Place {
  /** The name that is gone. */
  readonly path: string;
  /** Where the tree's paths start for us. */
  readonly prefix: string;
}

/** Another name of an open file: looked for beside its old one, then below the folders above.
 *  @returns a path as the tree sees it; undefined when there is none within the bounds */
export function findOtherName(
  { stat }: Pick<Descriptor, 'stat'>,
  { path, prefix }: Place,
): string | undefined {
  const { device, inode } = stat;
  const seen = new Set<string>();
  const search = { device, inode, prefix, left: ENTRIES_MAX, seen, folders: false };
  let top = dirname(path);
  for (let level = 0; level <= LEVELS_UP; level++) {
    const found = below(top, search);
    if (found !== undefined || top === '/' || search.left <= 0) return found;
    top = dirname(top);
  }
  return undefined;
}

/** A path below `top` (itself included) with this inode number, folders too. The search has bounds. */
export function findByInode(top: string, inode: bigint, prefix: string): string | undefined {
  const device = lstatPath(prefix + top)?.device ?? 0n;
  return below(top, {
    ...{ device, inode, prefix, left: ENTRIES_MAX, seen: new Set<string>(), folders: true },
  });
}

interface Search {
  readonly device: bigint;
  readonly inode: bigint;
  /** Whether a folder will do. */
  readonly folders: boolean;
  readonly prefix: string;
  left: number;
  readonly seen: Set<string>;
}

function below(top: string, search: Search): string | undefined {
  const queue = [top];
  for (const folder of queue) {
    if (search.left <= 0) return undefined;
    if (search.seen.has(folder)) continue;
    search.seen.add(folder);
    for (const { name, inode, isDirectory } of entriesOf(search.prefix + folder)) {
      search.left--;
      const path = join(folder, name);
      if (isDirectory) queue.push(path);
      if (inode !== search.inode || (isDirectory && !search.folders)) continue;
      const there = lstatPath(search.prefix + path);
      if (there?.inode === search.inode && there.device === search.device) return path;
    }
  }
  return undefined;
}

interface Entry {
  readonly name: string;
  readonly inode: bigint;
  readonly isDirectory: boolean;
}

/** struct linux_dirent64 */
function entriesOf(folder: string): Entry[] {
  const opened = sys('open', cString(folder), O_DIRECTORY_CLOEXEC | O_NOFOLLOW, 0);
  if (opened < 0) return [];
  using directory = new OwnedFd(opened);
  const buffer = Buffer.alloc(65536);
  const found: Entry[] = [];
  for (;;) {
    const n = sys('getdents64', directory.number, buffer, buffer.length);
    if (n <= 0) return found;
    for (let at = 0; at < n; at += buffer.readUInt16LE(at + 16)) {
      const end = buffer.indexOf(0, at + 19);
      const name = buffer.toString('utf8', at + 19, end);
      if (name === '.' || name === '..') continue;
      const isDirectory = buffer[at + 18] === DT_DIRECTORY;
      found.push({ name, inode: buffer.readBigUInt64LE(at), isDirectory });
    }
  }
}

/** Gives an open file a name beside its old one, for a restore to find it by; taken back when the tree runs on.
 *  @returns undefined when that is not possible: read-only, or another mount */
export function makeOtherName(
  descriptor: Descriptor,
  { path, prefix }: Place,
  ctx: FileContext,
): string | undefined {
  const { process, fd, stat } = descriptor;
  const name = join(dirname(path), `${TEMPORARY_NAME}${process.pid}-${stat.inode}`);
  const target = cString(prefix + name);
  sys('unlink', target);
  const from = cString(`/proc/${process.hostPid}/fd/${fd}`);
  if (sys('linkat', AT_FDCWD, from, AT_FDCWD, target, AT_SYMLINK_FOLLOW) < 0) return undefined;
  ctx.onRelease((outcome) => {
    if (outcome === 'thawed') sys('unlink', target);
  });
  return name;
}
