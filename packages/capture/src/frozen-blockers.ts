import { type Blocker, FerryError } from '@ferry/core';
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

/** That something of a stopped tree cannot be carried, in the words of a blocker. */
export function refused(refusal: Refusal, hostPid: number, command: string): FerryError {
  const { object, reason, remedy } = refusal;
  const text = `${command} (${hostPid}), ${object}: ${reason}`;
  return new FerryError('capture.blocked', text, { remedy });
}
