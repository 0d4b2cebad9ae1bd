import { type ChildProcess, spawn } from 'node:child_process';
import { type Blocker, SysError } from '@ferry/core';
import { readLink, sys, threadsOf } from '@ferry/linux';
import { semaphoreUsers } from './sysv-ipc.js';

const KCMP_SYSVSEM = 6;
const ESRCH = 3;

interface Candidate {
  readonly hostPid: number;
  readonly command: string;
}

/** Processes that may have operations on System V semaphores to be undone at their end (semop(2) SEM_UNDO). The kernel
 *  shows them to nobody, and would undo them when the processes are ended here.
 *
 *  A process without threads has a list of them only once it has used SEM_UNDO, one with threads always has
 *  (ipc/sem.c: copy_semundo, for CLONE_SYSVSEM). So a process is named that has a list and was the last one to change
 *  some semaphore: with threads it may have done so without SEM_UNDO. */
export function semaphoreUndoBlockers(processes: readonly Candidate[]): Blocker[] {
  const users = new Map<number, number>();
  for (const [, { hostPid }] of byIpcNamespace(processes)) {
    for (const [pid, id] of ifPresent(() => semaphoreUsers(hostPid)) ?? []) users.set(pid, id);
  }
  const candidates = processes.filter(({ hostPid }) => users.has(hostPid));
  if (candidates.length === 0) return [];
  // Made without CLONE_SYSVSEM, it has no list.
  const without = spawn('sleep', ['1'], { stdio: 'ignore' });
  without.on('error', () => {});
  try {
    return candidates
      .filter(({ hostPid }) => hasUndoList(hostPid, without))
      .map((candidate) => blocker(candidate, users.get(candidate.hostPid)!));
  } finally {
    without.kill('SIGKILL');
  }
}

function byIpcNamespace(processes: readonly Candidate[]): Map<string, Candidate> {
  return new Map(
    processes.flatMap((process) => {
      const link = ifPresent(() => readLink(`/proc/${process.hostPid}/ns/ipc`));
      return link === undefined ? [] : [[link, process]];
    }),
  );
}

/** What `look` finds of a process that runs, and may have ended since it was listed; a zombie has no namespace. */
function ifPresent<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (error) {
    if (error instanceof SysError && ['ENOENT', 'ESRCH'].includes(error.errno)) return undefined;
    throw error;
  }
}

/** Where nothing can be compared with, it is taken to have one; a process that has ended has none. */
function hasUndoList(hostPid: number, without: ChildProcess): boolean {
  const order = sys('kcmp', hostPid, without.pid ?? 0, KCMP_SYSVSEM, 0, 0);
  return order !== 0 && (order !== -ESRCH || sys('kill', hostPid, 0) === 0);
}

function blocker({ hostPid, command }: Candidate, id: number): Blocker {
  const verb = threadsOf(hostPid).length > 1 ? 'may have' : 'has';
  return {
    code: 'ipc.semaphoreUndo',
    pid: hostPid,
    command,
    object: `System V semaphores ${id}`,
    reason: `it ${verb} used SEM_UNDO, and what the kernel is to undo at its end cannot be read`,
    remedy: 'let the program use semop(2) without SEM_UNDO, or POSIX semaphores',
  };
}
