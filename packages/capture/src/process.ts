import { FerryError } from '@ferry/core';
import {
  type FileReference,
  type PendingSignal,
  type Process,
  type Rlimit,
  type Scheduling,
  type SeccompFilter,
  type SecurityLabels,
  Thread,
  type Vma,
} from '@ferry/image';
import {
  holdsTiles,
  LandlockDomains,
  type Mapping,
  type ProcStat,
  procStat,
  procStatus,
  type Registers,
  readLink,
  readMemory,
  readProc,
  sys,
  tryReadProc,
} from '@ferry/linux';
import { aioRings } from './aio.js';
import { credentialsOf } from './credentials.js';
import {
  landlocked,
  localDescriptorTable,
  refused,
  refuseThread,
  tilesInUse,
} from './frozen-blockers.js';
import type { FrozenProcess, FrozenThread } from './frozen-tree.js';
import type { GadgetFinder } from './gadgets.js';
import { type SavedThread, saveThread } from './injection.js';
import { describeMapping, describeMm } from './memory.js';
import type { MemoryObjects } from './memory-objects.js';
import type { PidView } from './pid-view.js';
import type { CarriedPages } from './private-pages.js';
import { type ProcessAnswers, type QueryInput, queryProcess, type ThreadAnswers } from './query.js';
import { imageRegisters } from './registers.js';
import { restartedRegisters } from './restart.js';
import { imageLabels, labelRefusal, labelsOf } from './security-labels.js';
import { runTogether } from './steps.js';
import type { SemaphoreValues } from './sysv-ipc.js';

const KCMP = { files: 2, fs: 3 } as const;
const RLIMIT_NAMES = [
  'Max cpu time',
  'Max file size',
  'Max data size',
  'Max stack size',
  'Max core file size',
  'Max resident set',
  'Max processes',
  'Max open files',
  'Max locked memory',
  'Max address space',
  'Max file locks',
  'Max pending signals',
  'Max msgqueue size',
  'Max nice priority',
  'Max realtime priority',
  'Max realtime timeout',
];
const RLIM_INFINITY = 0xffffffffffffffffn;

/** What the captures of one tree share. */
export interface CaptureContext {
  readonly objects: MemoryObjects;
  readonly gadgets: GadgetFinder;
  /** See QueryInput. */
  readonly leftovers: QueryInput['leftovers'];
  readonly references: Map<string, FileReference>;
  /** The mappings of a stopped process, with their flags. */
  readonly mappingsOf: (hostPid: number) => Mapping[];
  readonly pids: PidView;
  /** The semaphores that a process may have used with SEM_UNDO. */
  readonly semaphoresOf: (hostPid: number) => readonly SemaphoreValues[];
  /** The pages of a process to be carried. */
  readonly pagesOf: (hostPid: number, pid: number, vmas: Vma[]) => CarriedPages;
}

/** A zombie: all that is left of it. */
function captureZombie(frozen: FrozenProcess, context: CaptureContext): Process {
  const stat = procStat(frozen.hostPid);
  return {
    ...emptyProcess(frozen, context),
    comm: stat.comm,
    exitSignal: stat.exitSignal,
    state: 'zombie',
    exitStatus: stat.exitCode,
  };
}

/** The parent of a process that has its descriptors (clone(2) CLONE_FILES), or its working directory and umask
 *  (CLONE_FS), in common with it; else 0. */
function sharer(
  { hostPid, parentHostPid, zombie }: FrozenProcess,
  what: keyof typeof KCMP,
  context: CaptureContext,
): number {
  if (zombie || parentHostPid === 0) return 0;
  const isShared = sys('kcmp', hostPid, parentHostPid, KCMP[what], 0, 0) === 0;
  return isShared ? context.pids.outer(parentHostPid) : 0;
}

