import type { Process, Thread } from '@ferry/image';
import {
  emitAfterIdentity,
  emitCapabilities,
  emitIdentity,
  emitIdentityInside,
} from './credential-steps.js';
import { emitProfile } from './label-steps.js';
import { ownPid, ownTid } from './pid-numbers.js';
import { firedTimer } from './process-steps.js';
import type { DataRef, ProgramBuilder } from './program.js';
import { FRAME_FPSTATE, FRAME_XSTATE, frameLength, signalFrame } from './sigframe.js';

const PR = { setName: 15, setTimerSlack: 29, setSeccomp: 22, setSpeculation: 53 } as const;
/** PR_SPEC_* of prctl(2). */
const SPEC = { prctl: 1, disable: 4, forceDisable: 8, disableNoExec: 16 } as const;
const L1D_FLUSH = 2;
const SPEC_ENABLE = 2;
const ARCH = { setGs: 0x1001, setFs: 0x1002 } as const;
const DEFAULT_TIMER_SLACK = 50_000n;
const SECCOMP_SET_MODE_FILTER = 1;
const RED_ZONE = 128n;
const SYS_KILL = 62n;
const SIGSTOP = 19;
const SS_DISABLE = 2;

/** A thread's own attributes, while every privilege is there.
 *  @param entered  in a user namespace of its own, before which some were set (emitEnterUser) */
export function emitThreadAttributes(
  b: ProgramBuilder,
  process: Process,
  thread: Thread,
  { entered }: { entered: boolean },
): void {
  const who = `thread ${thread.tid}`;
  b.sys('prctl', [PR.setName, b.cstr(thread.comm)], `${who}: name`);
  b.sys('set_tid_address', [thread.tidAddress], `${who}: tid address`);
  if (thread.robustList !== 0n) {
    b.sys('set_robust_list', [thread.robustList, thread.robustListLength], `${who}: robust list`);
  }
  if (thread.timerSlackNs !== DEFAULT_TIMER_SLACK && thread.timerSlackNs !== 0n) {
    b.sys('prctl', [PR.setTimerSlack, thread.timerSlackNs], `${who}: timer slack`);
  }
  if (thread.personality !== 0) b.sys('personality', [thread.personality], `${who}: personality`);
  emitSpeculation(b, thread, who);
  if (!entered) emitScheduling(b, thread, who);
  for (const { siginfo } of thread.pending) {
    if (firedTimer(process, siginfo) !== undefined) continue;
    const signal = Buffer.from(siginfo).readInt32LE(0);
    b.sys(
      'rt_tgsigqueueinfo',
      [ownPid(process), ownTid(thread), signal, b.bytes(siginfo)],
      `${who}: pending signal ${signal}`,
    );
  }
  b.sys('arch_prctl', [ARCH.setFs, thread.registers!.fsBase], `${who}: fs base`);
  b.sys('arch_prctl', [ARCH.setGs, thread.registers!.gsBase], `${who}: gs base`);
  if (thread.rseq !== undefined) {
    const { address, length, signature } = thread.rseq;
    b.sys('rseq', [address, length, 0, signature], `${who}: rseq`);
  }
  if (entered) emitIdentityInside(b, thread.credentials!, who);
  else emitIdentity(b, thread.credentials!, who);
  emitAfterIdentity(
    b,
    { dumpable: process.attributes?.dumpable ?? 1, parentDeathSignal: thread.parentDeathSignal },
    who,
  );
}

/** Speculation that the thread has turned off for itself. What a host does for every thread it says without PR_SPEC_PRCTL;
 *  one that leaves no choice protects, or has nothing to protect from. */
function emitSpeculation(b: ProgramBuilder, thread: Thread, who: string): void {
  for (const [which, state] of thread.speculation.entries()) {
    if (!(state & SPEC.prctl)) continue;
    const chosen = state & (SPEC.disable | SPEC.forceDisable | SPEC.disableNoExec);
    // The flush of the L1 data cache is off by default, what the others say is on.
    const value = which === L1D_FLUSH ? state & SPEC_ENABLE : chosen;
    if (value === 0) continue;
    b.sys('prctl', [PR.setSpeculation, which, value, 0, 0], `${who}: speculation`, {
      expect: 'any',
    });
  }
}

