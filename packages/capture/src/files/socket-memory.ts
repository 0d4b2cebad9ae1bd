import { SysError } from '@ferry/core';
import { KernelMemory } from '@ferry/linux';
import type { FileContext } from './context.js';

/** A look costs as much as is copied in it, and all that is looked at are single members. */
const WINDOW_BYTES = 64;

/** What the kernel's memory says of a socket that no system call tells. The first look of a program takes as long as learning
 *  how the kernel lays out its memory: it is for scans.
 *  @param fd  a duplicate of the socket
 *  @param ask  is given the memory, and where in it the socket is (struct sock)
 *  @returns undefined where the memory cannot be read, or is laid out in another way than `ask` knows */
export function askSocketMemory<T>(
  fd: number,
  ctx: FileContext,
  ask: (memory: KernelMemory, socket: bigint) => T,
): T | undefined {
  const memory = memoryOf(ctx);
  if (memory === undefined) return undefined;
  try {
    const socket = memory.long(memory.file(fd), 'file', 'private_data');
    return ask(memory, memory.long(socket, 'socket', 'sk'));
  } catch (error) {
    if (error instanceof SysError) return undefined;
    throw error;
  }
}

/** Learns in a scan what takes longest. */
export function prepareSocketMemory(ctx: FileContext): void {
  memoryOf(ctx);
}

let isClosed = false;

/** Whether a scan has found that the kernel's memory cannot be read. */
export function isMemoryClosed(): boolean {
  return isClosed;
}

function memoryOf(ctx: FileContext): KernelMemory | undefined {
  return ctx.shared('socketMemory', () => {
    const memory = KernelMemory.open(WINDOW_BYTES);
    isClosed = memory === undefined;
    if (memory !== undefined) ctx.onRelease(() => memory[Symbol.dispose]());
    return memory;
  });
}
