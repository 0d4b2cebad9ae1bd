import { existsSync } from 'node:fs';
import { chown, mkdir, readFile, stat } from 'node:fs/promises';
import { FerryError } from '@ferry/core';
import { cString, ERRNO, sys, sysError } from '@ferry/linux';

const MNT_DETACH = 2;

export interface OverlayPlaces {
  /** Lowest layer last, as overlayfs wants them; at least one. */
  readonly lower: readonly string[];
  readonly upper: string;
  readonly work: string;
  readonly merged: string;
}

/** Gives a new writable layer the owner that the topmost layer's root folder has: what is seen of an overlay's root is its
 *  own. One that is there already has it from where it came. */
export async function ownUpper({ lower: [top], upper }: OverlayPlaces): Promise<void> {
  if (top === undefined || existsSync(upper)) return;
  const { uid, gid } = await stat(top);
  await mkdir(upper, { recursive: true, mode: 0o755 });
  await chown(upper, uid, gid);
}

/** Mounts an overlay. Features that tie an upper layer to one host (redirects by path,
 *  metadata-only copies, the inode index) are off, so that the upper layer is plain files and can
 *  move.
 *  @throws FerryError container.rootfs */
export async function mountOverlay(places: OverlayPlaces): Promise<void> {
  const { lower, upper, work, merged } = places;
  for (const path of [upper, work, merged]) await mkdir(path, { recursive: true, mode: 0o755 });
  for (const path of [...lower, upper, work]) {
    if (/[,:\\]/.test(path)) {
      throw new FerryError('container.rootfs', `Path ${path} cannot be part of an overlay mount`, {
        remedy: 'choose a state folder without comma, colon and backslash in its path',
      });
    }
  }
  const data = [
    `lowerdir=${lower.join(':')}`,
    `upperdir=${upper}`,
    `workdir=${work}`,
    ...['redirect_dir=off', 'metacopy=off', 'index=off', 'xino=off'],
  ].join(',');
  const overlay = cString('overlay');
  const result = sys('mount', overlay, cString(merged), overlay, 0, cString(data));
  if (result >= 0) return;
  throw new FerryError(
    'container.rootfs',
    `The root file system could not be mounted at ${merged}`,
    {
      cause: sysError('mount', -result, merged),
      remedy:
        'check that the state folder is on ext4, xfs or btrfs, not on an overlay, and see dmesg',
    },
  );
}

/** Unmounts, where something is mounted. Lazily: a process may still stand in it. */
export function unmount(path: string): void {
  if (!existsSync(path)) return;
  const result = sys('umount2', cString(path), MNT_DETACH);
  if (result < 0 && result !== -ERRNO.EINVAL && result !== -ERRNO.ENOENT) {
    throw sysError('umount2', -result, path);
  }
}

/** Whether something is mounted exactly at `path`, in this process's mount namespace. */
export async function isMounted(path: string): Promise<boolean> {
  const text = await readFile('/proc/self/mountinfo', 'utf8');
  const escaped = path.replace(
    /[ \t\n\\]/g,
    (c) => `\\${c.charCodeAt(0).toString(8).padStart(3, '0')}`,
  );
  return text.split('\n').some((line) => line.split(' ')[4] === escaped);
}
