import { FerryError } from '@ferry/core';
import { childrenOf, livingTask, sys, threadsOf, tryReadProc } from '@ferry/linux';

const KCMP_VM = 1;
/** A vfork(2) child has its parent's memory until it executes a program or ends: most do within a millisecond. */
export const BORROWED_MS_MAX = 500;

/** A process that uses the memory of its parent without being a thread of it. */
export interface Borrower {
  readonly hostPid: number;
  readonly parentHostPid: number;
}

/** Whether it still does. The parent of a vfork child cannot be stopped before (kernel/fork.c: wait_for_vfork_done), and
 *  a child that is stopped never gets there. */
export function borrows({ hostPid, parentHostPid }: Borrower): boolean {
  return sys('kcmp', hostPid, parentHostPid, KCMP_VM, 0, 0) === 0;
}

/** Waits until none does any more.
 *  @returns those that still do after BORROWED_MS_MAX */
export function awaitBorrowers(borrowers: readonly Borrower[]): Borrower[] {
  const deadline = performance.now() + BORROWED_MS_MAX;
  const nap = Buffer.alloc(16);
  nap.writeBigUInt64LE(100_000n, 8);
  let left = borrowers.filter(borrows);
  while (left.length > 0 && performance.now() < deadline) {
    sys('nanosleep', nap, null);
    left = left.filter(borrows);
  }
  return left;
}

/** Those of a running tree. */
export function borrowersOf(rootHostPid: number): Borrower[] {
  const found: Borrower[] = [];
  const pids = [livingTask(rootHostPid)];
  for (const parentHostPid of pids) {
    for (const hostPid of livingChildren(parentHostPid)) {
      pids.push(hostPid);
      if (borrows({ hostPid, parentHostPid })) found.push({ hostPid, parentHostPid });
    }
  }
  return found;
}

function livingChildren(hostPid: number): number[] {
  try {
    return childrenOf(hostPid, threadsOf(hostPid)).map(livingTask);
  } catch (error) {
    if (tryReadProc(`/proc/${hostPid}/stat`) === undefined) return [];
    throw error;
  }
}

export function borrowedMemory({ hostPid, parentHostPid }: Borrower): FerryError {
  return new FerryError(
    'capture.borrowedMemory',
    `Process ${hostPid} uses the memory of its parent ${parentHostPid}, which cannot be stopped meanwhile`,
    { remedy: 'try again: a vfork child does so only until it executes its program' },
  );
}
