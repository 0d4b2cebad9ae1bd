import { SOL, sys } from '@ferry/linux';
import type { Descriptor, FileContext } from './context.js';
import { askSocketMemory } from './socket-memory.js';
import { NetworkTable } from './socket-table.js';
import { TCP } from './tcp-state.js';

/** By what the segments of a TCP socket are signed, and those of its peers must be. */
export type SegmentKeys = 'TCP_MD5SIG' | 'TCP-AO';

// include/uapi/linux/tcp.h
const TCP_AO_INFO = 40;
const AO_INFO_BYTES = 48;

type Ask = (fd: number, level: number, name: number, value: Buffer, length: Buffer) => number;
const getsockopt: Ask = (...args) => sys('getsockopt', ...args);

/** What is told of a socket whose keys nobody sees. */
export const UNSEEN_KEYS =
  'keys of TCP_MD5SIG (if it has any: here the memory of the kernel cannot be read)';

/** The keys that a TCP socket has. No system call gives them all back, and of a socket without a port only the kernel's memory
 *  tells that there are any: undefined where that cannot be read (isMemoryClosed).
 *  @param state  of TCP
 *  @param few  sockets are looked at: then their memory is looked into, which takes no walk through a table of all */
export function segmentKeysOf(
  descriptor: Descriptor,
  { state, few }: { readonly state: number; readonly few: boolean },
  ctx: FileContext,
): SegmentKeys | undefined {
  const fd = descriptor.dup().number;
  if (hasAoKeys(fd)) return 'TCP-AO';
  const inMemory = few || state === TCP.close ? hasMd5Keys(fd, ctx) : undefined;
  const isSigned =
    inMemory ?? NetworkTable.of(descriptor, ctx).signed(state).has(Number(descriptor.stat.inode));
  return isSigned ? 'TCP_MD5SIG' : undefined;
}

/** TCP-AO (Linux 6.7, RFC 5925), in whatever state the socket is: net/ipv4/tcp_ao.c, getsockopt_ao_info. A kernel without
 *  it knows no such option.
 *  @param ask  for tests */
export function hasAoKeys(fd: number, ask = getsockopt): boolean {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(AO_INFO_BYTES);
  // What is handed in must be zero.
  return ask(fd, SOL.tcp, TCP_AO_INFO, Buffer.alloc(AO_INFO_BYTES), length) >= 0;
}

/** struct tcp_md5sig_info, include/net/tcp.h: it stays when its last key goes. */
function hasMd5Keys(fd: number, ctx: FileContext): boolean | undefined {
  return askSocketMemory(fd, ctx, (memory, socket) => {
    // A kernel without such keys has no such member.
    if (memory.types.offsetOf('tcp_sock', 'md5sig_info') === undefined) return false;
    const keys = memory.long(socket, 'tcp_sock', 'md5sig_info');
    return keys !== 0n && memory.long(keys, 'tcp_md5sig_info', 'head.first') !== 0n;
  });
}
