import { type Blocker, FerryError } from '@ferry/core';
import { passingBlockers } from './files/passing-blockers.js';
import type { SavedThread } from './injection.js';

/** __USER_CS, the code segment of 64-bit programs (arch/x86/include/asm/segment.h). */
const USER_CS = 0x33n;

type Refusal = Pick<Blocker, 'code' | 'object' | 'reason' | 'remedy'>;

export const compatProgram: Refusal = {
  code: 'process.compat',
  object: 'its code',
  reason: 'it is a 32-bit program, which cannot be carried yet',
  remedy: 'use the 64-bit build of the program',
};

export const localDescriptorTable: Refusal = {
  code: 'process.ldt',
  object: 'its local descriptor table',
  reason: 'segments of its own (modify_ldt) cannot be carried yet',
  remedy: 'end what runs 16-bit or 32-bit code in the process (Wine, DOSEMU)',
};

export const landlocked: Refusal = {
  code: 'process.landlock',
  object: 'its Landlock domain',
  reason: 'the program has restricted itself with Landlock, and the kernel does not show to what',
  remedy: 'turn its sandbox off, or let it use seccomp or a container instead',
};

/** What is in them only a thread that has used them before can take from a signal frame, and one that is made anew has not. They
 *  are empty between two computations. */
export const tilesInUse: Refusal = {
  code: 'process.tiles',
  object: 'its AMX tiles',
  reason: 'they hold what is being computed, which cannot be carried',
  remedy:
    'try again when it computes less, or turn AMX off in the program (ONEDNN_MAX_CPU_ISA=AVX512_CORE)',
};

const userDispatch: Refusal = {
  code: 'process.syscallUserDispatch',
  object: 'its system calls',
  reason: 'the program intercepts its own system calls (PR_SET_SYSCALL_USER_DISPATCH)',
  remedy: 'turn that off in the program (Wine, gVisor, tracers in the process)',
};

/** Refuses what a thread shows only once it stands, before anything is run in it.
 *  @throws FerryError capture.blocked */
export function refuseThread(saved: SavedThread, hostPid: number, command: string): void {
  if (saved.registers.get('cs') !== USER_CS) throw refused(compatProgram, hostPid, command);
  if (saved.traced.dispatchesSyscalls()) throw refused(userDispatch, hostPid, command);
}

const passing = new WeakSet<object>();

/** Whether it says of something that passes by itself that it cannot be carried. */
export function passesByItself(error: unknown): boolean {
  return typeof error === 'object' && error !== null && passing.has(error);
}

/** That something of a stopped tree cannot be carried, in the words of a blocker. */
export function refused(refusal: Refusal, hostPid: number, command: string): FerryError {
  const { code, object, reason, remedy } = refusal;
  const text = `${command} (${hostPid}), ${object}: ${reason}`;
  const error = new FerryError('capture.blocked', text, { remedy });
  if (passingBlockers.has(code)) passing.add(error);
  return error;
}
