import { lstatSync } from 'node:fs';
import { call, cString, inMountCopy, OwnedFd, sys } from '@ferry/linux';
import type { MountLine } from './mountinfo.js';

const O_PATH_NOFOLLOW_CLOEXEC = 0o12400000;
const MNT_DETACH = 2;
const AT_FDCWD = -100;
const OPEN_TREE_CLONE_CLOEXEC = 0o2000001;

/** A file of a mount that others cover: as a descriptor for looking only; undefined when it cannot be
 *  uncovered. What covers it is taken away in a copy of the namespace.
 *  @param lines  all mounts of the namespace, in the order of their making
 *  @param hostPid  a process in it that is not confined to a directory */
export function openCovered(
  hostPid: number,
  lines: readonly MountLine[],
  { mount, path }: { mount: MountLine; path: string },
): OwnedFd | undefined {
  const covers = coversOf(lines, mount, path);
  try {
    return inMountCopy(hostPid, () => {
      uncover(covers);
      const { dev } = lstatSync(path, { bigint: true });
      if (dev !== mount.device) return undefined;
      return new OwnedFd(call('open', cString(path), O_PATH_NOFOLLOW_CLOEXEC, 0));
    });
  } catch {
    return undefined;
  }
}

/** A mount without those on it, as a directory to read; undefined when it cannot be had. */
export function openAlone(
  hostPid: number,
  lines: readonly MountLine[],
  mount: MountLine,
): OwnedFd | undefined {
  const covers = coversOf(lines, mount, mount.mountpoint);
  try {
    return inMountCopy(hostPid, () => {
      uncover(covers);
      if (lstatSync(mount.mountpoint, { bigint: true }).dev !== mount.device) return undefined;
      const path = cString(mount.mountpoint);
      return new OwnedFd(call('open_tree', AT_FDCWD, path, OPEN_TREE_CLONE_CLOEXEC));
    });
  } catch {
    return undefined;
  }
}

/** What is mounted last goes first. Some go with others. */
function uncover(covers: readonly MountLine[]): void {
  for (const { mountpoint } of covers.toReversed()) sys('umount2', cString(mountpoint), MNT_DETACH);
}

/** What hides a file of a mount, or something on the way to it: mounted on a mount's root, or on a folder on the way. In
 *  the order of their making. */
export function coversOf(lines: readonly MountLine[], mount: MountLine, path: string): MountLine[] {
  const byId = new Map(lines.map((line) => [line.id, line]));
  const found = new Set<MountLine>();
  let next: MountLine | undefined;
  for (let at: MountLine | undefined = mount; at !== undefined; at = byId.get(at.parentId)) {
    const way: string = next?.mountpoint ?? path;
    for (const other of lines) {
      if (other.parentId !== at.id || other === next || other === at) continue;
      const isOnTheWay = `${way}/`.startsWith(`${other.mountpoint}/`);
      if (isOnTheWay) addStack(other, { lines, found });
    }
    next = at;
  }
  return lines.filter((line) => found.has(line));
}

/** A mount, and what is mounted on its very root: taking one by its path takes the topmost. */
function addStack(
  mount: MountLine,
  { lines, found }: { lines: readonly MountLine[]; found: Set<MountLine> },
): void {
  if (found.has(mount)) return;
  found.add(mount);
  for (const other of lines) {
    if (other.parentId === mount.id && other.mountpoint === mount.mountpoint) {
      addStack(other, { lines, found });
    }
  }
}
