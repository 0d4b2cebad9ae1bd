import { FerryError } from '@ferry/core';
import {
  type DataRef,
  frameLength,
  type LinkedProgram,
  linkProgram,
  type ProgramBuilder,
  regionLengthOf,
  restorer,
  signalFrame,
  type ZeroRef,
} from '@ferry/dumpbin';
import {
  type AddressRange,
  call,
  cString,
  type Mapping,
  OwnedFd,
  type Registers,
  readMemory,
  type Stop,
  SYSCALL,
  type SyscallName,
  sysError,
  type TracedThread,
  writeMemory,
} from '@ferry/linux';
import type { FrozenProcess } from './frozen-tree.js';
import { gadgetFinder } from './gadgets.js';
import { imageRegisters } from './registers.js';
import { restartedRegisters } from './restart.js';
import type { Steps } from './steps.js';

const PROT_READ_WRITE = 3;
const PROT_READ_EXECUTE = 5;
const PROT_ALL = 7;
const MAP_FIXED = 0x10;
const EACCES = -13n;
const O_RDWR_CLOEXEC = 0o2000002;
const MAP_PRIVATE_ANONYMOUS = 0x22;
const ALL_SIGNALS = 0xffffffffffffffffn;
const SYSCALL_INSTRUCTION = Buffer.from([0x0f, 0x05]);

/** What a stopped thread had before something was run in it. */
export interface SavedThread {
  readonly traced: TracedThread;
  readonly registers: Registers;
  readonly signalMask: bigint;
}

export function saveThread(traced: TracedThread): SavedThread {
  return { traced, registers: traced.registers(), signalMask: traced.signalMask() };
}

const RED_ZONE = 128n;
const NO_FLAGS = 0x7f00;

interface CallStack {
  readonly address: bigint;
  /** What was there. */
  readonly before: Buffer;
  /** The lowest address that may be written. */
  readonly start: bigint;
  /** The trampoline. */
  readonly sigreturn: bigint;
}

/** What is written below the stack pointer of a thread that makes system calls for us is within this, whatever its registers. */
const CALL_STACK_BYTES = 65536n;
const PAGE = 4096n;

/** Pages of a stopped process that the queries of a capture write to, and put back. */
export function writtenByCalls({ hostPid, threads }: FrozenProcess): AddressRange {
  const leader = threads.find(({ hostTid }) => hostTid === hostPid);
  const rsp = leader?.traced.registers().get('rsp') ?? 0n;
  const start = rsp > CALL_STACK_BYTES ? rsp - CALL_STACK_BYTES : 0n;
  return { start: start & -PAGE, end: (rsp + PAGE - 1n) & -PAGE };
}

/** Where a stopped thread makes system calls for us, so that it is none the worse when its tracer is killed at any moment:
 *  the instruction after the call is a return, to a trampoline that makes `rt_sigreturn`, with a signal frame of what the
 *  thread had before. Frame and return address lie below the thread's red zone, where the kernel would put them. */
export class CallPlace {
  /** The address of a `syscall` instruction. */
  readonly instruction: bigint;
  readonly #hostPid: number;
  readonly #stack: CallStack | undefined;

  private constructor(hostPid: number, instruction: bigint, stack: CallStack | undefined) {
    this.#hostPid = hostPid;
    this.instruction = instruction;
    this.#stack = stack;
  }

  /** The stack pointer to make calls with; undefined where there is no way back without the tracer: the program has no such
   *  instructions, or no room below its stack. */
  get stackPointer(): bigint | undefined {
    return this.#stack?.address;
  }

  static prepare(hostPid: number, saved: SavedThread, mappings: readonly Mapping[]): CallPlace {
    const { syscallReturn, sigreturn } = gadgetFinder.find(hostPid, mappings);
    const plain = () =>
      new CallPlace(hostPid, findSyscallInstruction(hostPid, mappings), undefined);
    if (syscallReturn === 0n || sigreturn === 0n) return plain();
    const { traced, registers, signalMask } = saved;
    const xstate = traced.xstate();
    const rsp = registers.get('rsp');
    const length = frameLength(xstate);
    // The XSAVE area of a frame is aligned, and the frame as after a call.
    const address = ((rsp - RED_ZONE - BigInt(length)) & -64n) - 64n;
    const stack = mappings.find(({ start, end }) => start <= rsp && rsp <= end);
    if (stack === undefined || !stack.write || address < stack.start) return plain();
    const rip = registers.get('rip');
    const gone = restartedRegisters(registers, (n) => readMemory(hostPid, rip - BigInt(n), n));
    const state = {
      registers: imageRegisters(gone),
      // Flags that are none: the kernel leaves the alternate stack as it is (kernel/signal.c: restore_altstack).
      ...{ xstate, signalMask, altstack: { address: 0n, flags: NO_FLAGS, size: 0n } },
    };
    const before = readMemory(hostPid, address, length);
    writeMemory(hostPid, address, signalFrame(state, address, sigreturn));
    return new CallPlace(hostPid, syscallReturn, {
      ...{ address, before, sigreturn, start: stack.start },
    });
  }