function emptyProcess(frozen: FrozenProcess, context: CaptureContext): Process {
  return {
    pid: context.pids.outer(frozen.hostPid),
    ppid: frozen.parentHostPid === 0 ? 0 : context.pids.outer(frozen.parentHostPid),
    pgid: context.pids.outer(frozen.hostPid, 'NSpgid'),
    sid: context.pids.outer(frozen.hostPid, 'NSsid'),
    state: 'running',
    exitStatus: 0,
    stopWaitedFor: false,
    comm: '',
    mm: undefined,
    threads: [],
    descriptors: [],
    fs: undefined,
    rlimits: [],
    actions: [],
    pending: [],
    intervalTimers: [],
    posixTimers: [],
    attributes: undefined,
    hostPid: frozen.hostPid,
    exitSignal: 17,
    mmOwnerPid: 0,
    filesOwnerPid: sharer(frozen, 'files', context),
    fsOwnerPid: sharer(frozen, 'fs', context),
    namespaceIds: [],
    innerPids: context.pids.inner(frozen.hostPid),
    innerPgids: context.pids.inner(frozen.hostPid, 'NSpgid'),
    innerSids: context.pids.inner(frozen.hostPid, 'NSsid'),
    childrenPidNamespace: 0,
    childrenTimeNamespace: 0,
    controlGroups: [],
    innerControlGroups: [],
    aioRings: [],
    semaphoreAdjustments: [],
    hasTerminal: false,
    terminalFileId: 0,
    foregroundGroup: 0,
  };
}

/** A stopped process with all that is read of it before it is queried. */
interface PreparedProcess {
  readonly frozen: FrozenProcess;
  readonly stat: ProcStat;
  readonly query: QueryInput;
}

/** Every stopped process of the tree, without its descriptors, in the given order; zombies among them. */
export function captureProcesses(
  all: readonly FrozenProcess[],
  context: CaptureContext,
): Process[] {
  const prepared = all.filter((frozen) => !frozen.zombie).map((frozen) => prepare(frozen, context));
  const answers = runTogether(prepared.map(({ query }) => queryProcess(query)));
  const living = new Map(
    prepared.map((process, i) => [
      process.frozen.hostPid,
      captureProcess(process, answers[i]!, context),
    ]),
  );
  return all.map((frozen) => living.get(frozen.hostPid) ?? captureZombie(frozen, context));
}

function prepare(frozen: FrozenProcess, context: CaptureContext): PreparedProcess {
  const { hostPid, leaderHostPid } = frozen;
  const { comm, exitSignal } = procStat(leaderHostPid);
  const stat = { ...procStat(hostPid), comm, exitSignal };
  const leader = reachedBy(frozen);
  const ordered = [leader, ...frozen.threads.filter((thread) => thread !== leader)];
  const saved = ordered.map((thread) => saveThread(thread.traced));
  for (const thread of saved) refuseThread(thread, hostPid, stat.comm);
  const registers = saved.map((thread) => {
    const codeBefore = (length: number): Buffer =>
      readMemory(hostPid, thread.registers.get('rip') - BigInt(length), length);
    return restartedRegisters(thread.registers, codeBefore);
  });
  const xstates = saved.map((thread) => thread.traced.xstate());
  if (xstates.some(holdsTiles)) throw refused(tilesInUse, hostPid, stat.comm);
  const mappings = context.mappingsOf(hostPid);
  const { leftovers } = context;
  const semaphores = context.semaphoresOf(hostPid);
  const status = procStatus(`/proc/${hostPid}/status`);
  const isLandlocked = LandlockDomains.known?.restricts(hostPid);
  if (isLandlocked) throw refused(landlocked, hostPid, stat.comm);
  // Where the kernel's memory does not tell. Whoever had the privilege instead is not asked: that would be every process of root.
  const mayBeLandlocked =
    isLandlocked === undefined && leader.groupStop === 0 && status.get('NoNewPrivs') === '1';
  const state = { saved, registers, xstates, mappings };
  const query = { hostPid, ...state, leftovers, semaphores, mayBeLandlocked };
  return { frozen, stat, query };
}

