import { FerryError } from '@ferry/core';
import { addressOf, call, sys, sysError } from './sys.js';
import { lengthInUse } from './xsave.js';

// ptrace(2), include/uapi/linux/ptrace.h
const PTRACE = {
  cont: 7,
  singleStep: 9,
  detach: 17,
  syscall: 24,
  setOptions: 0x4200,
  getEventMessage: 0x4201,
  getRegSet: 0x4204,
  setRegSet: 0x4205,
  seize: 0x4206,
  interrupt: 0x4207,
  peekSigInfo: 0x4209,
  getSigMask: 0x420a,
  setSigMask: 0x420b,
  seccompGetFilter: 0x420c,
  seccompGetMetadata: 0x420d,
  getRseqConfiguration: 0x420f,
  getSyscallUserDispatch: 0x4211,
} as const;

const NT_PRSTATUS = 1;
const NT_X86_XSTATE = 0x202;
const PTRACE_O_TRACESYSGOOD = 1;
const PTRACE_O_TRACECLONE = 8;
const PTRACE_O_SUSPEND_SECCOMP = 1 << 21;
const WNOHANG = 1;
const WAIT_EXACT = 0x40000000 | 0x20000000; // __WALL | __WNOTHREAD
const SIGTRAP = 5;
const EVENT_CLONE = 3;
const EVENT_STOP = 128;

/** struct user_regs_struct of x86-64: 27 words, by position. */
export const REGISTER_NAMES = [
  'r15',
  'r14',
  'r13',
  'r12',
  'rbp',
  'rbx',
  'r11',
  'r10',
  'r9',
  'r8',
  'rax',
  'rcx',
  'rdx',
  'rsi',
  'rdi',
  'orig_rax',
  'rip',
  'cs',
  'eflags',
  'rsp',
  'ss',
  'fs_base',
  'gs_base',
  'ds',
  'es',
  'fs',
  'gs',
] as const;
export type RegisterName = (typeof REGISTER_NAMES)[number];

const REGISTER_INDEX = Object.fromEntries(REGISTER_NAMES.map((name, i) => [name, i])) as Record<
  RegisterName,
  number
>;

/** A thread's general registers. */
export class Registers {
  readonly bytes: Buffer;
  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  get(name: RegisterName): bigint {
    return this.bytes.readBigUInt64LE(REGISTER_INDEX[name] * 8);
  }

  set(name: RegisterName, value: bigint): void {
    this.bytes.writeBigUInt64LE(BigInt.asUintN(64, value), REGISTER_INDEX[name] * 8);
  }

  copy(): Registers {
    return new Registers(Buffer.from(this.bytes));
  }
}

/** How a wait ended. `group`: the thread is in a job-control stop as well; `event`: it was told to stop (otherwise it has
 *  made the step that was asked for). */
export type Stop =
  | {
      readonly kind: 'stopped';
      readonly group: boolean;
      readonly groupSignal: number;
      readonly event: boolean;
    }
  /** About to make a system call, or at its end: see `toSyscall`. */
  | { readonly kind: 'syscall' }
  /** It has made a thread: see `followClones`. */
  | { readonly kind: 'cloned' }
  | { readonly kind: 'signal'; readonly signal: number }
  | { readonly kind: 'exited'; readonly status: number };

/** FERRY_TRACER_DIES_AT=N: this process is killed before the Nth thing that it does to another one. Never set outside of
 *  tests, which find out that way that those are not harmed. */
const diesAt = Number(process.env.FERRY_TRACER_DIES_AT ?? 0);
let done = 0;

/** Counts what is about to be done to another process. */
function count(): void {
  if (diesAt === 0) return;
  done += 1;
  if (done === diesAt) process.kill(process.pid, 'SIGKILL');
}

function request(
  name: keyof typeof PTRACE,
  tid: number,
  address: bigint | number,
  data: bigint | number | Buffer,
): number {
  count();
  return sys('ptrace', PTRACE[name], tid, address, data);
}

function must(
  name: keyof typeof PTRACE,
  tid: number,
  address: bigint | number,
  data: bigint | number | Buffer,
): number {
  const result = request(name, tid, address, data);
  if (result < 0) throw sysError(`ptrace ${name}`, -result, `thread ${tid}`);
  return result;
}

/** A seized thread. Every request must come from the OS thread that seized it (ptrace(2)). */
export class TracedThread {
  readonly tid: number;
  readonly #options: number;

  private constructor(tid: number, options: number) {
    this.tid = tid;
    this.#options = options;
  }

  /** PTRACE_SEIZE: does not stop it. Filters of seccomp are suspended where we may (CAP_SYS_ADMIN). */
  static seize(tid: number): TracedThread {
    let options = PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP;
    let result = request('seize', tid, 0, options);
    if (result < 0) {
      options = PTRACE_O_TRACESYSGOOD;
      result = request('seize', tid, 0, options);
    }
    if (result < 0) throw sysError('ptrace seize', -result, `thread ${tid}`);
    return new TracedThread(tid, options);
  }

