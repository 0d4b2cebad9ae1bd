import { FerryError } from '@ferry/core';
import {
  type DataRef,
  frameLength,
  type Label,
  ProgramBuilder,
  signalFrame,
  type ZeroRef,
} from '@ferry/dumpbin';
import type { AltStack, IntervalTimer, PosixTimer, SignalAction } from '@ferry/image';
import { type Mapping, parseMappings, readProc, tryReadProc } from '@ferry/linux';
import type { FrozenProcess } from './frozen-tree.js';
import { findSyscallInstruction, InjectedProgram, type SavedThread } from './injection.js';
import { imageRegisters } from './registers.js';
import { restartedRegisters } from './restart.js';

// prctl(2)
const PR = {
  getPdeathsig: 2,
  getDumpable: 3,
  getSecurebits: 27,
  getTimerSlack: 30,
  getChildSubreaper: 37,
  getTidAddress: 40,
  getThpDisable: 42,
} as const;
/** All signals but SIGKILL and SIGSTOP. */
const SIGNALS = Array.from({ length: 64 }, (_, i) => i + 1).filter((s) => s !== 9 && s !== 19);
const MCL_FUTURE = 2;
const MCL_ONFAULT = 4;
const THREAD_BLOCK = 64;
// struct rt_sigframe: return address, uc_flags, uc_link, uc_stack
const FRAME_ALTSTACK = 24;
const STACK = 4096;
const SLOTS = 512;
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
}

export interface QueryInput {
  readonly process: FrozenProcess;
  readonly saved: readonly SavedThread[];
  readonly mappings: readonly Mapping[];
  readonly xstates: readonly Buffer[];
}

/** Runs one batch of queries inside a stopped process: one system call to map it in, one to take it away again. */
export function queryProcess(input: QueryInput): ProcessAnswers {
  const leader = input.saved[0]!;
  const instruction = findSyscallInstruction(input.process.hostPid, input.mappings);
  const plan = new QueryPlan(input);
  using injected = new InjectedProgram(input.process.hostPid, leader, instruction, plan.program);
  injected.load();
  plan.run(injected);
  return plan.answers(injected);
}

interface ThreadPlan {
  readonly entry: Label;
  readonly index: number;
  readonly answers: DataRef;
  readonly done: DataRef;
  readonly frame: DataRef;
  readonly stack: ZeroRef;
  readonly slots: ZeroRef;
}

class QueryPlan {
  readonly program = new ProgramBuilder();
  readonly #input: QueryInput;
  readonly #actions: DataRef;
  readonly #itimers: DataRef;
  readonly #timerIds: PosixTimer[];
  readonly #timers: DataRef;
  readonly #process: DataRef;
  readonly #threads: ThreadPlan[];

  constructor(input: QueryInput) {
    this.#input = input;
    const b = this.program;
    this.#timerIds = posixTimersOf(input.process.hostPid);
    this.#actions = b.reserve(SIGNALS.length * 32);
    this.#itimers = b.reserve(3 * 32);
    this.#timers = b.reserve(this.#timerIds.length * 48);
    this.#process = b.reserve(64);
    const timeout = b.words(2, 0);
    this.#threads = input.saved.map((_, i) => this.#emitThread(i, timeout));
  }