function captureProcess(
  { frozen, stat, query }: PreparedProcess,
  answers: ProcessAnswers,
  context: CaptureContext,
): Process {
  const { hostPid, saved, registers, xstates, mappings } = query;
  if (answers.landlockLayers > 0) throw refused(landlocked, hostPid, stat.comm);
  if (answers.hasLdt) throw refused(localDescriptorTable, hostPid, stat.comm);
  const status = context.pids.status(hostPid);
  const leader = reachedBy(frozen);
  const vmas = mappings.map((m) =>
    describeMapping(hostPid, m, context.objects, context.references),
  );
  const mm = describeMm(hostPid, stat, answers.brk, vmas);
  mm.mlockFuture = answers.mlockFuture;
  const { syscallReturn, sigreturn } = context.gadgets.find(hostPid, mappings);
  mm.syscallReturnAddress = syscallReturn;
  mm.sigreturnAddress = sigreturn;
  Object.assign(mm, context.pagesOf(hostPid, context.pids.outer(hostPid), vmas));
  const labels = labelsOf(hostPid);
  const refusal = labelRefusal(labels);
  if (refusal !== undefined) throw refused(refusal, hostPid, stat.comm);
  const threads = saved.map((thread, i) =>
    captureThread(hostPid, context, {
      saved: thread,
      registers: registers[i]!,
      xstate: xstates[i]!,
      answers: answers.threads[i]!,
      labels: imageLabels(labels.get(thread.traced.tid)),
    }),
  );
  if (frozen.leaderHostPid !== hostPid) threads.unshift(endedLeader(frozen, context));
  return {
    ...emptyProcess(frozen, context),
    state: leader.groupStop === 0 ? 'running' : 'stopped',
    exitStatus: leader.groupStop,
    // What nobody has waited for yet is shown there since Linux 5.17 (fs/proc/array.c: do_task_stat).
    stopWaitedFor: leader.groupStop !== 0 && stat.exitCode === 0,
    comm: stat.comm,
    exitSignal: stat.exitSignal,
    mm,
    threads,
    fs: {
      cwd: readLink(`/proc/${hostPid}/cwd`),
      root: readLink(`/proc/${hostPid}/root`),
      umask: Number.parseInt(status.get('Umask') ?? '0022', 8),
      cwdFileId: 0,
      rootFileId: 0,
    },
    rlimits: parseLimits(readProc(`/proc/${hostPid}/limits`)),
    actions: answers.actions,
    pending: pending(saved[0]!, 'process'),
    intervalTimers: answers.intervalTimers,
    semaphoreAdjustments: answers.semaphoreAdjustments,
    aioRings: aioRings(hostPid, vmas),
    posixTimers: answers.posixTimers.map((timer) => ({
      ...timer,
      notifyTid: timer.notifyTid === 0 ? 0 : innerTid(hostPid, timer.notifyTid),
    })),
    attributes: {
      dumpable: answers.dumpable,
      childSubreaper: answers.childSubreaper,
      thpDisabled: answers.thpDisabled,
      thpFlags: answers.thpFlags,
      membarrierRegistrations: answers.membarrierRegistrations,
      mayUseTiles: answers.mayUseTiles,
      oomScoreAdj: Number((tryReadProc(`/proc/${hostPid}/oom_score_adj`) ?? '0').trim()),
      coredumpFilter: Number.parseInt(
        (tryReadProc(`/proc/${hostPid}/coredump_filter`) ?? '33').trim(),
        16,
      ),
      autogroup: /nice (-?\d+)/.exec(tryReadProc(`/proc/${hostPid}/autogroup`) ?? '')?.[1] ?? '',
      loginuid: Number((tryReadProc(`/proc/${hostPid}/loginuid`) ?? '4294967295').trim()),
      machineCheckPolicy: answers.machineCheckPolicy,
      tscMode: answers.tscMode,
      memoryDeny: answers.memoryDeny,
      memoryMerge: answers.memoryMerge,
      ioFlusher: answers.ioFlusher,
    },
  };
}

/** The thread that is asked for the whole process: the first that lives. */
function reachedBy({ hostPid, threads }: FrozenProcess): FrozenThread {
  const found = threads.find((thread) => thread.hostTid === hostPid);
  if (found !== undefined) return found;
  throw new FerryError('capture.died', `Process ${hostPid} ended while it was stopped`);
}

/** What is left of a first thread that has ended while others run on. */
function endedLeader({ leaderHostPid, hostPid }: FrozenProcess, context: CaptureContext): Thread {
  const status = procStatus(`/proc/${leaderHostPid}/status`);
  return Thread.fromPartial({
    tid: context.pids.outer(hostPid),
    innerTids: context.pids.inner(hostPid),
    hostTid: leaderHostPid,
    comm: nameOf(status.get('Name') ?? ''),
    credentials: credentialsOf(status, 0),
    exited: true,
    exitStatus: procStat(leaderHostPid).exitCode,
  });
}

interface AskedThread {
  readonly saved: SavedThread;
  /** With which it goes on elsewhere. */
  readonly registers: Registers;
  readonly xstate: Buffer;
  readonly answers: ThreadAnswers;
  readonly labels: SecurityLabels | undefined;
}

