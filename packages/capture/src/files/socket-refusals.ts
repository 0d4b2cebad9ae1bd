import { refuse } from './common.js';
import type { Descriptor, FileContext } from './context.js';
import type { SegmentKeys } from './segment-keys.js';

/** What no kind of socket can have. Each returns undefined, as captures do after a blocker. */

export function refuseFilter(descriptor: Descriptor, ctx: FileContext): undefined {
  return refuse(descriptor, ctx, {
    code: 'socket.bpfFilter',
    reason: 'an eBPF program filters its packets, which the kernel does not give back',
    remedy: 'use a classic BPF filter (SO_ATTACH_FILTER), or none',
  });
}

export function refuseSigned(
  descriptor: Descriptor,
  keys: SegmentKeys,
  ctx: FileContext,
): undefined {
  if (keys === 'TCP_MD5SIG') {
    return refuse(descriptor, ctx, {
      code: 'socket.signed',
      reason:
        'it has keys that sign its segments (TCP_MD5SIG), which the kernel does not give back',
      remedy: 'let the program use none (BGP: no password for the neighbour), or close the socket',
    });
  }
  return refuse(descriptor, ctx, {
    code: 'socket.signedAo',
    reason: 'it has keys that sign its segments (TCP-AO), which are not carried',
    remedy: 'let the program use none (BGP: no key chain for the neighbour), or close the socket',
  });
}

export function refuseReusePort(descriptor: Descriptor, ctx: FileContext): undefined {
  return refuse(descriptor, ctx, {
    code: 'socket.reusePortProgram',
    reason:
      'a BPF program chooses among the sockets of its port (SO_ATTACH_REUSEPORT_CBPF, _EBPF), which the kernel does ' +
      'not give back',
    remedy: 'let the kernel choose by itself: turn the program off (SO_DETACH_REUSEPORT_BPF)',
  });
}

export function refuseUrgent(descriptor: Descriptor, ctx: FileContext): undefined {
  return refuse(descriptor, ctx, {
    code: 'socket.urgentData',
    reason: 'urgent data (MSG_OOB), or the place where it was, waits to be read',
    remedy: 'try again once the program has read it',
  });
}

export function refuseOtherNamespace(descriptor: Descriptor, ctx: FileContext): undefined {
  return refuse(descriptor, ctx, {
    code: 'socket.otherNamespace',
    reason: 'the socket belongs to another network namespace than its process',
    remedy: 'close it, or start the program in the network namespace it uses',
  });
}