  /** While it stands: a thread that it makes is seized, as it is itself, and stands before its first instruction; it stops
   *  for that as well (`cloned`). */
  followClones(follow: boolean): void {
    const options = this.#options | (follow ? PTRACE_O_TRACECLONE : 0);
    must('setOptions', this.tid, 0, options);
  }

  /** In the stop `cloned`: the new thread. */
  cloned(): TracedThread {
    const message = Buffer.alloc(8);
    must('getEventMessage', this.tid, 0, message);
    return new TracedThread(Number(message.readBigUInt64LE(0)), this.#options);
  }

  interrupt(): void {
    must('interrupt', this.tid, 0, 0);
  }

  /** Waits for the next stop of exactly this thread. A task in uninterruptible sleep may never stop.
   *  @throws FerryError capture.unstoppable after `timeoutMs` */
  wait(timeoutMs = 5000): Stop {
    count();
    let deadline: number | undefined;
    for (let spins = 0; ; spins++) {
      const pid = sys('wait4', this.tid, STATUS, WNOHANG | WAIT_EXACT, null);
      if (pid === this.tid) return decodeStop(STATUS.readUInt32LE(0));
      if (pid < 0 && pid !== -4) throw sysError('wait4', -pid, `thread ${this.tid}`);
      if (spins > 200) sys('nanosleep', NAP, null);
      else if (spins > 20) sys('sched_yield');
      deadline ??= performance.now() + timeoutMs;
      if (performance.now() > deadline) {
        throw new FerryError(
          'capture.unstoppable',
          `Thread ${this.tid} did not stop in ${timeoutMs} ms`,
          {
            remedy:
              'it is in an uninterruptible system call (state D); end what it waits for and try again',
          },
        );
      }
    }
  }

  /** A stop, or the end, of exactly this thread that has happened already; undefined when there is none.
   *  @throws SysError ECHILD when it has been waited for to its end */
  poll(): Stop | undefined {
    const pid = sys('wait4', this.tid, STATUS, WNOHANG | WAIT_EXACT, null);
    if (pid === this.tid) return decodeStop(STATUS.readUInt32LE(0));
    if (pid < 0 && pid !== -4) throw sysError('wait4', -pid, `thread ${this.tid}`);
    return undefined;
  }

  /** Runs on; `signal` is delivered where the stop was for one. */
  cont(signal = 0): void {
    must('cont', this.tid, 0, signal);
  }

  singleStep(): void {
    must('singleStep', this.tid, 0, 0);
  }

  /** Runs to where it enters or leaves a system call. Were the tracer killed while it stands there it would just go on: the
   *  signal of that stop, SIGTRAP | 0x80, is none (include/linux/ptrace.h: ptrace_report_syscall). */
  toSyscall(): void {
    must('syscall', this.tid, 0, 0);
  }

  /** Lets go; a thread that has died meanwhile is no error. */
  detach(): void {
    const result = request('detach', this.tid, 0, 0);
    if (result < 0 && result !== -3) throw sysError('ptrace detach', -result, `thread ${this.tid}`);
  }

  registers(): Registers {
    const bytes = Buffer.allocUnsafe(27 * 8);
    must('getRegSet', this.tid, NT_PRSTATUS, iovec(bytes));
    return new Registers(bytes);
  }

  setRegisters(registers: Registers): void {
    must('setRegSet', this.tid, NT_PRSTATUS, iovec(registers.bytes));
  }

  /** The XSAVE area, standard format, up to the last component that is in use. */
  xstate(): Buffer {
    const vector = iovec(XSTATE);
    must('getRegSet', this.tid, NT_X86_XSTATE, vector);
    const area = XSTATE.subarray(0, Number(vector.readBigUInt64LE(8)));
    return Buffer.from(area.subarray(0, lengthInUse(area)));
  }

  signalMask(): bigint {
    must('getSigMask', this.tid, 8, MASK);
    return MASK.readBigUInt64LE(0);
  }

  setSignalMask(mask: bigint): void {
    MASK.writeBigUInt64LE(mask);
    must('setSigMask', this.tid, 8, MASK);
  }

  /** Pending signals as siginfo_t of 128 bytes: of this thread, or shared by its process. Nothing is consumed. */
  pendingSignals(which: 'thread' | 'process'): Buffer[] {
    const found: Buffer[] = [];
    for (;;) {
      PEEK.writeBigUInt64LE(BigInt(found.length), 0);
      PEEK.writeUInt32LE(which === 'process' ? 1 : 0, 8);
      PEEK.writeInt32LE(PEEKED_MAX, 12);
      const n = must('peekSigInfo', this.tid, addressOf(PEEK), PEEKED);
      for (let i = 0; i < n; i++) {
        found.push(Buffer.from(PEEKED.subarray(i * SIGINFO_SIZE, (i + 1) * SIGINFO_SIZE)));
      }
      if (n < PEEKED_MAX) return found;
    }
  }

  /** { address, length, signature, flags } of the registered rseq area; address 0 when there is none. */
  rseq(): { address: bigint; length: number; signature: number; flags: number } {
    const out = Buffer.alloc(24);
    const n = request('getRseqConfiguration', this.tid, 24, out);
    if (n < 0) return { address: 0n, length: 0, signature: 0, flags: 0 };
    return {
      address: out.readBigUInt64LE(0),
      length: out.readUInt32LE(8),
      signature: out.readUInt32LE(12),
      flags: out.readUInt32LE(16),
    };
  }

  /** Whether the program has its own system calls sent to itself (PR_SET_SYSCALL_USER_DISPATCH). Before Linux 6.4 it
   *  cannot be seen. */
  dispatchesSyscalls(): boolean {
    const configuration = Buffer.alloc(32);
    const size = configuration.length;
    if (request('getSyscallUserDispatch', this.tid, size, configuration) < 0) return false;
    return configuration.readBigUInt64LE(0) !== 0n;
  }

  /** Filter `index` (0 is the newest) as struct sock_filter[], or undefined past the last. */
  seccompFilter(index: number): { instructions: Buffer; flags: bigint } | undefined {
    const count = request('seccompGetFilter', this.tid, index, 0);
    if (count === -2) return undefined;
    if (count < 0) throw sysError('ptrace seccompGetFilter', -count, `thread ${this.tid}`);
    const instructions = Buffer.alloc(count * 8);
    must('seccompGetFilter', this.tid, index, instructions);
    const metadata = Buffer.alloc(16);
    metadata.writeBigUInt64LE(BigInt(index));
    request('seccompGetMetadata', this.tid, 16, metadata);
    return { instructions, flags: metadata.readBigUInt64LE(8) };
  }
}

const NAP = Buffer.alloc(16);
NAP.writeBigUInt64LE(50_000n, 8);

// Room for arguments and answers, reused: a request costs less than a fresh Buffer. Calls are synchronous, so no two
// are under way at once; what is returned is a copy.
const STATUS = Buffer.alloc(4);
const MASK = Buffer.alloc(8);
const XSTATE = Buffer.alloc(16384);
const SIGINFO_SIZE = 128;
const PEEKED_MAX = 32;
const PEEK = Buffer.alloc(16);
const PEEKED = Buffer.alloc(PEEKED_MAX * SIGINFO_SIZE);
const LOCAL = Buffer.alloc(16);
const REMOTE = Buffer.alloc(16);

/** What LOCAL points to: nothing else may hold it when the system call is made, and V8 collects what nothing holds. */
let held: Buffer = LOCAL;

/** struct iovec of our own bytes; good until the next one is made. */
function iovec(bytes: Buffer): Buffer {
  held = bytes;
  LOCAL.writeBigUInt64LE(addressOf(held), 0);
  LOCAL.writeBigUInt64LE(BigInt(bytes.length), 8);
  return LOCAL;
}

/** struct iovec of another process's memory; good until the next one is made. */
function remoteIovec(address: bigint, length: number): Buffer {
  REMOTE.writeBigUInt64LE(address, 0);
  REMOTE.writeBigUInt64LE(BigInt(length), 8);
  return REMOTE;
}

function decodeStop(status: number): Stop {
  if ((status & 0x7f) !== 0x7f) return { kind: 'exited', status };
  const signal = (status >> 8) & 0xff;
  const event = status >> 16;
  if (event === EVENT_STOP)
    return { kind: 'stopped', group: signal !== SIGTRAP, groupSignal: signal, event: true };
  if (event === EVENT_CLONE) return { kind: 'cloned' };
  if (signal === SIGTRAP && event === 0)
    return { kind: 'stopped', group: false, groupSignal: 0, event: false };
  if (signal === (SIGTRAP | 0x80)) return { kind: 'syscall' };
  return { kind: 'signal', signal };
}

/** Reads another process's memory; short reads are errors. process_vm_readv(2). */
export function readMemory(pid: number, address: bigint, length: number): Buffer {
  const out = Buffer.allocUnsafe(length);
  const n = call('process_vm_readv', pid, iovec(out), 1, remoteIovec(address, length), 1, 0);
  if (n !== length)
    throw sysError('process_vm_readv', 14, `process ${pid} at 0x${address.toString(16)}`);
  return out;
}

/** Writes another process's memory; short writes are errors. process_vm_writev(2). */
export function writeMemory(pid: number, address: bigint, bytes: Buffer): void {
  count();
  const remote = remoteIovec(address, bytes.length);
  const n = call('process_vm_writev', pid, iovec(bytes), 1, remote, 1, 0);
  if (n !== bytes.length)
    throw sysError('process_vm_writev', 14, `process ${pid} at 0x${address.toString(16)}`);
}