function captureThread(hostPid: number, context: CaptureContext, thread: AskedThread): Thread {
  const { saved, registers, xstate, answers, labels } = thread;
  const { traced } = saved;
  // Of the first thread both files say the same (fs/proc/array.c: proc_pid_status).
  const status =
    traced.tid === hostPid
      ? context.pids.status(hostPid)
      : procStatus(`/proc/${hostPid}/task/${traced.tid}/status`);
  const tids = context.pids.split(status.get('NSpid') ?? '');
  const rseq = traced.rseq();
  const robust = Buffer.alloc(16);
  sys('get_robust_list', traced.tid, robust, robust.subarray(8));
  const mode = Number(status.get('Seccomp') ?? 0);
  return {
    tid: tids.outer,
    comm: nameOf(status.get('Name') ?? ''),
    registers: imageRegisters(registers),
    xstate,
    signalMask: saved.signalMask,
    altstack: answers.altstack,
    pending: pending(saved, 'thread'),
    rseq: rseq.address === 0n ? undefined : rseq,
    robustList: robust.readBigUInt64LE(0),
    robustListLength: robust.readBigUInt64LE(8),
    tidAddress: answers.tidAddress,
    credentials: credentialsOf(status, answers.securebits),
    scheduling: scheduling(traced.tid),
    seccompMode: mode,
    seccompFilters: mode === 2 ? seccompFilters(saved) : [],
    parentDeathSignal: answers.parentDeathSignal,
    timerSlackNs: answers.timerSlackNs,
    ioPriority: Math.max(0, sys('ioprio_get', 1, traced.tid)),
    hostTid: traced.tid,
    personality: answers.personality,
    speculation: answers.speculation,
    exited: false,
    exitStatus: 0,
    innerTids: tids.inner,
    controlGroups: [],
    labels,
  };
}

/** The `Name:` of a status file, in which the kernel writes a newline and a backslash as two characters each
 *  (fs/proc/array.c: proc_task_name). */
function nameOf(text: string): string {
  return text.replace(/\\(n|\\)/g, (_, what: string) => (what === 'n' ? '\n' : what));
}

/** Oldest filter first: the order in which they are installed. */
function seccompFilters(saved: SavedThread): SeccompFilter[] {
  const filters: SeccompFilter[] = [];
  for (let i = 0; ; i++) {
    const filter = saved.traced.seccompFilter(i);
    if (filter === undefined) return filters.reverse();
    filters.push(filter);
  }
}

/** sched_getattr(2) and the affinity mask. */
function scheduling(tid: number): Scheduling {
  const attributes = Buffer.alloc(56);
  sys('sched_getattr', tid, attributes, attributes.length, 0);
  const mask = Buffer.alloc(128);
  const length = sys('sched_getaffinity', tid, mask.length, mask);
  return {
    policy: attributes.readUInt32LE(4),
    flags: attributes.readBigUInt64LE(8),
    nice: attributes.readInt32LE(16),
    priority: attributes.readUInt32LE(20),
    runtimeNs: attributes.readBigUInt64LE(24),
    deadlineNs: attributes.readBigUInt64LE(32),
    periodNs: attributes.readBigUInt64LE(40),
    affinity: mask.subarray(0, Math.max(0, length)),
  };
}

function pending(saved: SavedThread, which: 'thread' | 'process'): PendingSignal[] {
  return saved.traced.pendingSignals(which).map((siginfo) => ({ siginfo }));
}

/** As the process itself numbers its threads. */
function innerTid(hostPid: number, tid: number): number {
  const status = tryReadProc(`/proc/${hostPid}/task/${tid}/status`) ?? '';
  return innermost(/^NSpid:\s+(.*)$/m.exec(status)?.[1] ?? String(tid));
}

/** The last number of a line like `NSpid: 4242 17`. */
function innermost(list: string): number {
  return Number(list.trim().split(/\s+/).at(-1));
}

/** /proc/PID/limits, which needs no privilege over the process (prlimit(2) does). */
export function parseLimits(text: string): Rlimit[] {
  if (text !== lastLimits?.text) lastLimits = { text, limits: limitsOf(text) };
  return [...lastLimits.limits];
}

/** The processes of a tree mostly have the same. */
let lastLimits: { readonly text: string; readonly limits: readonly Rlimit[] } | undefined;

function limitsOf(text: string): Rlimit[] {
  const lines = text.split('\n');
  const value = (word: string): bigint => (word === 'unlimited' ? RLIM_INFINITY : BigInt(word));
  return RLIMIT_NAMES.flatMap((name, resource) => {
    const line = lines.find((candidate) => candidate.startsWith(name));
    const words = line?.slice(26).trim().split(/\s+/);
    if (words === undefined) return [];
    return [{ resource, soft: value(words[0]!), hard: value(words[1]!) }];
  });
}