export function emitScheduling(b: ProgramBuilder, thread: Thread, who: string): void {
  if (thread.ioPriority >> 13 !== 0) {
    b.sys('ioprio_set', [1, 0, thread.ioPriority], `${who}: I/O priority`);
  }
  const s = thread.scheduling;
  if (s === undefined) return;
  // Another host may have other CPUs: an affinity that it cannot give is not worth failing for.
  b.sys('sched_setaffinity', [0, s.affinity.length, b.bytes(s.affinity)], `${who}: affinity`, {
    expect: 'any',
  });
  if (s.policy === 0 && s.nice === 0 && s.flags === 0n) return;
  const attributes = Buffer.alloc(48);
  attributes.writeUInt32LE(48, 0);
  attributes.writeUInt32LE(s.policy, 4);
  attributes.writeBigUInt64LE(s.flags, 8);
  attributes.writeInt32LE(s.nice, 16);
  attributes.writeUInt32LE(s.priority, 20);
  if (s.policy === 6) {
    attributes.writeBigUInt64LE(s.runtimeNs, 24);
    attributes.writeBigUInt64LE(s.deadlineNs, 32);
    attributes.writeBigUInt64LE(s.periodNs, 40);
  }
  b.sys('sched_setattr', [0, b.bytes(attributes), 0], `${who}: scheduling`);
}

/** What can be seen of a first thread that has ended while others run on; it ends with its status. */
export function emitEndedAttributes(
  b: ProgramBuilder,
  process: Process,
  thread: Thread,
  { entered }: { entered: boolean },
): void {
  const who = `thread ${thread.tid}`;
  b.sys('prctl', [PR.setName, b.cstr(thread.comm)], `${who}: name`);
  if (entered) emitIdentityInside(b, thread.credentials!, who);
  else emitIdentity(b, thread.credentials!, who);
  const dumpable = process.attributes?.dumpable ?? 1;
  emitAfterIdentity(b, { dumpable, parentDeathSignal: 0 }, who);
}

/** Where a thread's signal frame stands in its own memory; undefined when there is no fit place. */
export interface FramePlace {
  readonly address: bigint;
  readonly length: number;
}

/** Below the red zone of the stack, or on the alternate stack where the thread has one that is not in use: where the
 *  kernel itself would put it. Programs with tiny stacks (Go) have alternate stacks. */
export function placeFrame(process: Process, thread: Thread): FramePlace | undefined {
  if (thread.exited) return undefined;
  const length = frameLength(thread.xstate);
  const sp = thread.registers!.rsp;
  const alt = thread.altstack;
  const hasAlt = alt !== undefined && !(alt.flags & SS_DISABLE) && alt.size > 0n;
  const onAlt = hasAlt && sp > alt.address && sp <= alt.address + alt.size;
  const tops = [sp - RED_ZONE];
  if (hasAlt && !onAlt && alt.size > BigInt(length) + 256n) tops.unshift(alt.address + alt.size);
  for (const top of tops) {
    const address = ((top - BigInt(length)) / 64n) * 64n;
    const end = address + BigInt(length);
    const vma = process.mm!.vmas.find(
      (candidate) => candidate.start <= address && end <= candidate.end,
    );
    if (vma !== undefined && (vma.prot & 2) !== 0) return { address, length };
  }
  return undefined;
}

/** Copies the thread's signal frame to its place; returns nothing to undo: the kernel may overwrite that memory with a
 *  frame of its own at any time. */
export function emitFrame(
  b: ProgramBuilder,
  process: Process,
  thread: Thread,
  place: FramePlace,
): void {
  const frame = frameOf(process, thread, place.address);
  const local = b.reserve(16);
  const remote = b.words(place.address, frame.length);
  const step = `thread ${thread.tid}: signal frame`;
  b.storeAddress(b.bytes(frame, 64), local, step);
  b.op('store', [local.plus(8), frame.length, 8], step);
  b.sys('process_vm_writev', [ownPid(process), local, 1, remote, 1, 0], step, {
    expect: { value: frame.length },
  });
}