  /** A place for a call whose outcome must not stay: left alone, the thread first closes `fd` and then goes back. To be left
   *  before this one. */
  closing(saved: SavedThread, fd: number): CallPlace {
    if (this.#stack === undefined) return new CallPlace(this.#hostPid, this.instruction, undefined);
    const { address: back, sigreturn, start } = this.#stack;
    const xstate = saved.traced.xstate();
    const length = frameLength(xstate);
    const address = ((back - BigInt(length)) & -64n) - 64n;
    if (address < start) return new CallPlace(this.#hostPid, this.instruction, undefined);
    const registers = saved.registers.copy();
    for (const [name, value] of [
      ...[['rax', BigInt(SYSCALL.close)] as const, ['orig_rax', -1n] as const],
      ...[['rdi', BigInt(fd)] as const, ['rip', this.instruction] as const, ['rsp', back] as const],
    ]) {
      registers.set(name, value);
    }
    const state = {
      ...{ registers: imageRegisters(registers), xstate, signalMask: ALL_SIGNALS },
      altstack: { address: 0n, flags: NO_FLAGS, size: 0n },
    };
    const before = readMemory(this.#hostPid, address, length);
    writeMemory(this.#hostPid, address, signalFrame(state, address, sigreturn));
    return new CallPlace(this.#hostPid, this.instruction, { address, before, sigreturn, start });
  }

  /** Once the thread's registers are its own again: puts back what was below its stack. */
  leave(): void {
    if (this.#stack === undefined) return;
    writeMemory(this.#hostPid, this.#stack.address, this.#stack.before);
  }
}

/** Makes one system call in a stopped thread. The thread is left with all signals blocked and foreign registers: the caller
 *  puts both back (`restoreThread`). Not for calls that wait.
 *  @returns the kernel's result, negative for an error */
export function* remoteSyscall(
  saved: SavedThread,
  place: Pick<CallPlace, 'instruction' | 'stackPointer'>,
  name: SyscallName,
  args: readonly (bigint | number)[],
): Steps<bigint> {
  const { traced } = saved;
  const registers = saved.registers.copy();
  const order = ['rdi', 'rsi', 'rdx', 'r10', 'r8', 'r9'] as const;
  args.forEach((value, i) => {
    registers.set(order[i]!, BigInt(value));
  });
  registers.set('rax', BigInt(SYSCALL[name]));
  registers.set('orig_rax', -1n);
  registers.set('rip', place.instruction);
  if (place.stackPointer !== undefined) registers.set('rsp', place.stackPointer);
  // In this order: with these registers it goes back on its own, and takes its signal mask from the frame.
  traced.setRegisters(registers);
  traced.setSignalMask(ALL_SIGNALS);
  for (let entered = false; !entered; ) {
    traced.toSyscall();
    yield;
    const stop = traced.wait();
    mustStand(traced, stop);
    // A process that was stopped already traps once more for the interrupt that it was sent.
    entered = stop.kind === 'syscall';
  }
  // On into an ordinary stop: from there the kernel restarts the interrupted system call, once the saved registers are
  // back and the thread is let go (arch/x86/kernel/signal.c: arch_do_signal_or_restart).
  traced.interrupt();
  traced.cont();
  yield;
  mustStand(traced, traced.wait());
  return BigInt.asIntN(64, traced.registers().get('rax'));
}

function mustStand(traced: TracedThread, stop: Stop): void {
  if (stop.kind === 'stopped' || stop.kind === 'syscall') return;
  throw new FerryError('capture.died', `Thread ${traced.tid} ended while it was being queried`);
}

/** Puts signal mask and registers back, in this order: its own registers with all signals blocked would harm it, were the
 *  tracer killed in between. */
export function restoreThread(saved: SavedThread): void {
  saved.traced.setSignalMask(saved.signalMask);
  saved.traced.setRegisters(saved.registers);
}

/** Where in the vDSO the last one was found. */
let vdsoOffset: bigint | undefined;

/** The address of a `syscall` instruction in the process: in the vDSO where it has one. */
export function findSyscallInstruction(hostPid: number, mappings: readonly Mapping[]): bigint {
  const candidates = [
    ...mappings.filter((m) => m.name === '[vdso]'),
    ...mappings.filter(
      (m) => m.execute && m.read && m.name !== '[vdso]' && m.name !== '[vsyscall]',
    ),
  ];
  const [first] = candidates;
  if (first?.name === '[vdso]' && vdsoOffset !== undefined) {
    // The same in every process of this kernel, but it is looked at all the same.
    const address = first.start + vdsoOffset;
    if (readMemory(hostPid, address, 2).equals(SYSCALL_INSTRUCTION)) return address;
  }
  for (const mapping of candidates) {
    const length = Math.min(Number(mapping.end - mapping.start), 4 << 20);
    const at = readMemory(hostPid, mapping.start, length).indexOf(SYSCALL_INSTRUCTION);
    if (at < 0) continue;
    if (mapping.name === '[vdso]') vdsoOffset = BigInt(at);
    return mapping.start + BigInt(at);
  }
  throw new FerryError(
    'capture.noSyscall',
    `Process ${hostPid} has no system call instruction in its memory`,
  );
}

/** Writes where the process itself may not (proc_pid_mem(5)). */
function writeCode(hostPid: number, address: bigint, bytes: Buffer): void {
  using memory = new OwnedFd(call('open', cString(`/proc/${hostPid}/mem`), O_RDWR_CLOEXEC, 0));
  call('pwrite64', memory.number, bytes, bytes.length, address);
}

/** A program of queries at work inside a stopped process. Where the tracer dies in the middle, the program finishes on
 *  its own and returns to the saved registers. Order: `map`, `address` and `patch`, `store`, `start`, `stop`, `read`,
 *  `unmap`. */
export class InjectedProgram {
  readonly #leader: SavedThread;
  readonly #hostPid: number;
  readonly #region: bigint;
  readonly #length: number;
  readonly #program: ProgramBuilder;
  readonly #linked: LinkedProgram;
  readonly #isWritable: boolean;

  private constructor(
    place: { hostPid: number; leader: SavedThread },
    program: ProgramBuilder,
    region: { start: bigint; length: number; isWritable: boolean },
  ) {
    this.#isWritable = region.isWritable;
    this.#hostPid = place.hostPid;
    this.#leader = place.leader;
    this.#program = program;
    this.#region = region.start;
    this.#length = region.length;
    this.#linked = linkProgram(program, {
      restorer: restorer(),
      region: region.start,
      regionLength: region.length,
      pid: place.hostPid,
      flags: 0,
      serviceBase: 0,
      identity: 0n,
    });
  }

  /** Maps room for the program into the process. */
  static *map(
    place: { hostPid: number; leader: SavedThread; calls: CallPlace },
    program: ProgramBuilder,
  ): Steps<InjectedProgram> {
    const { hostPid, leader, calls } = place;
    const length = regionLengthOf(program, restorer());
    const map = (at: bigint, bytes: number, prot: number, flags: number): Steps<bigint> =>
      remoteSyscall(leader, calls, 'mmap', [at, bytes, prot, flags, -1n, 0]);
    let start = yield* map(0n, length, PROT_ALL, MAP_PRIVATE_ANONYMOUS);
    const isWritable = start !== EACCES;
    if (!isWritable) {
      // No writable code (PR_SET_MDWE): code and data apart.
      start = yield* map(0n, length, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS);
      const code = restorer().blob.length;
      yield* map(start, code, PROT_READ_EXECUTE, MAP_PRIVATE_ANONYMOUS | MAP_FIXED);
    }
    restoreThread(leader);
    if (start < 0n) throw sysError('mmap', Number(-start), `process ${hostPid}`);
    return new InjectedProgram(place, program, { start, length, isWritable });
  }

  /** Where a reference stands in the process. */
  address(reference: DataRef | ZeroRef): bigint {
    return this.#program.resolve(reference, this.#linked.dataAddress);
  }

  /** Changes the data area before it is stored. */
  patch(reference: DataRef, bytes: Buffer): void {
    bytes.copy(this.#linked.image, this.#linked.dataOffset + reference.offset);
  }

  /** Writes code and program into the process. */
  store(): void {
    const { blob } = restorer();
    const bytes = Buffer.concat([blob, this.#linked.image]);
    if (this.#isWritable) writeMemory(this.#hostPid, this.#region, bytes);
    else writeCode(this.#hostPid, this.#region, bytes);
  }

  read(reference: DataRef, length: number): Buffer {
    return readMemory(this.#hostPid, this.address(reference), length);
  }

  /** Sets a thread running at operation `index`, on `stackTop` and with `slots`. */
  start(saved: SavedThread, index: number, stackTop: bigint, slots: bigint): void {
    const registers = saved.registers.copy();
    registers.set('rip', this.#region + BigInt(restorer().runProgram));
    registers.set('rsp', stackTop - 8n);
    registers.set('rdi', this.#region + BigInt(restorer().blob.length));
    registers.set('rsi', BigInt(index));
    registers.set('rdx', slots);
    registers.set('rax', 0n);
    registers.set('orig_rax', -1n);
    registers.set('eflags', 0x202n);
    saved.traced.setRegisters(registers);
    saved.traced.setSignalMask(ALL_SIGNALS);
    saved.traced.cont();
  }

  /** Stops started threads again, wherever they are by now, and puts them back as they were saved. */
  *stop(threads: readonly SavedThread[]): Steps<void> {
    for (const { traced } of threads) traced.interrupt();
    yield;
    for (const saved of threads) {
      mustStand(saved.traced, saved.traced.wait());
      restoreThread(saved);
    }
  }

  /** Takes it out of the process. */
  *unmap(calls: CallPlace): Steps<void> {
    yield* remoteSyscall(this.#leader, calls, 'munmap', [this.#region, this.#length]);
    restoreThread(this.#leader);
  }
}
