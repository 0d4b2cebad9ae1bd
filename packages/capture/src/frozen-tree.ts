import { FerryError, SysError } from '@ferry/core';
import {
  childrenOf,
  livingTask,
  parseMappings,
  readLink,
  type Stop,
  sys,
  TracedThread,
  threadsOf,
  tryProcStat,
  tryReadProc,
} from '@ferry/linux';
import {
  awaitBorrowers,
  type Borrower,
  borrowedMemory,
  borrowersOf,
  borrows,
} from './borrowed-memory.js';
import { findSyscallInstruction, remoteSyscall, saveThread } from './injection.js';
import { runAlone } from './steps.js';

const SIGKILL = 9;
const WNOHANG = 1;
const WAIT_ALL = 0x40000000;
/** How long a thread that was stopped when it was seized may take to trap. */
const CONTINUED_MS = 50;
const GONE_MS = 10_000;
const REAPED_BY_INIT_MS = 15_000;
const REAPED_BY_PARENT_MS = 200;
/** How often a freeze begins anew because a first thread has ended meanwhile. */
const LEADERS_ENDED_MAX = 10;

/** A process whose threads are all in ptrace-stop, or a zombie (which has none). */
export interface FrozenProcess {
  /** By which it is reached (`livingTask`); so are its parent and its children. */
  readonly hostPid: number;
  /** Of the process itself. */
  readonly leaderHostPid: number;
  readonly parentHostPid: number;
  readonly threads: FrozenThread[];
  /** Host PIDs, oldest first. */
  children: readonly number[];
  readonly zombie: boolean;
}

export interface FrozenThread {
  readonly traced: TracedThread;
  readonly hostTid: number;
  /** The signal of the job-control stop it is in, else 0. */
  readonly groupStop: number;
}

/** Where a walk has come to. */
interface Found {
  readonly hostPid: number;
  readonly leaderHostPid: number;
  readonly parent: number;
}

/** How often the threads of a process are listed in one walk. */
const LISTED_MAX = 1000;

/** The first thread of a process has ended between two walks: it must be reached by another one. */
class LeaderEnded extends Error {}

/** A thread that was seized in this walk. */
interface Fresh {
  readonly process: FrozenProcess;
  readonly thread: TracedThread;
  readonly wasStopped: boolean;
}

/** A process tree held in ptrace-stop. Whatever happens, `release` lets every thread go as it was found.
 *
 *  New threads and processes may appear until all are stopped, so the tree is walked until a walk finds nothing new:
 *  1. a thread is seized and interrupted; it may have cloned before it stopped;
 *  2. once it has stopped it can clone no more, so re-reading its process's threads and children finds all of them;
 *  3. a task that a walk has met, and that is gone before it could be seized, may have left others behind;
 *  4. where threads end while /proc lists them, the list may leave out others (fs/proc/base.c: first_tid), so that it is
 *     compared with their number;
 *  5. a walk in which every task was stopped already, and none was missed, is therefore complete.
 *
 *  A process that uses its parent's memory (vfork) is let go on until it does not any more: the parent stops then. */
export class FrozenTree {
  /** By `hostPid`. */
  readonly processes = new Map<number, FrozenProcess>();
  /** Whether something was missed in this walk. */
  #missed = false;

