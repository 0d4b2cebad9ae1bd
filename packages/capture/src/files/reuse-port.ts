import { SysError } from '@ferry/core';
import { KernelMemory, SOL } from '@ferry/linux';
import type { FileContext } from './context.js';
import type { SocketFacts } from './socket-probe.js';

const SO_REUSEPORT = 15;

/** Whether a BPF program chooses among the sockets that share its port (struct sock_reuseport, include/net/sock_reuseport.h).
 *  No system call tells, so that it is read where the kernel has it: false where that cannot be. It takes as long as
 *  learning how the kernel lays out its memory: for scans.
 *  @param fd  a duplicate of an IP socket */
export function hasReusePortProgram(
  fd: number,
  { options }: Pick<SocketFacts, 'options'>,
  ctx: FileContext,
): boolean {
  const isShared = options.some(({ level, name }) => level === SOL.socket && name === SO_REUSEPORT);
  const memory = isShared ? memoryOf(ctx) : undefined;
  if (memory === undefined) return false;
  try {
    const socket = memory.long(memory.file(fd), 'file', 'private_data');
    const group = memory.long(memory.long(socket, 'socket', 'sk'), 'sock', 'sk_reuseport_cb');
    return group !== 0n && memory.long(group, 'sock_reuseport', 'prog') !== 0n;
  } catch (error) {
    if (error instanceof SysError) return false;
    throw error;
  }
}

function memoryOf(ctx: FileContext): KernelMemory | undefined {
  return ctx.shared('reusePortMemory', () => {
    const memory = KernelMemory.open();
    if (memory !== undefined) ctx.onRelease(() => memory[Symbol.dispose]());
    return memory;
  });
}
