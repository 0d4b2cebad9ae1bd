import type { MountLine } from './mountinfo.js';

/** What a container's runtime mounts: paths in it, and whether more may come with one. */
export interface GivenMount {
  readonly path: string;
  /** A bind mount may bring others below it, and so may one of control groups. */
  readonly hasMore: boolean;
}

/** Mounts that were made in a container since its runtime had made those of its configuration. The kernel lists mounts in
 *  the order of their making, so that whatever stands before the last of these was given too, under whatever name (a
 *  configured path may lead through symbolic links). Pure. */
export function addedMounts(
  lines: readonly MountLine[],
  given: readonly GivenMount[],
): readonly MountLine[] {
  const expected = new Map<string, number>([['/', 1]]);
  for (const { path } of given) expected.set(path, (expected.get(path) ?? 0) + 1);
  let last = 0;
  for (const [i, { mountpoint }] of lines.entries()) {
    const left = expected.get(mountpoint) ?? 0;
    if (left === 0) continue;
    expected.set(mountpoint, left - 1);
    last = i;
  }
  const brought = given.filter(({ hasMore }) => hasMore);
  return lines.slice(last + 1).filter(
    ({ mountpoint, master }) =>
      // The runtime's devices and console.
      !/^\/dev\/[^/]+$/.test(mountpoint) &&
      !brought.some(
        ({ path }) =>
          mountpoint.startsWith(`${path}/`) && (master !== 0 || path === lines[last]!.mountpoint),
      ),
  );
}
