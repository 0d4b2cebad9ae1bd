import { FerryError } from '@ferry/core';
import type {
  FileReference,
  PendingSignal,
  Process,
  Rlimit,
  Scheduling,
  SeccompFilter,
  Thread,
} from '@ferry/image';
import {
  parseMappings,
  procStat,
  procStatus,
  readLink,
  readMemory,
  readProc,
  sys,
  tryReadProc,
} from '@ferry/linux';
import { credentialsOf } from './credentials.js';
import type { FrozenProcess } from './frozen-tree.js';
import type { GadgetFinder } from './gadgets.js';
import { type SavedThread, saveThread } from './injection.js';
import { describeMapping, describeMm, privateRuns } from './memory.js';
import type { MemoryObjects } from './memory-objects.js';
import { queryProcess, type ThreadAnswers } from './query.js';
import { imageRegisters } from './registers.js';
import { restartedRegisters } from './restart.js';

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
  readonly references: Map<string, FileReference>;
  /** Translates a PID of ours into the tree's innermost PID namespace; 0 when it is not there. */
  readonly innerPid: (hostPid: number) => number;
  /** An id of /proc/PID/stat (session, group) as the tree's namespace sees it. */
  readonly innerId: (hostPid: number, name: 'NSpgid' | 'NSsid') => number;
}

/** A zombie: all that is left of it. */
export function captureZombie(frozen: FrozenProcess, context: CaptureContext): Process {
  const stat = procStat(frozen.hostPid);
  return {
    ...emptyProcess(frozen, context),
    comm: stat.comm,
    exitSignal: stat.exitSignal,
    state: 'zombie',
    exitStatus: stat.exitCode,
  };
}

function emptyProcess(frozen: FrozenProcess, context: CaptureContext): Process {
  return {
    pid: context.innerPid(frozen.hostPid),
    ppid: frozen.parentHostPid === 0 ? 0 : context.innerPid(frozen.parentHostPid),
    pgid: context.innerId(frozen.hostPid, 'NSpgid'),
    sid: context.innerId(frozen.hostPid, 'NSsid'),
    state: 'running',
    exitStatus: 0,
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
    filesOwnerPid: 0,
    fsOwnerPid: 0,
  };
}

/** One stopped process, without its descriptors. */
export function captureProcess(frozen: FrozenProcess, context: CaptureContext): Process {
  const { hostPid } = frozen;
  const stat = procStat(hostPid);
  const status = procStatus(`/proc/${hostPid}/status`);
  const leader = frozen.threads.find((thread) => thread.hostTid === hostPid);
  if (leader === undefined) {
    throw new FerryError(
      'capture.leaderExited',
      `Process ${hostPid} (${stat.comm}) runs on without its first thread`,
      {
        remedy: 'this cannot be carried yet; restart the program',
      },
    );
  }
  const ordered = [leader, ...frozen.threads.filter((thread) => thread !== leader)];
  const saved = ordered.map((thread) => saveThread(thread.traced));
  const xstates = saved.map((thread) => thread.traced.xstate());
  const mappings = parseMappings(readProc(`/proc/${hostPid}/smaps`));
  const answers = queryProcess({ process: frozen, saved, mappings, xstates });
  const vmas = mappings.map((m) =>
    describeMapping(hostPid, m, context.objects, context.references),
  );
  const mm = describeMm(hostPid, stat, answers.brk, vmas);
  mm.mlockFuture = answers.mlockFuture;
  const { syscallReturn, sigreturn } = context.gadgets.find(hostPid, mappings);
  mm.syscallReturnAddress = syscallReturn;
  mm.sigreturnAddress = sigreturn;
  mm.runs = privateRuns(hostPid, vmas);
  const threads = saved.map((thread, i) =>
    captureThread(hostPid, thread, xstates[i]!, answers.threads[i]!),
  );
  return {
    ...emptyProcess(frozen, context),
    state: leader.groupStop === 0 ? 'running' : 'stopped',
    exitStatus: leader.groupStop,
    comm: stat.comm,
    exitSignal: stat.exitSignal,
    mm,
    threads,
    fs: {
      cwd: readLink(`/proc/${hostPid}/cwd`),
      root: readLink(`/proc/${hostPid}/root`),
      umask: Number.parseInt(status.get('Umask') ?? '0022', 8),
    },
    rlimits: parseLimits(readProc(`/proc/${hostPid}/limits`)),
    actions: answers.actions,
    pending: pending(saved[0]!, 'process'),
    intervalTimers: answers.intervalTimers,
    posixTimers: answers.posixTimers.map((timer) => ({
      ...timer,
      notifyTid: timer.notifyTid === 0 ? 0 : innerTid(hostPid, timer.notifyTid),
    })),
    attributes: {
      dumpable: answers.dumpable,
      childSubreaper: answers.childSubreaper,
      thpDisabled: answers.thpDisabled,
      oomScoreAdj: Number((tryReadProc(`/proc/${hostPid}/oom_score_adj`) ?? '0').trim()),
      coredumpFilter: Number.parseInt(
        (tryReadProc(`/proc/${hostPid}/coredump_filter`) ?? '33').trim(),
        16,
      ),
      autogroup: '',
      loginuid: 0xffffffff,
    },
  };
}

function captureThread(
  hostPid: number,
  saved: SavedThread,
  xstate: Buffer,
  answers: ThreadAnswers,
): Thread {
  const { traced } = saved;
  const path = `/proc/${hostPid}/task/${traced.tid}`;
  const status = procStatus(`${path}/status`);
  const rseq = traced.rseq();
  const robust = Buffer.alloc(16);
  sys('get_robust_list', traced.tid, robust, robust.subarray(8));
  const codeBefore = (length: number): Buffer =>
    readMemory(hostPid, saved.registers.get('rip') - BigInt(length), length);
  const mode = Number(status.get('Seccomp') ?? 0);
  return {
    tid: innermost(status.get('NSpid') ?? String(traced.tid)),
    comm: (tryReadProc(`${path}/comm`) ?? '').replace(/\n$/, ''),
    registers: imageRegisters(restartedRegisters(saved.registers, codeBefore)),
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
  };
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

function innerTid(hostPid: number, tid: number): number {
  const status = tryReadProc(`/proc/${hostPid}/task/${tid}/status`) ?? '';
  return innermost(/^NSpid:\s+(.*)$/m.exec(status)?.[1] ?? String(tid));
}

/** The last number of a line like `NSpid: 4242 17`. */
export function innermost(list: string): number {
  return Number(list.trim().split(/\s+/).at(-1));
}

/** /proc/PID/limits, which needs no privilege over the process (prlimit(2) does). */
export function parseLimits(text: string): Rlimit[] {
  const lines = text.split('\n');
  const value = (word: string): bigint => (word === 'unlimited' ? RLIM_INFINITY : BigInt(word));
  return RLIMIT_NAMES.flatMap((name, resource) => {
    const line = lines.find((candidate) => candidate.startsWith(name));
    const words = line?.slice(26).trim().split(/\s+/);
    if (words === undefined) return [];
    return [{ resource, soft: value(words[0]!), hard: value(words[1]!) }];
  });
}
