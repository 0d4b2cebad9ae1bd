import type { MountLine } from './mountinfo.js';

/** Ids of the mounts that were made in a mount namespace since that was copied from the one outside. The kernel lists
 *  mounts in the order of their making, those copied first: whatever stands before one that is outside too, at the same
 *  place, came with it (or may have). After a pivot_root(2) places tell nothing: then before one whose files are mounted
 *  outside anywhere. Pure. */
export function ownMounts(
  lines: readonly MountLine[],
  outside: readonly MountLine[],
): ReadonlySet<number> {
  const isCopy = (line: MountLine, isAtPlace: boolean): boolean =>
    outside.some(
      (other) =>
        other.device === line.device &&
        other.root === line.root &&
        (!isAtPlace || other.mountpoint === line.mountpoint),
    );
  const isPlaced = lines.some((line) => line.mountpoint === '/' && isCopy(line, true));
  const last = lines.findLastIndex((line) => isCopy(line, isPlaced));
  return new Set(lines.slice(last + 1).map(({ id }) => id));
}