/** The thread that does what is the process's when it goes: the first that runs on. */
export function mainThread({ threads }: Process): Thread {
  return threads[0]!.exited ? threads[1]! : threads[0]!;
}

/** Where a stopped process gets the frame that stops it once it has left the region: below the one with its own
 *  registers. undefined when there is no place, or when it could not make the call (seccomp) or would not stop. */
export function placeStopFrame(process: Process, place: FramePlace): FramePlace | undefined {
  const thread = mainThread(process);
  const signal = stopSignal(process);
  const isHandled = process.actions.some((action) => action.signal === signal);
  if (process.state !== 'stopped' || thread.seccompMode !== 0 || isHandled) return undefined;
  const address = ((place.address - BigInt(place.length)) / 64n) * 64n;
  const isThere = process.mm!.vmas.some(
    (vma) => vma.start <= address && place.address < vma.end && (vma.prot & 2) !== 0,
  );
  return isThere ? { address, length: place.length } : undefined;
}

/** rt_sigreturn(2) makes of it a kill(2) of the process itself, by a `syscall; ret` of its own; when the process is
 *  continued, that returns through the trampoline with which the other frame begins, into the saved registers. */
export function emitStopFrame(
  b: ProgramBuilder,
  process: Process,
  frame: FramePlace,
  next: FramePlace,
): void {
  const thread = mainThread(process);
  const signal = stopSignal(process);
  const registers = {
    ...thread.registers!,
    rax: SYS_KILL,
    rdi: BigInt(ownPid(process)),
    rsi: BigInt(signal),
    rip: process.mm!.syscallReturnAddress,
    rsp: next.address,
    eflags: 0x202n,
  };
  // A signal that waits is delivered after the stop, as it would have been.
  const waits = process.pending.length + thread.pending.length > 0;
  const blocked = waits ? 0xffffffffffffffffn : thread.signalMask;
  const signalMask = blocked & ~(1n << BigInt(signal - 1));
  emitFrame(b, process, { ...thread, registers, signalMask }, frame);
}

function stopSignal({ exitStatus }: Process): number {
  return exitStatus === 0 ? SIGSTOP : exitStatus;
}

/** A frame in the region itself, for threads that cannot leave it. Its address is settled when the program is linked,
 *  so the pointer to the FP state is stored by a step. */
export function emitLocalFrame(b: ProgramBuilder, process: Process, thread: Thread): DataRef {
  const at = b.bytes(frameOf(process, thread, 0n), 64);
  b.storeAddress(
    at.plus(FRAME_XSTATE),
    at.plus(FRAME_FPSTATE),
    `thread ${thread.tid}: signal frame`,
  );
  return at;
}

function frameOf(process: Process, thread: Thread, address: bigint): Buffer {
  const { registers, xstate, signalMask, altstack } = thread;
  return signalFrame(
    { registers: registers!, xstate, signalMask, altstack },
    address,
    process.mm!.sigreturnAddress,
  );
}

/** Seccomp filters, oldest first, the final capabilities, and the AppArmor profile, which may deny what those take.
 *  Without no_new_privs a filter needs CAP_SYS_ADMIN. */
export function emitLastPrivileges(b: ProgramBuilder, thread: Thread): void {
  const who = `thread ${thread.tid}`;
  const early = thread.credentials!.noNewPrivs;
  if (early) {
    emitCapabilities(b, thread.credentials!, who);
    emitProfile(b, thread);
  }
  for (const filter of thread.seccompFilters) {
    const program = b.reserve(16);
    const step = `${who}: seccomp filter`;
    b.op('store', [program, filter.instructions.length / 8, 8], step);
    b.storeAddress(b.bytes(filter.instructions), program.plus(8), step);
    const flags = filter.flags & ~1n; // SECCOMP_FILTER_FLAG_TSYNC: every thread installs its own
    b.sys('seccomp', [SECCOMP_SET_MODE_FILTER, flags, program], step);
  }
  if (!early) {
    emitCapabilities(b, thread.credentials!, who);
    emitProfile(b, thread);
  }
  if (thread.seccompMode === 1) b.sys('prctl', [PR.setSeccomp, 1], `${who}: strict seccomp`);
}
