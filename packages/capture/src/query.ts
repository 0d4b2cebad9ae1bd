import { FerryError } from '@ferry/core';
import {
  type Argument,
  type DataRef,
  frameLength,
  ProgramBuilder,
  type Slot,
  signalFrame,
  type ZeroRef,
} from '@ferry/dumpbin';
import type {
  AltStack,
  IntervalTimer,
  PosixTimer,
  SemaphoreAdjustment,
  SignalAction,
} from '@ferry/image';
import {
  type Mapping,
  parseMappings,
  type Registers,
  readProc,
  sys,
  TILE_DATA,
  tryReadProc,
  writeMemory,
} from '@ferry/linux';
import {
  CallPlace,
  InjectedProgram,
  remoteSyscall,
  restoreThread,
  type SavedThread,
} from './injection.js';
import { LandlockProbe } from './landlock.js';
import { imageRegisters } from './registers.js';
import { UNDO_PROBE_BYTES, undoAdjustments } from './semaphore-undo.js';
import type { Steps } from './steps.js';
import type { SemaphoreValues } from './sysv-ipc.js';

// prctl(2)
const PR = {
  getPdeathsig: 2,
  getDumpable: 3,
  getSecurebits: 27,
  getTimerSlack: 30,
  getChildSubreaper: 37,
  getTidAddress: 40,
  getThpDisable: 42,
  getTsc: 25,
  getMceKill: 34,
  getIoFlusher: 58,
  getMdwe: 66,
  getMemoryMerge: 68,
  getSpeculation: 52,
} as const;
/** All signals but SIGKILL and SIGSTOP. */
const SIGNALS = Array.from({ length: 64 }, (_, i) => i + 1).filter((s) => s !== 9 && s !== 19);
const MCL_FUTURE = 2;
const MCL_ONFAULT = 4;
const MEMBARRIER_GET_REGISTRATIONS = 1 << 9;
/** Documentation/arch/x86/xstate.rst */
const ARCH_GET_XCOMP_PERM = 0x1022;
/** Store bypass, indirect branches, flush of the L1 data cache (PR_SPEC_*). */
const SPECULATION = [0, 1, 2];
const THREAD_BLOCK = 88;
const PROCESS_BLOCK = 96;
// struct rt_sigframe: return address, uc_flags, uc_link, uc_stack
const FRAME_ALTSTACK = 24;
const STACK = 4096;
/** struct sembuf */
const SEMBUF_BYTES = 6;
const THREAD_SLOTS = 9 + SPECULATION.length;
/** Threads in one look at whether they are done. */
const LOOKED_AT_ONCE = 64;
/** Bytes of a thread's slots. */
const SLOTS = 128;
const QUERY_TIMEOUT_MS = 5000;

/** What only the process itself can tell. */
export interface ProcessAnswers {
  readonly actions: SignalAction[];
  readonly intervalTimers: IntervalTimer[];
  readonly posixTimers: PosixTimer[];
  readonly brk: bigint;
  /** mlockall(2) flags for future mappings, read off the mapping that the queries ran in. */
  readonly mlockFuture: number;
  readonly dumpable: number;
  readonly childSubreaper: boolean;
  readonly thpDisabled: boolean;
  readonly thpFlags: number;
  readonly membarrierRegistrations: number;
  /** It may use AMX tiles, for which it has asked. */
  readonly mayUseTiles: boolean;
  /** Whether it has a local descriptor table of its own (modify_ldt(2)). */
  readonly hasLdt: boolean;
  readonly machineCheckPolicy: number;
  readonly tscMode: number;
  readonly memoryDeny: number;
  readonly memoryMerge: boolean;
  readonly ioFlusher: boolean;
  readonly semaphoreAdjustments: SemaphoreAdjustment[];
  readonly landlockLayers: number;
  /** In the order of the threads asked. */
  readonly threads: ThreadAnswers[];
}

export interface ThreadAnswers {
  readonly altstack: AltStack;
  readonly tidAddress: bigint;
  readonly parentDeathSignal: number;
  readonly securebits: number;
  readonly timerSlackNs: bigint;
  readonly personality: number;
  /** PR_GET_SPECULATION_CTRL of each misfeature; 0 where the kernel does not know it. */
  readonly speculation: number[];
}

