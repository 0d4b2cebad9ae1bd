import type { Registers } from '@ferry/linux';

// include/linux/errno.h: what an interrupted system call leaves in rax until the kernel decides how it goes on.
const ERESTARTSYS = -512n;
const ERESTARTNOINTR = -513n;
const ERESTARTNOHAND = -514n;
const ERESTART_RESTARTBLOCK = -516n;
const EINTR = -4n;

const NR = {
  poll: 7n,
  nanosleep: 35n,
  futex: 202n,
  restartSyscall: 219n,
  clockNanosleep: 230n,
} as const;
const RESTARTABLE = new Set<bigint>([NR.poll, NR.nanosleep, NR.futex, NR.clockNanosleep]);

/** Registers with which an interrupted system call goes on in another process: the kernel's own restart state does not
 *  move, so the call is made again. A sleep that was given room for its remaining time goes on with that time, which
 *  the kernel has written there when the freeze interrupted it (kernel/time/hrtimer.c: nanosleep_copyout).
 *  `codeBefore` reads the bytes in front of the instruction pointer. */
export function restartedRegisters(
  registers: Registers,
  codeBefore: (length: number) => Buffer,
): Registers {
  const out = registers.copy();
  const nr = BigInt.asIntN(64, registers.get('orig_rax'));
  if (nr < 0n) return out;
  const result = BigInt.asIntN(64, registers.get('rax'));
  out.set('orig_rax', -1n);
  if (result === ERESTARTSYS || result === ERESTARTNOINTR || result === ERESTARTNOHAND) {
    out.set('rax', nr);
    out.set('rip', registers.get('rip') - 2n);
  } else if (result === ERESTART_RESTARTBLOCK) {
    const original = nr === NR.restartSyscall ? numberLoadedBefore(codeBefore(24)) : nr;
    if (original === undefined || !RESTARTABLE.has(original)) {
      out.set('rax', EINTR);
      return out;
    }
    out.set('rax', original);
    out.set('rip', registers.get('rip') - 2n);
    if (original === NR.nanosleep && registers.get('rsi') !== 0n)
      out.set('rdi', registers.get('rsi'));
    if (
      original === NR.clockNanosleep &&
      registers.get('rsi') === 0n &&
      registers.get('r10') !== 0n
    ) {
      out.set('rdx', registers.get('r10'));
    }
  }
  return out;
}

/** The number that `mov $imm32, %eax` in front of a `syscall` instruction loads: a call that was interrupted twice
 *  shows as restart_syscall, and only the code still tells which it was. */
export function numberLoadedBefore(code: Buffer): bigint | undefined {
  const end = code.length - 2;
  if (end < 5 || code.readUInt16BE(end) !== 0x0f05) return undefined;
  for (let at = end - 5; at >= 0; at--) {
    if (code[at] !== 0xb8) continue;
    const nr = BigInt(code.readUInt32LE(at + 1));
    if (RESTARTABLE.has(nr)) return nr;
  }
  return undefined;
}
