import type { FsState, PosixTimer, Process, ProcessAttributes } from '@ferry/image';
import { TILE_DATA } from '@ferry/linux';
import type { CompileContext } from './compile-context.js';
import { emitWhileLiving } from './files/deferred.js';
import { procOf } from './files/proc-file.js';
import { ownPid } from './pid-numbers.js';
import type { ProgramBuilder } from './program.js';

const SIG_MAX = 64;
const SIGKILL = 9;
const SIGSTOP = 19;
const SIG_SETMASK = 2;
const EPERM = 1;
const SI_TIMER = -2;
const PR = {
  setTsc: 26,
  mceKill: 33,
  setIoFlusher: 57,
  setMdwe: 65,
  setMemoryMerge: 67,
  setChildSubreaper: 36,
  setThpDisable: 41,
  timerCreateRestoreIds: 77,
} as const;
/** Documentation/arch/x86/xstate.rst */
const ARCH_REQ_XCOMP_PERM = 0x1023;
const PR_MCE_KILL_SET = 1;
const PR_MCE_KILL_DEFAULT = 2;
const PR_TSC_ENABLE = 1;
const NO_LOGINUID = 0xffffffff;
const RLIMIT_NOFILE = 7;
const DEFAULT_COREDUMP_FILTER = 0x33;

/** All signals at their default, as a fresh tree has them: whoever restores may ignore some. */
export function emitDefaultActions(b: ProgramBuilder): void {
  const none = b.reserve(32);
  for (let signal = 1; signal <= SIG_MAX; signal++) {
    if (signal === SIGKILL || signal === SIGSTOP) continue;
    b.sys('rt_sigaction', [signal, none, 0, 8], `signal ${signal} at its default`);
  }
}

/** Working directory, root, umask, limits and the other attributes of a process. */
export function emitProcessAttributes(
  b: ProgramBuilder,
  process: Process,
  ctx: CompileContext,
): void {
  const { fs, attributes } = process;
  // Shared with its parent, they are the parent's to set.
  if (fs !== undefined && process.fsOwnerPid === 0) {
    if (fs.cwdFileId !== 0) emitRemovedFolder(b, fs, ctx);
    else b.sys('chdir', [b.cstr(fs.cwd)], `working directory ${fs.cwd}`);
    const root = fs.rootFileId === 0 ? fs.root : `/proc/self/fd/${ctx.fdOf(fs.rootFileId)}`;
    if (root !== '/') b.sys('chroot', [b.cstr(root)], `root directory ${fs.root}`);
    b.sys('umask', [fs.umask], 'umask', { expect: 'any' });
  }
  if (attributes?.childSubreaper) b.sys('prctl', [PR.setChildSubreaper, 1], 'child subreaper');
  if (attributes?.thpDisabled) {
    b.sys('prctl', [PR.setThpDisable, 1, attributes.thpFlags, 0, 0], 'THP disabled');
  }
  emitMembarrier(b, attributes?.membarrierRegistrations ?? 0);
  if (attributes !== undefined) emitFlags(b, process, attributes);
  emitProcFile(b, 'oom_score_adj', attributes?.oomScoreAdj ?? 0, 0);
  emitProcFile(
    b,
    'coredump_filter',
    attributes?.coredumpFilter ?? DEFAULT_COREDUMP_FILTER,
    DEFAULT_COREDUMP_FILTER,
  );
}

/** Registers for membarrier(2) again: the mask is of its commands. Those of another kernel that this one lacks would not
 *  work after it either. */
function emitMembarrier(b: ProgramBuilder, registrations: number): void {
  for (let command = 1; command <= registrations; command *= 2) {
    if (registrations & command) b.sys('membarrier', [command, 0, 0], `membarrier ${command}`);
  }
}

/** A working directory that is gone. A folder of /proc can only be entered while its process lives. */
function emitRemovedFolder(
  b: ProgramBuilder,
  { cwd, cwdFileId }: FsState,
  ctx: CompileContext,
): void {
  const proc = procOf(ctx.file(cwdFileId));
  if (proc === undefined) {
    b.sys('fchdir', [ctx.fdOf(cwdFileId)], `removed ${cwd}`);
    return;
  }
  emitWhileLiving(b, { pid: proc.pid, name: proc.path }, () => {
    b.sys('chdir', [b.cstr(proc.path)], `working directory ${proc.path}`);
  });
}

