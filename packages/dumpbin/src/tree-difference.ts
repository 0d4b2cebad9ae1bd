import type { Process, TreeImage } from '@ferry/image';

/** What happens to the processes of a skeleton. */
export interface TreeDifference {
  /** Living before and now; in the order of the final image. */
  readonly kept: readonly Process[];
  /** Not there before, living or zombie; parents before children. */
  readonly fresh: readonly Process[];
  /** PIDs that end and are reaped, living before or zombies. */
  readonly gone: readonly number[];
  /** Living before, zombies now. */
  readonly died: readonly Process[];
  /** Why these changes cannot be made in a skeleton; empty when they can. */
  readonly reasons: readonly string[];
}

/** Compares the trees of two images, the later one first. Pure. */
export function treeDifference(final: TreeImage, preliminary: TreeImage): TreeDifference {
  const before = new Map(preliminary.processes.map((process) => [process.pid, process]));
  const now = new Map(final.processes.map((process) => [process.pid, process]));
  const kept: Process[] = [];
  const fresh: Process[] = [];
  const died: Process[] = [];
  const reasons: string[] = [];
  if (final.rootPid !== preliminary.rootPid) {
    reasons.push(`the root is process ${final.rootPid}, not ${preliminary.rootPid}`);
  }
  for (const process of final.processes) {
    const earlier = before.get(process.pid);
    if (earlier === undefined) {
      fresh.push(process);
      reasons.push(...freshReasons(process, now));
      continue;
    }
    if (process.state !== 'zombie') kept.push(process);
    else if (earlier.state !== 'zombie') died.push(process);
    reasons.push(...keptReasons(process, earlier, { final, now }));
  }
  const gone = preliminary.processes.filter(({ pid }) => !now.has(pid)).map(({ pid }) => pid);
  return { kept, fresh, gone, died, reasons };
}

/** A new process is born in its parent's session, and stays there or makes its own. */
function freshReasons(process: Process, now: ReadonlyMap<number, Process>): string[] {
  const { pid, sid, ppid } = process;
  const parent = now.get(ppid);
  if (parent === undefined) return [`process ${pid} has no parent in the tree`];
  if (sid === pid || sid === parent.sid) return [];
  return [`the new process ${pid} is in session ${sid}, its parent ${ppid} in ${parent.sid}`];
}

function keptReasons(
  process: Process,
  before: Process,
  { final, now }: { final: TreeImage; now: ReadonlyMap<number, Process> },
): string[] {
  const { pid } = process;
  const reasons: string[] = [];
  if (before.state === 'zombie' && process.state !== 'zombie') {
    reasons.push(`process ${pid} was a zombie and lives`);
  }
  if (before.state === 'zombie' && before.exitStatus !== process.exitStatus) {
    reasons.push(`zombie ${pid} is another one`);
  }
  if (process.ppid === before.ppid && process.exitSignal !== before.exitSignal) {
    reasons.push(`process ${pid} is another one`);
  }
  if (pid !== final.rootPid && process.ppid !== before.ppid) {
    // The kernel gives orphans to the first process of their PID namespace (find_new_reaper in kernel/exit.c).
    const parent = now.get(before.ppid);
    const orphaned = parent === undefined || parent.state === 'zombie';
    const toInit = process.ppid === final.rootPid && final.rootPid === 1;
    if (!orphaned || !toInit) {
      reasons.push(`process ${pid} is a child of ${process.ppid}, and was one of ${before.ppid}`);
    }
  }
  if (process.sid !== before.sid && (process.sid !== pid || before.pgid === pid)) {
    reasons.push(`process ${pid} is in session ${process.sid}, and was in ${before.sid}`);
  }
  return reasons;
}

/** Whether anything at all is to be done to the tree itself. */
export function treeChanges(difference: TreeDifference, preliminary: TreeImage): boolean {
  const { kept, fresh, gone, died } = difference;
  if (fresh.length + gone.length + died.length > 0) return true;
  const before = new Map(preliminary.processes.map((process) => [process.pid, process]));
  return kept.some((process) => {
    const earlier = before.get(process.pid);
    return earlier?.pgid !== process.pgid || earlier.sid !== process.sid;
  });
}