  /** @throws FerryError capture.borrowedMemory, capture.unstoppable, capture.cannotTrace */
  static freeze(rootHostPid: number): FrozenTree {
    // Before anything is stopped; only what begins right now is left to the walk.
    const [borrower] = awaitBorrowers(borrowersOf(rootHostPid));
    if (borrower !== undefined) throw borrowedMemory(borrower);
    for (let i = 0; ; i++) {
      const tree = new FrozenTree();
      try {
        while (tree.#walk(rootHostPid)) {}
        return tree;
      } catch (error) {
        tree.release();
        if (!(error instanceof LeaderEnded) || i === LEADERS_ENDED_MAX) throw error;
      }
    }
  }

  /** Seizes and stops what is not yet; true when there was something new. */
  #walk(rootHostPid: number): boolean {
    const parents = new Map<number, number>([[rootHostPid, 0]]);
    const fresh: Fresh[] = [];
    const borrowers: Borrower[] = [];
    /** By which a process is reached whose first thread has ended. */
    const tasks = new Map<number, number>();
    const seen = new Set<number>();
    this.#missed = false;
    for (const [leaderHostPid, parent] of parents) {
      const hostPid = this.#taskOf(leaderHostPid);
      if (hostPid !== leaderHostPid) tasks.set(leaderHostPid, hostPid);
      seen.add(hostPid);
      const borrower = { hostPid, parentHostPid: parent };
      if (parent !== 0 && !this.processes.has(hostPid) && borrows(borrower)) {
        borrowers.push(borrower);
        continue;
      }
      const threads = this.#seizeThreads({ hostPid, leaderHostPid, parent }, fresh);
      const children = childrenOf(hostPid, threads);
      for (const child of children) parents.set(child, hostPid);
      const process = this.processes.get(hostPid);
      if (process !== undefined) process.children = children;
    }
    const [lasting] = awaitBorrowers(borrowers);
    if (lasting !== undefined) throw borrowedMemory(lasting);
    for (const { process, thread, wasStopped } of fresh) {
      if (wasStopped && !stopsWithin(thread, CONTINUED_MS)) thread.interrupt();
      const stop = settle(thread);
      if (stop.kind === 'exited') {
        if (thread.tid === process.hostPid && process.threads.length > 0) throw new LeaderEnded();
        continue;
      }
      const groupStop = stop.kind === 'stopped' && stop.group ? stop.groupSignal : 0;
      process.threads.push({ traced: thread, hostTid: thread.tid, groupStop });
    }
    for (const hostPid of [...this.processes.keys()]) {
      if (!seen.has(hostPid)) this.processes.delete(hostPid);
    }
    for (const process of tasks.size > 0 ? this.processes.values() : []) {
      process.children = process.children.map((child) => tasks.get(child) ?? child);
    }
    return fresh.length > 0 || borrowers.length > 0 || this.#missed;
  }

