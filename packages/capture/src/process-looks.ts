import type { Blocker } from '@ferry/core';
import {
  livingTask,
  parseMappings,
  parseStat,
  procStat,
  readProc,
  type SecurityLabelsRead,
  tryReadProc,
} from '@ferry/linux';
import { findBlockers } from './blockers.js';
import type { GadgetFinder } from './gadgets.js';
import type { NotedMappings } from './noted-mappings.js';
import type { CaptureContext } from './process.js';
import { labelsOf } from './security-labels.js';

/** A process as a look at the running tree found it. */
export interface LookedAt {
  readonly hostPid: number;
  readonly pid: number;
  readonly command: string;
}

/** What each of the running processes shows for itself. */
export interface ProcessLooks {
  readonly processes: LookedAt[];
  readonly blockers: Blocker[];
  readonly labels: SecurityLabelsRead[];
  readonly residentBytes: bigint;
}

/** include/linux/sched.h, as proc_pid_stat(5) shows it. */
const PF_EXITING = 4;

/** Looks at running processes; those that end meanwhile, and zombies, are left out. */
export function lookAtProcesses(
  hostPids: readonly number[],
  of: { context: CaptureContext; noted: NotedMappings; gadgets: GadgetFinder },
): ProcessLooks {
  const { context, noted, gadgets } = of;
  const processes: LookedAt[] = [];
  const blockers: Blocker[] = [];
  const labels: SecurityLabelsRead[] = [];
  let residentBytes = 0n;
  for (const leaderHostPid of hostPids) {
    const hostPid = livingTask(leaderHostPid);
    try {
      const stat = procStat(hostPid);
      const pid = context.pids.outer(hostPid);
      if (stat.state === 'Z') continue;
      processes.push({ hostPid, pid, command: stat.comm });
      const mappings = parseMappings(readProc(`/proc/${hostPid}/smaps`));
      noted.set(hostPid, mappings);
      gadgets.find(hostPid, mappings);
      blockers.push(...findBlockers({ hostPid, pid, command: stat.comm, mappings, context }));
      labels.push(...labelsOf(hostPid).values());
      residentBytes +=
        BigInt(/^Rss.*?(\d+)/m.exec(readProc(`/proc/${hostPid}/smaps_rollup`))?.[1] ?? 0) * 1024n;
    } catch (error) {
      if (isLiving(livingTask(leaderHostPid))) throw error;
    }
  }
  return { processes, blockers, labels, residentBytes };
}

/** Still there, and neither a zombie nor about to be one: it gives up its memory and files one after the other. */
export function isLiving(hostPid: number): boolean {
  const text = tryReadProc(`/proc/${hostPid}/stat`);
  if (text === undefined) return false;
  const { state, flags } = parseStat(text);
  return state !== 'Z' && state !== 'X' && (flags & PF_EXITING) === 0;
}
