import type { Registers } from '@ferry/image';

// arch/x86/include/uapi/asm/sigcontext.h, ucontext.h
const FP_XSTATE_MAGIC1 = 0x46505853;
const FP_XSTATE_MAGIC2 = 0x46505845;
const UC_FP_XSTATE = 1n;
const UC_SIGCONTEXT_SS = 2n;
const UC_STRICT_RESTORE_SS = 4n;
const SS_DISABLE = 2n;
const SOFTWARE_RESERVED = 464;

/** struct rt_sigframe without its siginfo tail: return address, then struct ucontext. */
export const FRAME_HEAD = 8 + 5 * 8 + 32 * 8 + 8 + 128;
/** Where the saved XSAVE area starts in the frame, when the frame is 64-byte aligned. */
export const FRAME_XSTATE = Math.ceil(FRAME_HEAD / 64) * 64;

/** Where the frame's pointer to that area stands. */
export const FRAME_FPSTATE = 8 + 40 + 23 * 8;

export interface FrameState {
  readonly registers: Registers;
  /** XSAVE area in standard format, with its header. */
  readonly xstate: Uint8Array;
  readonly signalMask: bigint;
  readonly altstack: { address: bigint; size: bigint; flags: number } | undefined;
}

/** Bytes that a frame for this state takes. */
export function frameLength(xstate: Uint8Array): number {
  return FRAME_XSTATE + xstate.length + 64;
}

/** The frame that rt_sigreturn(2) turns into registers, XSAVE state, signal mask and alternate stack, to stand at
 *  `address` (64-byte aligned). `trampoline` is its return address: code that calls rt_sigreturn. */
export function signalFrame(state: FrameState, address: bigint, trampoline: bigint): Buffer {
  const { registers: r, xstate, altstack } = state;
  const frame = Buffer.alloc(frameLength(xstate));
  const word = (at: number, value: bigint): void => {
    frame.writeBigUInt64LE(BigInt.asUintN(64, value), at);
  };
  word(0, trampoline);
  word(8, UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS);
  word(8 + 16, altstack?.address ?? 0n);
  word(8 + 24, altstack === undefined ? SS_DISABLE : BigInt(altstack.flags & ~1));
  word(8 + 32, altstack?.size ?? 0n);
  const general = [
    r.r8,
    r.r9,
    r.r10,
    r.r11,
    r.r12,
    r.r13,
    r.r14,
    r.r15,
    r.rdi,
    r.rsi,
    r.rbp,
    r.rbx,
    r.rdx,
    r.rax,
    r.rcx,
    r.rsp,
    r.rip,
    r.eflags,
  ];
  general.forEach((value, i) => {
    word(8 + 40 + i * 8, value);
  });
  // cs, gs, fs, ss, 16 bits each
  word(8 + 40 + 18 * 8, (r.cs & 0xffffn) | ((r.ss & 0xffffn) << 48n));
  word(8 + 40 + 23 * 8, address + BigInt(FRAME_XSTATE));
  word(8 + 40 + 32 * 8, state.signalMask);
  const fp = frame.subarray(FRAME_XSTATE);
  Buffer.from(xstate).copy(fp);
  const features = fp.readBigUInt64LE(SOFTWARE_RESERVED);
  fp.fill(0, SOFTWARE_RESERVED, SOFTWARE_RESERVED + 48);
  fp.writeUInt32LE(FP_XSTATE_MAGIC1, SOFTWARE_RESERVED);
  fp.writeUInt32LE(xstate.length + 4, SOFTWARE_RESERVED + 4);
  fp.writeBigUInt64LE(features, SOFTWARE_RESERVED + 8);
  fp.writeUInt32LE(xstate.length, SOFTWARE_RESERVED + 16);
  fp.writeUInt32LE(FP_XSTATE_MAGIC2, xstate.length);
  return frame;
}
