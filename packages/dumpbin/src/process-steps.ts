import type { PosixTimer, Process } from '@ferry/image';
import type { CompileContext } from './compile-context.js';
import type { ProgramBuilder } from './program.js';

const SIG_MAX = 64;
const SIGKILL = 9;
const SIGSTOP = 19;
const EPERM = 1;
const SI_TIMER = -2;
const PR = { setChildSubreaper: 36, setThpDisable: 41, timerCreateRestoreIds: 77 } as const;
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
export function emitProcessAttributes(b: ProgramBuilder, process: Process): void {
  const { fs, attributes } = process;
  if (fs !== undefined) {
    b.sys('chdir', [b.cstr(fs.cwd)], `working directory ${fs.cwd}`);
    if (fs.root !== '/') b.sys('chroot', [b.cstr(fs.root)], `root directory ${fs.root}`);
    b.sys('umask', [fs.umask], 'umask', { expect: 'any' });
  }
  if (attributes?.childSubreaper) b.sys('prctl', [PR.setChildSubreaper, 1], 'child subreaper');
  if (attributes?.thpDisabled) b.sys('prctl', [PR.setThpDisable, 1, 0, 0, 0], 'THP disabled');
  emitProcFile(b, 'oom_score_adj', attributes?.oomScoreAdj ?? 0, 0);
  emitProcFile(
    b,
    'coredump_filter',
    attributes?.coredumpFilter ?? DEFAULT_COREDUMP_FILTER,
    DEFAULT_COREDUMP_FILTER,
  );
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
export function emitLimits(b: ProgramBuilder, process: Process): void {
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
    b.sys('rt_sigqueueinfo', [process.pid, signal, b.bytes(siginfo)], `pending signal ${signal}`);
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
