import { SOL } from '@ferry/linux';
import type { FileContext } from './context.js';
import { askSocketMemory } from './socket-memory.js';
import type { SocketFacts } from './socket-probe.js';

const SO_REUSEPORT = 15;

/** Whether a BPF program chooses among the sockets that share its port (struct sock_reuseport, include/net/sock_reuseport.h).
 *  No system call tells, so that it is read where the kernel has it: false where that cannot be. For scans.
 *  @param fd  a duplicate of an IP socket */
export function hasReusePortProgram(
  fd: number,
  { options }: Pick<SocketFacts, 'options'>,
  ctx: FileContext,
): boolean {
  const isShared = options.some(({ level, name }) => level === SOL.socket && name === SO_REUSEPORT);
  if (!isShared) return false;
  const found = askSocketMemory(fd, ctx, (memory, socket) => {
    const group = memory.long(socket, 'sock', 'sk_reuseport_cb');
    return group !== 0n && memory.long(group, 'sock_reuseport', 'prog') !== 0n;
  });
  return found ?? false;
}
