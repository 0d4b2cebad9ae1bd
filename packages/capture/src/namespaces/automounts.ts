import type { MountLine } from './mountinfo.js';

/** What stands for a mount that is made when somebody looks at it: autofs(5), x-systemd.automount. Whoever looks waits for
 *  a daemon, for ever when that does not answer (fs/autofs/waitq.c), so that mountinfo alone may tell. */
export function isAutomount({ type }: MountLine): boolean {
  return type === 'autofs';
}

/** Mounts that wait to be looked at, but those that can be taken from outside: of an indirect map, whose root nobody waits
 *  for, and those hidden there under what was mounted for them. Pure. */
export function waitingMounts(
  lines: readonly MountLine[],
  outside: readonly MountLine[],
): MountLine[] {
  return lines.filter((line) => {
    if (!isAutomount(line)) return false;
    const same = outside.filter(({ device }) => device === line.device);
    return same.length === 0 || !same.every((o) => isIndirect(o) || isCovered(o, outside));
  });
}

/** Whether to look at a path would wake up a daemon. Pure. */
export function isAutomounted(path: string, lines: readonly MountLine[]): boolean {
  let found: MountLine | undefined;
  for (const line of lines) {
    const isOnTheWay = line.mountpoint === '/' || `${path}/`.startsWith(`${line.mountpoint}/`);
    // What is mounted later on the same spot hides what was before.
    if (isOnTheWay && line.mountpoint.length >= (found?.mountpoint.length ?? 0)) found = line;
  }
  if (found === undefined || !isAutomount(found)) return false;
  return !isIndirect(found) || found.mountpoint !== path;
}

/** Only what is below its root stands for a mount: autofs_show_options, fs/autofs/inode.c. */
function isIndirect({ options }: MountLine): boolean {
  return options.split(',').includes('indirect');
}

function isCovered({ id, mountpoint }: MountLine, lines: readonly MountLine[]): boolean {
  return lines.some((other) => other.parentId === id && other.mountpoint === mountpoint);
}
