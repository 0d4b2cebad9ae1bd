import { type ChildProcess, spawn } from 'node:child_process';
import { type Blocker, SysError } from '@ferry/core';
import { livingTask, readLink, sys, threadsOf } from '@ferry/linux';
import { semaphoreSets } from './sysv-ipc.js';

const KCMP_SYSVSEM = 6;
const ESRCH = 3;

interface Candidate {
  readonly hostPid: number;
  readonly command: string;
}

/** Which processes may have operations on System V semaphores to be undone at their end (semop(2) SEM_UNDO): a process
 *  without threads has a list of them only once it has used SEM_UNDO, one with threads always has (ipc/sem.c:
 *  copy_semundo, for CLONE_SYSVSEM). To be asked before `dispose`. */
export class UndoLists implements Disposable {
  /** Made without CLONE_SYSVSEM, it has no list. */
  #without: ChildProcess | undefined;

  /** Where nothing can be compared with, it is taken to have one; a process that has ended has none. */
  has(hostPid: number): boolean {
    this.#without ??= helper();
    const order = compare(hostPid, this.#without.pid ?? 0);
    return order !== 0 && (order !== -ESRCH || sys('kill', hostPid, 0) === 0);
  }

  [Symbol.dispose](): void {
    this.#without?.kill('SIGKILL');
  }
}

function helper(): ChildProcess {
  const child = spawn('sleep', ['5'], { stdio: 'ignore' });
  child.on('error', () => {});
  return child;
}

function compare(a: number, b: number): number {
  return sys('kcmp', a, b, KCMP_SYSVSEM, 0, 0);
}

/** Processes whose operations to be undone cannot be carried: those in another IPC namespace than the root, and those who
 *  have a list in common without being threads of one process, or have several. Looks at the running tree. */
export function undoListBlockers(processes: readonly Candidate[]): Blocker[] {
  const [root] = processes;
  if (root === undefined) return [];
  using lists = new UndoLists();
  const rootSpace = ipcNamespaceOf(root.hostPid);
  const spaces = new Map<string, Candidate[]>();
  for (const process of processes) {
    const space = ipcNamespaceOf(process.hostPid);
    spaces.set(space, [...(spaces.get(space) ?? []), process]);
  }
  const blockers: Blocker[] = [];
  for (const [space, members] of spaces) {
    const [first] = members;
    if (space === '' || first === undefined) continue;
    if ((ifPresent(() => semaphoreSets(first.hostPid)) ?? []).length === 0) continue;
    const users = members.filter(({ hostPid }) => lists.has(hostPid));
    const why = (user: Candidate): string | undefined => {
      if (space !== rootSpace) return 'in an IPC namespace below that of the tree';
      const { hostPid } = user;
      const others = users.filter((other) => other !== user).map((other) => other.hostPid);
      if (others.some((other) => compare(hostPid, other) === 0)) return 'together with others';
      const threads = ifPresent(() => threadsOf(hostPid)) ?? [];
      // One that has ended while others run on has no list any more.
      const differs = (tid: number) => compare(hostPid, tid) > 0 && livingTask(tid) === tid;
      return threads.some(differs) ? 'in single threads' : undefined;
    };
    for (const user of users) {
      const reason = why(user);
      if (reason !== undefined) blockers.push(blocker(user, reason));
    }
  }
  return blockers;
}

function ipcNamespaceOf(hostPid: number): string {
  return ifPresent(() => readLink(`/proc/${hostPid}/ns/ipc`)) ?? '';
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

function blocker({ hostPid, command }: Candidate, how: string): Blocker {
  return {
    code: 'ipc.semaphoreUndo',
    pid: hostPid,
    command,
    object: 'System V semaphores',
    reason: `it may use SEM_UNDO ${how}, which cannot be carried`,
    remedy: 'let the program use semop(2) without SEM_UNDO, or POSIX semaphores',
  };
}
