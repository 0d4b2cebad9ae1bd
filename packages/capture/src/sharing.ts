import { type Blocker, SysError } from '@ferry/core';
import { readLink, sys, tryProcStat } from '@ferry/linux';
import { awaitBorrowers } from './borrowed-memory.js';

/** kcmp(2) */
const KCMP = { vm: 1, files: 2, fs: 3 } as const;
const EQUAL = 0;
const LESS = 1;

export interface SharingProcess {
  readonly hostPid: number;
  readonly command: string;
}

export type What = keyof typeof KCMP;

/** Namespaces that nobody enters who shares a working directory: setns(2). */
const ALONE = ['mnt', 'user'] as const;

const WORDS: Record<What, string> = {
  vm: 'memory',
  files: 'a table of descriptors',
  fs: 'a working directory',
};

/** Processes of a running tree that share, without being threads, what cannot be carried as shared: memory at all (a
 *  vfork(2) child), the rest with any other process than the parent (clone(2) CLONE_FILES, CLONE_FS), a working directory
 *  in namespaces that must be entered alone.
 *  @param processes  the tree, its root first, without zombies */
export function sharingBlockers(processes: readonly SharingProcess[]): Blocker[] {
  const parents = new Map(processes.map(({ hostPid }) => [hostPid, parentOf(hostPid)]));
  awaitBorrowers(
    processes.map(({ hostPid }) => ({ hostPid, parentHostPid: parents.get(hostPid) ?? 0 })),
  );
  return (Object.keys(KCMP) as What[]).flatMap((what) =>
    sharingGroups(processes, what).flatMap((group) => {
      const pids = new Set(group.map(({ hostPid }) => hostPid));
      const apart = group.filter(({ hostPid }) => !pids.has(parents.get(hostPid) ?? 0));
      // The first has what its descendants share.
      const fromAfar = what === 'vm' ? group.slice(1) : apart.slice(1);
      const jailed = what === 'fs' ? group.slice(1).filter(isJailed) : [];
      const found = [...new Set([...fromAfar, ...jailed])].map((process) =>
        sharingBlocker(process, group[0]!, what),
      );
      if (what !== 'fs' || found.length > 0) return found;
      return entering(group, processes[0]!);
    }),
  );
}

/** Of those that share a working directory, one that is in a namespace of its own. */
function entering(group: readonly SharingProcess[], root: SharingProcess): Blocker[] {
  for (const type of ALONE) {
    const home = spaceOf(root, type);
    const one = group.find((process) => ![home, undefined].includes(spaceOf(process, type)));
    if (one === undefined) continue;
    const other = group.find((process) => process !== one)!;
    return [{ ...sharingBlocker(one, other, 'fs'), ...NESTED[type] }];
  }
  return [];
}

const NESTED = {
  mnt: {
    reason: 'it is in a nested mount namespace, which nobody enters who shares it',
    remedy: 'let the other one be made without CLONE_FS',
  },
  user: {
    reason: 'it is in a nested user namespace, which nobody enters who shares it',
    remedy: 'let the other one be made without CLONE_FS',
  },
} as const;

/** undefined: it is about to end, and has none any more. */
function spaceOf({ hostPid }: SharingProcess, type: string): string | undefined {
  try {
    return readLink(`/proc/${hostPid}/ns/${type}`);
  } catch (error) {
    if (isEnding(error)) return undefined;
    throw error;
  }
}

function isEnding(error: unknown): boolean {
  return error instanceof SysError && ['ENOENT', 'ESRCH'].includes(error.errno);
}

/** Groups of two and more, each in the order of the tree. kcmp(2) orders what it compares, so that n processes take a
 *  sort, not n² comparisons. */
function sharingGroups(processes: readonly SharingProcess[], what: What): SharingProcess[][] {
  const compare = (a: SharingProcess, b: SharingProcess): number =>
    sys('kcmp', a.hostPid, b.hostPid, KCMP[what], 0, 0);
  const order = new Map(processes.map((process, i) => [process, i]));
  const sorted = [...processes].sort((a, b) => {
    const result = compare(a, b);
    return result === EQUAL ? 0 : result === LESS ? -1 : 1;
  });
  const groups: SharingProcess[][] = [];
  for (const [i, process] of sorted.entries()) {
    const before = sorted[i - 1];
    if (before !== undefined && compare(before, process) === EQUAL) groups.at(-1)!.push(process);
    else groups.push([process]);
  }
  const inOrder = (group: SharingProcess[]): SharingProcess[] =>
    group.sort((a, b) => order.get(a)! - order.get(b)!);
  return groups.filter(({ length }) => length > 1).map(inOrder);
}

/** The root directory is changed while another one still opens its files. */
function isJailed({ hostPid }: SharingProcess): boolean {
  try {
    return readLink(`/proc/${hostPid}/root`) !== '/';
  } catch (error) {
    if (isEnding(error)) return false; // and has none any more
    throw error;
  }
}

function parentOf(hostPid: number): number {
  return tryProcStat(hostPid)?.ppid ?? 0;
}

/** Whether two processes share something. */
export function isShared(what: What, a: number, b: number): boolean {
  return sys('kcmp', a, b, KCMP[what], 0, 0) === EQUAL;
}

export function sharingBlocker(
  process: SharingProcess,
  other: SharingProcess,
  what: What,
): Blocker {
  return {
    code: `process.shared_${what}`,
    pid: process.hostPid,
    command: process.command,
    object: `${WORDS[what]} shared with process ${other.hostPid} (${other.command})`,
    reason:
      what === 'vm'
        ? 'processes that share memory without being threads are not carried yet'
        : 'processes that share it without being parent and child are not carried yet',
    remedy:
      what === 'vm'
        ? 'try again: a vfork child has it only until it executes its program'
        : 'let them be made without CLONE_FILES and CLONE_FS',
  };
}
