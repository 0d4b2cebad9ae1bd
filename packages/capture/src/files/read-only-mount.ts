import { readProc } from '@ferry/linux';
import { type MountLine, parseMountInfo } from '../namespaces/mountinfo.js';
import { refuse } from './common.js';
import type { Descriptor, FileContext } from './context.js';
import { mountNamespaceOf, mountPrefix } from './mount-prefix.js';

/** Where a read-only mount is mounted through which a file without a name was opened; empty for any other.
 *  @returns undefined after a blocker: nothing can be made there in any way */
export function readOnlyMountOf(
  descriptor: Descriptor,
  { path, neverNamed }: { path: string; neverNamed: boolean },
  ctx: FileContext,
): string | undefined {
  const mount = mountOf(descriptor, ctx);
  if (mount === undefined) return '';
  const isFrozen = mount.options.split(',').includes('ro');
  const isReadOnly = mount.flags.includes('ro');
  if (!isFrozen && !(isReadOnly && neverNamed)) {
    return isReadOnly && isBelow(path, mount.mountpoint) ? mount.mountpoint : '';
  }
  return refuse(descriptor, ctx, {
    code: 'file.deletedReadOnly',
    reason: isFrozen
      ? `the name it was opened by is gone, and its file system (${mount.mountpoint}) is read-only by now`
      : `the file never had a name (O_TMPFILE), and ${mount.mountpoint} is read-only by now`,
    remedy: `close the file, or make it writable (mount -o remount,rw ${mount.mountpoint})`,
  });
}

function isBelow(path: string, mountpoint: string): boolean {
  return mountpoint === '/' || path.startsWith(`${mountpoint}/`);
}

function mountOf(descriptor: Descriptor, ctx: FileContext): MountLine | undefined {
  const id = Number(/^mnt_id:\s*(\d+)/m.exec(descriptor.info)?.[1]);
  const isOurs = mountPrefix(descriptor, ctx) === '';
  const pid = isOurs ? 'self' : mountNamespaceOf(descriptor, ctx).hostPid;
  const lines = ctx.shared(`mountLines:${pid}`, () =>
    parseMountInfo(readProc(`/proc/${pid}/mountinfo`)),
  );
  return lines.find((line) => line.id === id);
}