/** Flags of prctl(2) that threads take over when they are made. */
function emitFlags(b: ProgramBuilder, process: Process, attributes: ProcessAttributes): void {
  const { machineCheckPolicy, tscMode, memoryMerge, ioFlusher, loginuid, autogroup } = attributes;
  const { mayUseTiles } = attributes;
  if (machineCheckPolicy !== PR_MCE_KILL_DEFAULT) {
    const set = [PR.mceKill, PR_MCE_KILL_SET, machineCheckPolicy, 0, 0];
    b.sys('prctl', set, 'machine check policy');
  }
  if (tscMode > PR_TSC_ENABLE) b.sys('prctl', [PR.setTsc, tscMode], 'time-stamp counter');
  if (memoryMerge) b.sys('prctl', [PR.setMemoryMerge, 1, 0, 0, 0], 'memory merge');
  if (ioFlusher) b.sys('prctl', [PR.setIoFlusher, 1, 0, 0, 0], 'I/O flusher');
  if (mayUseTiles) b.sys('arch_prctl', [ARCH_REQ_XCOMP_PERM, TILE_DATA], 'AMX tiles');
  if (loginuid !== NO_LOGINUID) emitProcFile(b, 'loginuid', loginuid, NO_LOGINUID);
  // Of the whole session: its leader sets it.
  if (process.sid === process.pid) emitProcFile(b, 'autogroup', Number(autogroup), 0);
}

/** Writes a number to a file of /proc/self unless it is the default. Lowering some needs CAP_SYS_RESOURCE. */
function emitProcFile(b: ProgramBuilder, name: string, value: number, standard: number): void {
  if (value === standard) return;
  const slot = b.slotFor('proc file');
  const text = Buffer.from(String(value));
  b.sys('open', [b.cstr(`/proc/self/${name}`), 1, 0], `open ${name}`, { into: slot });
  b.sys('write', [slot, b.bytes(text), text.length], `set ${name}`, { expect: 'any' });
  b.sys('close', [slot], `close ${name}`);
}

/** Resource limits; hard limits above ours need CAP_SYS_RESOURCE and stay as they are without it. */
export function emitLimits(b: ProgramBuilder, process: Pick<Process, 'rlimits'>): void {
  for (const { resource, soft, hard } of process.rlimits) {
    if (resource === RLIMIT_NOFILE && soft === 0n) continue;
    b.sys('prlimit64', [0, resource, b.words(soft, hard), 0], `limit ${resource}`, {
      expect: { orErrno: EPERM },
    });
  }
}

export function emitActions(b: ProgramBuilder, process: Process): void {
  for (const { signal, handler, flags, restorer, mask } of process.actions) {
    if (signal === SIGKILL || signal === SIGSTOP) continue;
    b.sys(
      'rt_sigaction',
      [signal, b.words(handler, flags, restorer, mask), 0, 8],
      `action of signal ${signal}`,
    );
  }
}

/** The timer whose signal this is: it fires anew instead, so that the kernel goes on counting its overruns. */
export function firedTimer(process: Process, siginfo: Uint8Array): PosixTimer | undefined {
  const info = Buffer.from(siginfo);
  if (info.readInt32LE(8) !== SI_TIMER) return undefined;
  return process.posixTimers.find((timer) => timer.id === info.readInt32LE(16));
}

/** Signals that wait for the process as a whole; they stay blocked until it runs. */
export function emitPending(b: ProgramBuilder, process: Process): void {
  for (const { siginfo } of process.pending) {
    if (firedTimer(process, siginfo) !== undefined) continue;
    const signal = Buffer.from(siginfo).readInt32LE(0);
    b.sys(
      'rt_sigqueueinfo',
      [ownPid(process), signal, b.bytes(siginfo)],
      `pending signal ${signal}`,
    );
  }
}

/** Creates POSIX timers under their numbers, disarmed. PR_TIMER_CREATE_RESTORE_IDS (Linux 6.15) lets the caller choose;
 *  before it numbers were counted up for each process, so that making and deleting fillers reaches the same ones. */