  /** Only a zombie can be without its first thread. */
  #taskOf(hostPid: number): number {
    const isKnown = this.processes.get(hostPid)?.zombie === false;
    return isKnown || stateOf(hostPid) !== 'Z' ? hostPid : livingTask(hostPid);
  }

  #seizeThreads({ hostPid, leaderHostPid, parent }: Found, fresh: Fresh[]): number[] {
    const state = stateOf(hostPid);
    if (state === undefined) {
      this.#missed = true;
      return [];
    }
    let process = this.processes.get(hostPid);
    if (process === undefined) this.#missed = true;
    const isZombie = state === 'Z' && tidsOf(hostPid).length <= 1;
    if (process === undefined || isZombie) {
      process = {
        ...{ hostPid, leaderHostPid, parentHostPid: parent },
        threads: [],
        children: [],
        zombie: isZombie,
      };
      this.processes.set(hostPid, process);
    }
    if (process.zombie) return [];
    const known = new Set(process.threads.map((thread) => thread.hostTid));
    let threads = tidsOf(hostPid);
    // Threads that make others and end are gone sooner than a whole walk takes.
    for (
      let i = 0;
      i < LISTED_MAX && this.#seizeNew(process, threads, { known, state, fresh });
      i++
    ) {
      threads = tidsOf(hostPid);
    }
    if (state !== 'Z' && threads.length !== threadCountOf(hostPid)) this.#missed = true;
    return threads;
  }

  /** Seizes those of `threads` that are not known yet; true when one of them was gone. */
  #seizeNew(
    process: FrozenProcess,
    threads: readonly number[],
    { known, state, fresh }: { known: Set<number>; state: string; fresh: Fresh[] },
  ): boolean {
    let missed = false;
    for (const tid of threads) {
      if (known.has(tid)) continue;
      known.add(tid);
      const thread = seize(tid);
      if (thread === undefined) {
        // A first thread that has ended stays in the list.
        missed ||= tid !== process.leaderHostPid;
        continue;
      }
      // Seizing a stopped thread makes it trap; an interrupt on top would make it trap again when it is let run.
      const wasStopped = state === 'T';
      if (!wasStopped) thread.interrupt();
      fresh.push({ process, thread, wasStopped });
    }
    this.#missed ||= missed;
    return missed;
  }

  /** Lets every thread run on as it was: detaching keeps job-control stops and lets interrupted system calls restart. */
  release(): void {
    for (const process of this.processes.values()) {
      for (const thread of process.threads) thread.traced.detach();
    }
    this.processes.clear();
  }

  /** Kills every process, children before their parents, and has each parent reap its dead children before it dies
   *  itself: orphaned zombies would hold their PIDs until whoever inherits them gets around to it. Returns when every
   *  PID is free, or only the root's parent has yet to reap it.
   *  The init of a PID namespace takes all of it along, so there nothing needs to be reaped (and in a container nothing
   *  could be: its control group is frozen). */
  kill(): void {
    const processes = [...this.processes.values()];
    const root = processes[0];
    const alone = root !== undefined && isInit(root.hostPid);
    const living = processes.reverse().filter((process) => !process.zombie);
    const dead = new Set<FrozenProcess>();
    const end = (process: FrozenProcess): void => {
      if (dead.has(process)) return;
      dead.add(process);
      // It ends when all others of its PID namespace are reaped, which parents outside must do.
      if (!alone && isInit(process.hostPid)) this.#emptyNamespace(process, end);
      if (!alone) reapChildren(process);
      sys('kill', process.hostPid, SIGKILL);
      if (!alone) drain(process.threads);
    };
    for (const process of living) end(process);
    if (alone) drain(living.flatMap((process) => process.threads));
    this.processes.clear();
    if (root !== undefined) waitReaped(root.leaderHostPid);
  }

  #emptyNamespace(init: FrozenProcess, end: (process: FrozenProcess) => void): void {
    const namespace = pidNamespaceOf(init.hostPid);
    for (const process of this.processes.values()) {
      if (process === init || process.zombie || process.parentHostPid === init.hostPid) continue;
      if (pidNamespaceOf(process.hostPid) !== namespace) continue;
      end(process);
      const parent = this.processes.get(process.parentHostPid);
      if (parent !== undefined && pidNamespaceOf(parent.hostPid) !== namespace)
        reapChildren(parent);
    }
  }
}

function pidNamespaceOf(hostPid: number): string {
  try {
    return readLink(`/proc/${hostPid}/ns/pid`);
  } catch {
    return '';
  }
}

/** Whether a process is the first of a PID namespace of its own. */
function isInit(hostPid: number): boolean {
  return /^NStgid:.*\s1$/m.test(tryReadProc(`/proc/${hostPid}/status`) ?? '') && hostPid !== 1;
}

/** Makes a stopped process wait for its dead children. */
function reapChildren(process: FrozenProcess): void {
  const leader = process.threads[0];
  const mappings = tryReadProc(`/proc/${process.hostPid}/maps`);
  const children = childrenOf(
    process.hostPid,
    process.threads.map((thread) => thread.hostTid),
  );
  if (leader === undefined || mappings === undefined || children.length === 0) return;
  const saved = saveThread(leader.traced);
  const instruction = findSyscallInstruction(process.hostPid, parseMappings(mappings));
  // It is about to be killed: there is no way back to prepare.
  const place = { instruction, stackPointer: undefined };
  const wait = () =>
    runAlone(remoteSyscall(saved, place, 'wait4', [-1n, 0, WNOHANG | WAIT_ALL, 0]));
  while (wait() > 0n) {}
}