export interface QueryInput {
  readonly hostPid: number;
  /** The leader first. */
  readonly saved: readonly SavedThread[];
  /** Of each thread: what it goes on with when nobody puts its own registers back. */
  readonly registers: readonly Registers[];
  readonly xstates: readonly Buffer[];
  readonly mappings: readonly Mapping[];
  /** It has what only privilege or no_new_privs (which stays) allows. */
  readonly mayBeLandlocked: boolean;
  /** Those that it may have used with SEM_UNDO. */
  readonly semaphores: readonly SemaphoreValues[];
  /** To be carried out before the process runs on, and not at all where it never does: each takes two turns of the process
   *  on a processor, which others may want too. */
  readonly leftovers: (() => Steps<void>)[];
}

/** Runs one batch of queries inside a stopped process, in room that one system call maps. That it is taken away again is
 *  put among `input.leftovers`. */
export function* queryProcess(input: QueryInput): Steps<ProcessAnswers> {
  const { hostPid, saved } = input;
  const leader = saved[0]!;
  const plan = new QueryPlan(input);
  const injected = yield* calling(input, (calls) =>
    InjectedProgram.map({ hostPid, leader, calls }, plan.program),
  );
  input.leftovers.push(() => calling(input, (calls) => injected.unmap(calls)));
  const answers = yield* plan.run(injected);
  if (input.semaphores.length === 0) return answers;
  const semaphoreAdjustments = yield* calling(input, (calls) =>
    undoAdjustments(hostPid, input.semaphores, function* (id, operations) {
      const address = injected.address(plan.room);
      writeMemory(hostPid, address, operations);
      const count = operations.length / SEMBUF_BYTES;
      const result = yield* remoteSyscall(leader, calls, 'semop', [id, address, count]);
      restoreThread(leader);
      return Number(result);
    }),
  );
  return { ...answers, semaphoreAdjustments };
}

/** With a place for system calls of the first thread, whose stack is as before afterwards. */
function* calling<T>(
  { hostPid, saved, mappings }: QueryInput,
  body: (calls: CallPlace) => Steps<T>,
): Steps<T> {
  const calls = CallPlace.prepare(hostPid, saved[0]!, mappings);
  try {
    return yield* body(calls);
  } finally {
    calls.leave();
  }
}

/** The program of queries: operations that every thread runs, each with slots of its own that say where its answers go;
 *  the leader first asks for the process. */
class QueryPlan {
  readonly program = new ProgramBuilder();
  readonly #input: QueryInput;
  readonly #timerIds: PosixTimer[];
  readonly #actions: DataRef;
  readonly #itimers: DataRef;
  readonly #timers: DataRef;
  readonly #process: DataRef;
  /** THREAD_BLOCK bytes of each thread, then a word of each that becomes 1 when it is done. */
  readonly #answers: DataRef;
  readonly #done: DataRef;
  readonly #slots: DataRef;
  readonly #frames: DataRef;
  readonly #frameLength: number;
  readonly #stacks: ZeroRef;
  readonly #threadEntry: number;
  readonly #resultSlot = this.program.slot();
  /** As `#slotsOf` fills them. */
  readonly #threadSlots = Array.from({ length: THREAD_SLOTS }, () => this.program.slot());
  readonly #landlock: LandlockProbe | undefined;
  /** So many of the first ones. */
  #doneThreads = 0;
  /** For the operations of `undoAdjustments`. */
  readonly room: DataRef;

  constructor(input: QueryInput) {
    this.#input = input;
    const b = this.program;
    const count = input.saved.length;
    this.#timerIds = posixTimersOf(input.hostPid);
    this.#actions = b.reserve(SIGNALS.length * 32);
    this.#itimers = b.reserve(3 * 32);
    this.#timers = b.reserve(this.#timerIds.length * 48);
    this.#process = b.reserve(PROCESS_BLOCK);
    this.#answers = b.reserve(count * THREAD_BLOCK);
    this.#done = b.reserve(count * 8);
    this.#slots = b.reserve(count * SLOTS);
    this.#frameLength = Math.ceil(Math.max(...input.xstates.map(frameLength)) / 64) * 64;
    this.#frames = b.reserve(count * this.#frameLength, 64);
    this.#stacks = b.zeroed(count * STACK, 16);
    this.room = b.reserve(input.semaphores.length > 0 ? UNDO_PROBE_BYTES : 0);
    this.#landlock = input.mayBeLandlocked ? new LandlockProbe(b) : undefined;
    this.#emitProcess();
    this.#landlock?.emit(b);
    this.#threadEntry = b.operationCount;
    this.#emitThread();
  }