export function emitTimers(b: ProgramBuilder, process: Process): void {
  if (process.posixTimers.length === 0) return;
  b.sys('prctl', [PR.timerCreateRestoreIds, 1, 0, 0, 0], 'choose timer numbers');
  for (const timer of process.posixTimers) {
    const event = Buffer.alloc(64);
    event.writeBigUInt64LE(timer.value, 0);
    event.writeInt32LE(timer.signal, 8);
    event.writeInt32LE(timer.notify, 12);
    event.writeInt32LE(timer.notifyTid, 16);
    const id = Buffer.alloc(8);
    id.writeInt32LE(timer.id);
    b.sys('timer_create', [timer.clock | 0, b.bytes(event), b.bytes(id)], `timer ${timer.id}`);
  }
  b.sys('prctl', [PR.timerCreateRestoreIds, 0, 0, 0, 0], 'timer numbers by the kernel again');
}

/** Arms interval and POSIX timers with the time that was left. */
export function emitArmTimers(b: ProgramBuilder, process: Process): void {
  const spec = (interval: bigint, value: bigint, unit: bigint) =>
    b.words(interval / unit, interval % unit, value / unit, value % unit);
  for (const { which, intervalUs, valueUs } of process.intervalTimers) {
    // Expired, its signal not taken yet: the kernel arms it with its interval when that is (dequeue_signal).
    const value = valueUs === 0n ? intervalUs : valueUs;
    if (value === 0n) continue;
    b.sys(
      'setitimer',
      [which, spec(intervalUs, value, 1_000_000n), 0],
      `arm interval timer ${which}`,
    );
  }
  const waiting = [...process.pending, ...process.threads.flatMap((thread) => thread.pending)];
  for (const timer of process.posixTimers) {
    const fired = waiting.some(({ siginfo }) => firedTimer(process, siginfo) === timer);
    const remaining = fired ? 1n : timer.remainingNs;
    if (remaining === 0n) continue;
    const value = spec(timer.intervalNs, remaining, 1_000_000_000n);
    b.sys('timer_settime', [timer.id, 0, value, 0], `arm timer ${timer.id}`);
  }
}

/** Descriptors at their final numbers; created descriptions still stand at theirs. */
export function emitDescriptors(b: ProgramBuilder, process: Process, ctx: CompileContext): void {
  for (const { fd, closeOnExec, fileId } of process.descriptors) {
    const flags = closeOnExec ? 0o2000000 : 0;
    b.sys('dup3', [ctx.fdOf(fileId), fd, flags], `descriptor ${fd}`);
  }
}

/** Stops the process by the signal that it was stopped by; the other ones than SIGSTOP only stop it at their default,
 *  unblocked. It goes on here when it is continued. */
export function emitStop(b: ProgramBuilder, process: Process): void {
  const signal = process.exitStatus === 0 ? SIGSTOP : process.exitStatus;
  const step = `stopped by signal ${signal} as before`;
  if (signal === SIGSTOP) {
    b.sys('kill', [ownPid(process), signal], step);
    return;
  }
  const action = process.actions.find((candidate) => candidate.signal === signal);
  b.sys('rt_sigaction', [signal, b.reserve(32), 0, 8], `${step}: default action`);
  const all = b.words(0xffffffffffffffffn);
  b.sys('rt_sigprocmask', [SIG_SETMASK, b.words(~(1n << BigInt(signal - 1))), 0, 8], step);
  b.sys('kill', [ownPid(process), signal], step);
  b.sys('rt_sigprocmask', [SIG_SETMASK, all, 0, 8], step);
  if (action === undefined) return;
  const { handler, flags, restorer, mask } = action;
  b.sys('rt_sigaction', [signal, b.words(handler, flags, restorer, mask), 0, 8], step);
}

/** No more writable code (PR_SET_MDWE): when all mappings have their protection. */
export function emitMemoryDeny(b: ProgramBuilder, process: Process): void {
  const flags = process.attributes?.memoryDeny ?? 0;
  if (flags !== 0) b.sys('prctl', [PR.setMdwe, flags, 0, 0, 0], 'deny writable code');
}
