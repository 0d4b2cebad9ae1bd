import { call, cString, OwnedFd, readLink } from '@ferry/linux';
import { O_CLOEXEC, statFd } from './common.js';
import type { Descriptor, FileContext, FileOwnerProcess } from './context.js';
import { mountPrefix } from './mount-prefix.js';
import { lstatPath, statPath } from './read-descriptors.js';

const O_PATH_DIRECTORY = 0o10200000;
const DELETED = ' (deleted)';

/** A working or root directory that was removed, as a descriptor that no process has; undefined for one that is there. */
export function lostFolder(
  process: FileOwnerProcess,
  name: 'cwd' | 'root',
  ctx: FileContext,
): Descriptor | undefined {
  const path = `/proc/${process.hostPid}/${name}`;
  let link: string;
  try {
    link = readLink(path);
  } catch {
    return undefined; // it has ended
  }
  if (!link.endsWith(DELETED)) {
    blockHidden(process, { name, path, link }, ctx);
    return undefined;
  }
  const fd = new OwnedFd(call('open', cString(path), O_PATH_DIRECTORY | O_CLOEXEC, 0));
  ctx.onRelease(() => fd[Symbol.dispose]());
  const stat = statFd(fd);
  const there = lstatPath(mountPrefix({ process, info: '' }, ctx) + link);
  if (there?.inode === stat.inode && there.device === stat.device) return undefined;
  return {
    process,
    fd: -1,
    link,
    stat,
    info: '',
    position: 0n,
    flags: O_PATH_DIRECTORY,
    closeOnExec: false,
    dup: () => fd,
  };
}

/** A directory is entered by its path again: that must lead to it, and not to what has been mounted over it. */
function blockHidden(
  process: FileOwnerProcess,
  { name, path, link }: { name: 'cwd' | 'root'; path: string; link: string },
  ctx: FileContext,
): void {
  const own = statPath(path);
  const found = lstatPath(mountPrefix({ process, info: '' }, ctx) + link);
  if (found !== undefined && found.device === own?.device && found.inode === own.inode) return;
  // It may have ended, or gone on, since it was looked at.
  if (found === undefined && !isStillThere(path, link)) return;
  const blocker = {
    code: 'file.hiddenFolder',
    object: `${name === 'cwd' ? 'working' : 'root'} directory ${link}`,
    reason:
      found === undefined
        ? 'what it is in is not mounted any more, so that no path leads there'
        : 'something else is mounted over it, so that its path does not lead there',
    remedy: 'change to another directory first, or unmount what covers it',
  };
  ctx.block(blocker, { process });
}

function isStillThere(path: string, link: string): boolean {
  try {
    return readLink(path) === link;
  } catch {
    return false;
  }
}