  /** What each slot of a thread holds, in the order of `#slotsOf`. */
  #emitThread(): void {
    const b = this.program;
    const any = { expect: 'any' } as const;
    const [altstack, frameAltstack, tidAddress, deathSignal, ...more] = this.#threadSlots;
    const [securebits, timerSlack, personality, done, frame, ...speculation] = more;
    const timeout = b.words(2, 0);
    b.sys('sigaltstack', [0, altstack!], 'sigaltstack', any);
    // Into the frame as well, so that returning on its own keeps the alternate stack too.
    b.sys('sigaltstack', [0, frameAltstack!], 'sigaltstack', any);
    b.sys('prctl', [PR.getTidAddress, tidAddress!], 'tid address', any);
    b.sys('prctl', [PR.getPdeathsig, deathSignal!], 'parent death signal', any);
    this.#ask('prctl', [PR.getSecurebits], securebits!);
    this.#ask('prctl', [PR.getTimerSlack], timerSlack!);
    this.#ask('personality', [0xffffffff], personality!);
    for (const which of SPECULATION) {
      this.#ask('prctl', [PR.getSpeculation, which, 0, 0, 0], speculation[which]!);
    }
    b.op('store', [done!, 1, 8], 'done');
    // Not a futex or poll: interrupted, those overwrite the restart block of the call that the freeze interrupted.
    b.sys('ppoll', [0, 0, timeout, 0, 8], 'wait for the tracer', any);
    b.op('return', [frame!], 'return on its own');
  }

  /** The slots of thread `i`: the first is for results. */
  #slotsOf(i: number, injected: InjectedProgram): Buffer {
    const answers = injected.address(this.#answers.plus(i * THREAD_BLOCK));
    const frame = injected.address(this.#frames.plus(i * this.#frameLength));
    const words = [
      0n,
      answers,
      frame + BigInt(FRAME_ALTSTACK),
      ...[24n, 32n, 40n, 48n, 56n].map((at) => answers + at),
      injected.address(this.#done.plus(i * 8)),
      frame,
      ...SPECULATION.map((which) => answers + 64n + BigInt(which * 8)),
    ];
    const out = Buffer.alloc(SLOTS);
    for (const [slot, word] of words.entries()) out.writeBigUInt64LE(word, slot * 8);
    return out;
  }

  /** A system call whose result is the answer. */
  #ask(
    name: 'prctl' | 'personality' | 'brk' | 'timer_getoverrun' | 'membarrier' | 'modify_ldt',
    args: Argument[],
    into: DataRef | Slot,
  ): void {
    this.program.sys(name, args, name, { expect: 'any', into: this.#resultSlot });
    this.program.op('store', [into, this.#resultSlot, 8], name);
  }

  #emitProcess(): void {
    const b = this.program;
    const any = { expect: 'any' } as const;
    SIGNALS.forEach((signal, i) => {
      b.sys('rt_sigaction', [signal, 0, this.#actions.plus(i * 32), 8], 'signal action', any);
    });
    for (const which of [0, 1, 2]) {
      b.sys('getitimer', [which, this.#itimers.plus(which * 32)], 'interval timer', any);
    }
    this.#timerIds.forEach((timer, i) => {
      b.sys('timer_gettime', [timer.id, this.#timers.plus(i * 48)], 'timer', any);
      this.#ask('timer_getoverrun', [timer.id], this.#timers.plus(i * 48 + 32));
    });
    this.#ask('brk', [0], this.#process);
    this.#ask('prctl', [PR.getDumpable], this.#process.plus(8));
    b.sys('prctl', [PR.getChildSubreaper, this.#process.plus(16)], 'child subreaper', any);
    this.#ask('prctl', [PR.getThpDisable, 0, 0, 0, 0], this.#process.plus(24));
    this.#ask('prctl', [PR.getMceKill, 0, 0, 0, 0], this.#process.plus(32));
    b.sys('prctl', [PR.getTsc, this.#process.plus(40)], 'TSC', any);
    this.#ask('prctl', [PR.getMdwe, 0, 0, 0, 0], this.#process.plus(48));
    this.#ask('prctl', [PR.getMemoryMerge, 0, 0, 0, 0], this.#process.plus(56));
    this.#ask('prctl', [PR.getIoFlusher, 0, 0, 0, 0], this.#process.plus(64));
    this.#ask('membarrier', [MEMBARRIER_GET_REGISTRATIONS, 0, 0], this.#process.plus(72));
    this.#ask('modify_ldt', [0, b.reserve(8), 8], this.#process.plus(80));
    b.sys('arch_prctl', [ARCH_GET_XCOMP_PERM, this.#process.plus(88)], 'permissions', any);
  }

  *run(injected: InjectedProgram): Steps<ProcessAnswers> {
    const { saved, registers, xstates, hostPid } = this.#input;
    for (const [i, thread] of saved.entries()) {
      const frameAt = this.#frames.plus(i * this.#frameLength);
      const state = {
        registers: imageRegisters(registers[i]!),
        xstate: xstates[i]!,
        signalMask: thread.signalMask,
        altstack: undefined,
      };
      injected.patch(frameAt, signalFrame(state, injected.address(frameAt), 0n));
      injected.patch(this.#slots.plus(i * SLOTS), this.#slotsOf(i, injected));
    }
    injected.store();
    const probe = this.#landlock;
    const [leader] = saved;
    if (probe !== undefined) leader?.traced.followClones(true);
    for (const [i, thread] of saved.entries()) {
      injected.start(
        thread,
        i === 0 ? 0 : this.#threadEntry,
        injected.address(this.#stacks.plus((i + 1) * STACK)),
        injected.address(this.#slots.plus(i * SLOTS)),
      );
    }
    yield;
    const deadline = performance.now() + QUERY_TIMEOUT_MS;
    for (let looks = 0; !this.#allDone(injected); looks++) {
      if (leader !== undefined) probe?.take(leader.traced, injected, hostPid);
      if (performance.now() > deadline) {
        throw new FerryError('capture.query', `Process ${hostPid} did not answer its queries`);
      }
      // The process may need the very processor that this runs on.
      if (looks > 20) sys('sched_yield');
      yield;
    }
    const layers = probe === undefined ? 0 : yield* probe.layers(injected);
    yield* injected.stop(saved);
    return { ...this.#answersFrom(injected), landlockLayers: layers };
  }

  /** Those that are known to be done are not looked at again. */
  #allDone(injected: InjectedProgram): boolean {
    const count = this.#input.saved.length;
    while (this.#doneThreads < count) {
      const left = Math.min(count - this.#doneThreads, LOOKED_AT_ONCE);
      const words = injected.read(this.#done.plus(this.#doneThreads * 8), left * 8);
      let i = 0;
      while (i < left && words[i * 8] === 1) i++;
      this.#doneThreads += i;
      if (i < left) return false;
    }
    return true;
  }

  #mlockFuture(injected: InjectedProgram): number {
    const { mappings, hostPid } = this.#input;
    if (!mappings.some((mapping) => mapping.flags.includes('lo'))) return 0;
    const address = injected.address(this.#process);
    const own = parseMappings(readProc(`/proc/${hostPid}/smaps`)).find(
      (mapping) => mapping.start <= address && address < mapping.end,
    );
    if (!own?.flags.includes('lo')) return 0;
    return own.flags.includes('lf') ? MCL_FUTURE | MCL_ONFAULT : MCL_FUTURE;
  }

  #answersFrom(injected: InjectedProgram): Omit<ProcessAnswers, 'landlockLayers'> {
    const start = this.#actions.offset;
    const all = injected.read(this.#actions, this.#done.offset - start);
    const from = (reference: DataRef): Buffer => all.subarray(reference.offset - start);
    const actions = from(this.#actions);
    const itimers = from(this.#itimers);
    const timers = from(this.#timers);
    const process = from(this.#process);
    const answers = from(this.#answers);
    return {
      actions: SIGNALS.map((signal, i) =>
        decodeAction(signal, actions.subarray(i * 32, i * 32 + 32)),
      ).filter(isChanged),
      intervalTimers: [0, 1, 2].map((which) => decodeItimer(which, itimers.subarray(which * 32))),
      posixTimers: this.#timerIds.map((timer, i) => ({
        ...timer,
        intervalNs: timespec(timers, i * 48),
        remainingNs: timespec(timers, i * 48 + 16),
        overrun: Math.max(0, timers.readInt32LE(i * 48 + 32)),
      })),
      brk: process.readBigUInt64LE(0),
      mlockFuture: this.#mlockFuture(injected),
      dumpable: process.readUInt32LE(8),
      childSubreaper: process.readUInt32LE(16) !== 0,
      thpDisabled: process.readBigInt64LE(24) > 0n,
      thpFlags: Math.max(0, Number(process.readBigInt64LE(24))) & ~1,
      membarrierRegistrations: Math.max(0, Number(process.readBigInt64LE(72))),
      hasLdt: process.readBigInt64LE(80) > 0n,
      mayUseTiles: ((process.readBigUInt64LE(88) >> BigInt(TILE_DATA)) & 1n) === 1n,
      machineCheckPolicy: Number(process.readBigInt64LE(32)),
      tscMode: process.readUInt32LE(40),
      memoryDeny: Math.max(0, Number(process.readBigInt64LE(48))),
      memoryMerge: process.readBigInt64LE(56) > 0n,
      ioFlusher: process.readBigInt64LE(64) > 0n,
      semaphoreAdjustments: [],
      threads: this.#input.saved.map((_, i) => decodeThread(answers.subarray(i * THREAD_BLOCK))),
    };
  }
}

function timespec(bytes: Buffer, at: number): bigint {
  return bytes.readBigInt64LE(at) * 1_000_000_000n + bytes.readBigInt64LE(at + 8);
}

/** Is an action anything but a fresh process's? A default action can still carry flags and a mask. */
function isChanged(action: SignalAction): boolean {
  return (action.handler | action.flags | action.restorer | action.mask) !== 0n;
}

/** struct kernel_sigaction: handler, flags, restorer, mask. */
function decodeAction(signal: number, bytes: Buffer): SignalAction {
  return {
    signal,
    handler: bytes.readBigUInt64LE(0),
    flags: bytes.readBigUInt64LE(8),
    restorer: bytes.readBigUInt64LE(16),
    mask: bytes.readBigUInt64LE(24),
  };
}

function decodeItimer(which: number, bytes: Buffer): IntervalTimer {
  const microseconds = (at: number): bigint =>
    bytes.readBigInt64LE(at) * 1_000_000n + bytes.readBigInt64LE(at + 8);
  return { which, intervalUs: microseconds(0), valueUs: microseconds(16) };
}

/** One thread's answers; the first 24 bytes are a stack_t. */
function decodeThread(bytes: Buffer): ThreadAnswers {
  return {
    altstack: {
      address: bytes.readBigUInt64LE(0),
      flags: bytes.readUInt32LE(8),
      size: bytes.readBigUInt64LE(16),
    },
    tidAddress: bytes.readBigUInt64LE(24),
    parentDeathSignal: bytes.readUInt32LE(32),
    securebits: Number(bytes.readBigInt64LE(40)),
    timerSlackNs: bytes.readBigUInt64LE(48),
    personality: Number(bytes.readBigUInt64LE(56) & 0xffffffffn),
    speculation: SPECULATION.map((which) =>
      Math.max(0, Number(bytes.readBigInt64LE(64 + which * 8))),
    ),
  };
}

/** Timers of /proc/PID/timers (proc_pid_timers(5)), without their times. */
export function posixTimersOf(hostPid: number): PosixTimer[] {
  const text = tryReadProc(`/proc/${hostPid}/timers`) ?? '';
  const timers: PosixTimer[] = [];
  const pattern =
    /ID: (-?\d+)\nsignal: (\d+)\/([0-9a-f]+)\nnotify: (\w+)\/(pid|tid)\.(-?\d+)\nClockID: (-?\d+)/g;
  const notifyNumber: Record<string, number> = { signal: 0, none: 1, thread: 2 };
  for (const [, id, signal, value, how, kind, target, clock] of text.matchAll(pattern)) {
    timers.push({
      id: Number(id),
      signal: Number(signal),
      value: BigInt(`0x${value}`),
      notify: kind === 'tid' ? 4 : (notifyNumber[how!] ?? 0),
      notifyTid: kind === 'tid' ? Number(target) : 0,
      clock: Number(clock) >>> 0,
      intervalNs: 0n,
      remainingNs: 0n,
      overrun: 0,
    });
  }
  return timers;
}
