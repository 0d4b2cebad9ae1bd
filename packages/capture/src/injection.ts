import { FerryError, invariant } from '@ferry/core';
import {
  type LinkedProgram,
  linkProgram,
  newIdentity,
  type ProgramBuilder,
  regionLengthOf,
  restorer,
} from '@ferry/dumpbin';
import {
  type Mapping,
  type Registers,
  readMemory,
  SYSCALL,
  type SyscallName,
  sysError,
  type TracedThread,
  writeMemory,
} from '@ferry/linux';

const PROT_ALL = 7;
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

/** Makes one system call in a stopped thread, with a `syscall` instruction that the process has anyway. The thread is
 *  left with all signals blocked and foreign registers: the caller puts both back (`restoreThread`).
 *  @returns the kernel's result, negative for an error */
export function remoteSyscall(
  saved: SavedThread,
  instruction: bigint,
  name: SyscallName,
  args: readonly (bigint | number)[],
): bigint {
  const { traced } = saved;
  const registers = saved.registers.copy();
  const order = ['rdi', 'rsi', 'rdx', 'r10', 'r8', 'r9'] as const;
  args.forEach((value, i) => {
    registers.set(order[i]!, BigInt(value));
  });
  registers.set('rax', BigInt(SYSCALL[name]));
  registers.set('orig_rax', -1n);
  registers.set('rip', instruction);
  traced.setSignalMask(ALL_SIGNALS);
  traced.setRegisters(registers);
  traced.singleStep();
  const stop = traced.wait();
  if (stop.kind !== 'stopped') {
    throw new FerryError('capture.died', `Thread ${traced.tid} ended while it was being queried`);
  }
  const result = BigInt.asIntN(64, traced.registers().get('rax'));
  // The stop of a single step is that of a signal about to be delivered: were the tracer killed now, the kernel would
  // deliver it, and SIGTRAP ends the process (kernel/signal.c: ptrace_stop, exit_ptrace). Go on into an ordinary one.
  traced.interrupt();
  traced.cont();
  const ordinary = traced.wait();
  if (ordinary.kind === 'stopped') return result;
  throw new FerryError('capture.died', `Thread ${traced.tid} ended while it was being queried`);
}

/** Puts registers and signal mask back. */
export function restoreThread(saved: SavedThread): void {
  saved.traced.setRegisters(saved.registers);
  saved.traced.setSignalMask(saved.signalMask);
}

/** The address of a `syscall` instruction in the process: in the vDSO where it has one. After a single step over it the
 *  thread stands in a signal stop, as after the interrupt, from which the kernel restarts the interrupted system call
 *  when the saved registers are back and it is let go (arch/x86/kernel/signal.c: arch_do_signal_or_restart). */
export function findSyscallInstruction(hostPid: number, mappings: readonly Mapping[]): bigint {
  const candidates = [
    ...mappings.filter((m) => m.name === '[vdso]'),
    ...mappings.filter(
      (m) => m.execute && m.read && m.name !== '[vdso]' && m.name !== '[vsyscall]',
    ),
  ];
  for (const mapping of candidates) {
    const length = Math.min(Number(mapping.end - mapping.start), 4 << 20);
    const at = readMemory(hostPid, mapping.start, length).indexOf(SYSCALL_INSTRUCTION);
    if (at >= 0) return mapping.start + BigInt(at);
  }
  throw new FerryError(
    'capture.noSyscall',
    `Process ${hostPid} has no system call instruction in its memory`,
  );
}

/** A program of queries at work inside a stopped process. Where the tracer dies in the middle, the program finishes on
 *  its own and returns to the saved registers. */
export class InjectedProgram implements Disposable {
  readonly #leader: SavedThread;
  readonly #instruction: bigint;
  readonly #hostPid: number;
  readonly #region: bigint;
  readonly #length: number;
  readonly #program: ProgramBuilder;
  #linked: LinkedProgram | undefined;

  constructor(hostPid: number, leader: SavedThread, instruction: bigint, program: ProgramBuilder) {
    this.#hostPid = hostPid;
    this.#leader = leader;
    this.#instruction = instruction;
    this.#program = program;
    this.#length = regionLengthOf(program, restorer());
    const address = remoteSyscall(leader, instruction, 'mmap', [
      0,
      this.#length,
      PROT_ALL,
      MAP_PRIVATE_ANONYMOUS,
      -1n,
      0,
    ]);
    restoreThread(leader);
    if (address < 0n) throw sysError('mmap', Number(-address), `process ${hostPid}`);
    this.#region = address;
  }

  /** Address that a reference will have. Known before `load`, so that frames can be built for it. */
  address(reference: Parameters<ProgramBuilder['resolve']>[0]): bigint {
    invariant(this.#linked !== undefined, 'The program is loaded first');
    return this.#program.resolve(reference, this.#linked.dataAddress);
  }

  /** Writes code and program into the process. */
  load(): void {
    this.#linked = linkProgram(this.#program, {
      restorer: restorer(),
      region: this.#region,
      regionLength: this.#length,
      pid: this.#hostPid,
      flags: 0,
      serviceBase: 0,
      identity: newIdentity(),
    });
    writeMemory(this.#hostPid, this.#region, Buffer.concat([restorer().blob, this.#linked.image]));
  }

  write(reference: Parameters<ProgramBuilder['resolve']>[0], bytes: Buffer): void {
    writeMemory(this.#hostPid, this.address(reference), bytes);
  }

  read(reference: Parameters<ProgramBuilder['resolve']>[0], length: number): Buffer {
    return readMemory(this.#hostPid, this.address(reference), length);
  }

  /** Reads any memory of the process. */
  readAt(address: bigint, length: number): Buffer {
    return readMemory(this.#hostPid, address, length);
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
    saved.traced.setSignalMask(ALL_SIGNALS);
    saved.traced.setRegisters(registers);
    saved.traced.cont();
  }

  /** Stops a started thread again, wherever it is by now, and puts it back as it was saved. */
  finish(saved: SavedThread): void {
    saved.traced.interrupt();
    const stop = saved.traced.wait();
    if (stop.kind !== 'stopped') {
      throw new FerryError(
        'capture.died',
        `Thread ${saved.traced.tid} ended while it was being queried`,
      );
    }
    restoreThread(saved);
  }

  /** Unmaps the program. */
  [Symbol.dispose](): void {
    remoteSyscall(this.#leader, this.#instruction, 'munmap', [this.#region, this.#length]);
    restoreThread(this.#leader);
  }
}
