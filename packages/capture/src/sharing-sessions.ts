import { type Blocker, FerryError } from '@ferry/core';
import { planTree } from '@ferry/dumpbin';
import { Process, TreeImage } from '@ferry/image';
import { tryProcStat } from '@ferry/linux';
import { isShared, type SharingProcess, sharingBlocker } from './sharing.js';

const SIGCHLD = 17;

/** Processes that share a table of descriptors or a working directory with their parent and are in a session that only
 *  another one can bring them into: whoever is to share must be made by its parent.
 *  @param processes  the tree, parents before children, without zombies */
export function sharedSessionBlockers(processes: readonly SharingProcess[]): Blocker[] {
  const known = processes.flatMap((process) => {
    const stat = tryProcStat(process.hostPid);
    return stat === undefined ? [] : [{ process, stat }];
  });
  const byPid = new Map(known.map((each) => [each.process.hostPid, each]));
  const sharers = known.flatMap(({ process, stat }) => {
    const parent = byPid.get(stat.ppid);
    if (parent === undefined || parent.stat.session === stat.session) return [];
    const what = (['fs', 'files'] as const).find((each) =>
      isShared(each, process.hostPid, parent.process.hostPid),
    );
    return what === undefined ? [] : [{ process, parent: parent.process, what, stat }];
  });
  if (sharers.length === 0) return [];
  const kindOf = plan(known.map(({ process, stat }) => ({ ...stat, pid: process.hostPid })));
  return sharers
    .filter(({ process }) => ['sibling', 'orphan'].includes(kindOf(process.hostPid)))
    .map(({ process, parent, what, stat }) => ({
      ...sharingBlocker(process, parent, what),
      reason: `it is in session ${stat.session}, which its parent is not in, and is no child of its leader`,
      remedy: 'let the program make the session before it makes such a process',
    }));
}

/** How each process would be made, if it shared nothing. A tree that could not be made at all is not looked at here. */
function plan(
  stats: readonly { pid: number; ppid: number; pgrp: number; session: number }[],
): (pid: number) => string {
  const processes = stats.map(({ pid, ppid, pgrp: pgid, session: sid }) =>
    Process.fromPartial({ pid, ppid, pgid, sid, exitSignal: SIGCHLD }),
  );
  const image = TreeImage.fromPartial({ rootPid: processes[0]?.pid ?? 0, processes });
  try {
    const making = planTree(image);
    return (pid) => making.makingOf(pid).kind;
  } catch (error) {
    if (error instanceof FerryError) return () => 'child';
    throw error;
  }
}