  #emitThread(i: number, timeout: DataRef): ThreadPlan {
    const b = this.program;
    const plan: ThreadPlan = {
      entry: b.label(),
      index: b.operationCount,
      answers: b.reserve(THREAD_BLOCK),
      done: b.reserve(8),
      frame: b.reserve(frameLength(this.#input.xstates[i]!), 64),
      stack: b.zeroed(STACK, 16),
      slots: b.zeroed(SLOTS, 16),
    };
    b.place(plan.entry);
    if (i === 0) this.#emitProcess();
    const any = { expect: 'any' } as const;
    // Straight into the frame, so that returning on its own keeps the alternate stack too.
    b.sys('sigaltstack', [0, plan.frame.plus(FRAME_ALTSTACK)], 'sigaltstack', any);
    b.sys('prctl', [PR.getTidAddress, plan.answers.plus(24)], 'tid address', any);
    b.sys('prctl', [PR.getPdeathsig, plan.answers.plus(32)], 'parent death signal', any);
    this.#ask('prctl', [PR.getSecurebits], plan.answers.plus(40));
    this.#ask('prctl', [PR.getTimerSlack], plan.answers.plus(48));
    this.#ask('personality', [0xffffffff], plan.answers.plus(56));
    b.op('store', [plan.done, 1, 8], 'done');
    // Not a futex or poll: interrupted, those overwrite the restart block of the call that the freeze interrupted.
    b.sys('ppoll', [0, 0, timeout, 0, 8], 'wait for the tracer', any);
    b.op('return', [plan.frame], 'return on its own');
    return plan;
  }

  #resultSlot = this.program.slot();

  /** A system call whose result is the answer. */
  #ask(
    name: 'prctl' | 'personality' | 'brk' | 'timer_getoverrun',
    args: (number | bigint)[],
    into: DataRef,
  ): void {
    this.program.sys(name, args, name, { expect: 'any', into: this.#resultSlot });
    this.program.store(this.#resultSlot, into, 8, name);
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
    this.#ask('prctl', [PR.getThpDisable], this.#process.plus(24));
  }

  run(injected: InjectedProgram): void {
    const { saved, process, xstates } = this.#input;
    saved.forEach((thread, i) => {
      const plan = this.#threads[i]!;
      const codeBefore = (length: number): Buffer =>
        injected.readAt(thread.registers.get('rip') - BigInt(length), length);
      const frame = signalFrame(
        {
          registers: imageRegisters(restartedRegisters(thread.registers, codeBefore)),
          xstate: xstates[i]!,
          signalMask: thread.signalMask,
          altstack: undefined,
        },
        injected.address(plan.frame),
        0n,
      );
      injected.write(plan.frame, frame);
      injected.start(
        thread,
        plan.index,
        injected.address(plan.stack) + BigInt(STACK),
        injected.address(plan.slots),
      );
    });
    const deadline = performance.now() + QUERY_TIMEOUT_MS;
    saved.forEach((thread, i) => {
      while (injected.read(this.#threads[i]!.done, 8).readUInt8(0) !== 1) {
        if (performance.now() > deadline) {
          throw new FerryError(
            'capture.query',
            `Process ${process.hostPid} did not answer its queries`,
          );
        }
      }
      injected.finish(thread);
    });
  }

  #mlockFuture(injected: InjectedProgram): number {
    const { mappings, process } = this.#input;
    if (!mappings.some((mapping) => mapping.flags.includes('lo'))) return 0;
    const address = injected.address(this.#process);
    const own = parseMappings(readProc(`/proc/${process.hostPid}/smaps`)).find(
      (mapping) => mapping.start <= address && address < mapping.end,
    );
    if (!own?.flags.includes('lo')) return 0;
    return own.flags.includes('lf') ? MCL_FUTURE | MCL_ONFAULT : MCL_FUTURE;
  }

  answers(injected: InjectedProgram): ProcessAnswers {
    const actions = injected.read(this.#actions, SIGNALS.length * 32);
    const itimers = injected.read(this.#itimers, 96);
    const timers = injected.read(this.#timers, Math.max(1, this.#timerIds.length * 48));
    const process = injected.read(this.#process, 64);
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
      threads: this.#threads.map((plan) =>
        decodeThread(
          injected.read(plan.answers, THREAD_BLOCK),
          injected.read(plan.frame.plus(FRAME_ALTSTACK), 24),
        ),
      ),
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

function decodeThread(bytes: Buffer, altstack: Buffer): ThreadAnswers {
  return {
    altstack: {
      address: altstack.readBigUInt64LE(0),
      flags: altstack.readUInt32LE(8),
      size: altstack.readBigUInt64LE(16),
    },
    tidAddress: bytes.readBigUInt64LE(24),
    parentDeathSignal: bytes.readUInt32LE(32),
    securebits: Number(bytes.readBigInt64LE(40)),
    timerSlackNs: bytes.readBigUInt64LE(48),
    personality: Number(bytes.readBigUInt64LE(56) & 0xffffffffn),
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