/** Waits until the root's parent, which is not ours, has reaped it: an init may be slow, others may not do it at all. */
function waitReaped(hostPid: number): void {
  const parent = Number(
    /^PPid:\s+(\d+)/m.exec(tryReadProc(`/proc/${hostPid}/status`) ?? '')?.[1] ?? 0,
  );
  const deadline = performance.now() + (parent === 1 ? REAPED_BY_INIT_MS : REAPED_BY_PARENT_MS);
  const nap = Buffer.alloc(16);
  nap.writeBigUInt64LE(1_000_000n, 8);
  while (tryReadProc(`/proc/${hostPid}/stat`) !== undefined && performance.now() < deadline) {
    sys('nanosleep', nap, null);
  }
}

function stateOf(pid: number): string | undefined {
  return tryProcStat(pid)?.state;
}

/** How many threads a process has, as it says itself. */
function threadCountOf(pid: number): number | undefined {
  return tryProcStat(pid)?.threadCount;
}

function tidsOf(pid: number): number[] {
  try {
    return threadsOf(pid);
  } catch (error) {
    if (error instanceof SysError && error.errno === 'ENOENT') return [];
    throw error;
  }
}

function seize(tid: number): TracedThread | undefined {
  try {
    return TracedThread.seize(tid);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    if (error.errno === 'ESRCH') return undefined;
    const status = tryReadProc(`/proc/${tid}/status`);
    if (status === undefined || /^State:\s+[ZX]/m.test(status)) return undefined;
    const tracer = /^TracerPid:\s+(\d+)/m.exec(status)?.[1];
    throw new FerryError('capture.cannotTrace', `Thread ${tid} cannot be traced`, {
      cause: error,
      remedy:
        tracer !== undefined && tracer !== '0'
          ? `process ${tracer} (a debugger?) traces it: end that one first`
          : 'run as root with CAP_SYS_PTRACE',
    });
  }
}

/** Brings an interrupted thread to its stop. Signals that were just about to be delivered are delivered: their handler
 *  has not run an instruction when the interrupt's own stop follows. */
function settle(thread: TracedThread): Stop {
  for (;;) {
    const stop = thread.wait();
    if (stop.kind !== 'signal') return stop;
    thread.cont(stop.signal);
  }
}

/** Whether a thread that was stopped when it was seized has trapped; one that was continued meanwhile has not. */
function stopsWithin(thread: TracedThread, timeoutMs: number): boolean {
  const deadline = performance.now() + timeoutMs;
  while (performance.now() < deadline) {
    if (/^State:\s+[tZX]/m.test(tryReadProc(`/proc/${thread.tid}/status`) ?? '')) return true;
    sys('sched_yield');
  }
  return false;
}

/** Waits until killed threads are gone, in whatever order they go: the last thread of a PID namespace's init ends only
 *  when every other task there has been waited for (kernel/pid_namespace.c:zap_pid_ns_processes), and it may be any of
 *  them. */
function drain(threads: readonly FrozenThread[]): void {
  const deadline = performance.now() + GONE_MS;
  const nap = Buffer.alloc(16);
  nap.writeBigUInt64LE(200_000n, 8);
  let left = threads.filter(({ traced }) => !isGone(traced));
  while (left.length > 0) {
    if (performance.now() > deadline) {
      const tids = left.map(({ hostTid }) => hostTid).join(', ');
      throw new FerryError('capture.unstoppable', `Killed threads are still there: ${tids}`, {
        remedy: 'they are in uninterruptible system calls (state D); end what they wait for',
      });
    }
    sys('nanosleep', nap, null);
    left = left.filter(({ traced }) => !isGone(traced));
  }
}

function isGone(thread: TracedThread): boolean {
  try {
    for (let stop = thread.poll(); stop !== undefined; stop = thread.poll()) {
      if (stop.kind === 'exited') return true;
      thread.cont(SIGKILL);
    }
    return false;
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    // ESRCH: it was in a stop when asked, and is dying now.
    if (error.errno === 'ECHILD' || error.errno === 'ESRCH') return error.errno === 'ECHILD';
    throw error;
  }
}
