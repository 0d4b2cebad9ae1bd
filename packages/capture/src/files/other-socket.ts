import { AF } from '@ferry/linux';
import { refuse } from './common.js';
import type { FileCapture } from './context.js';
import { socketKind } from './socket-table.js';

interface Refusal {
  readonly code: string;
  readonly what: string;
  readonly remedy: string;
}

const REFUSALS: Record<number, Refusal> = {
  [AF.vsock]: {
    code: 'socket.vsock',
    what: 'a vsock socket, which belongs to a virtual machine',
    remedy: 'use TCP between guest and host',
  },
  38: {
    code: 'socket.alg',
    what: 'a socket of the kernel crypto API',
    remedy: 'have the program use a library instead (turn off AF_ALG, afalg engine)',
  },
  44: { code: 'socket.xdp', what: 'an XDP socket', remedy: 'turn XDP off in the program' },
};

const INET: Record<number, Refusal> = {
  132: { code: 'socket.sctp', what: 'an SCTP socket', remedy: 'use TCP' },
  33: { code: 'socket.dccp', what: 'a DCCP socket', remedy: 'use TCP or UDP' },
};

/** Sockets of every kind that nobody else takes: refused. */
export const otherSocketCapture: FileCapture = {
  matches: (descriptor) => socketKind(descriptor) !== undefined,
  capture(descriptor, ctx) {
    const { domain, protocol } = socketKind(descriptor)!;
    const refusal = isInternet(domain) ? INET[protocol] : REFUSALS[domain];
    const what = refusal?.what ?? 'a kind of socket';
    return refuse(descriptor, ctx, {
      code: refusal?.code ?? 'socket.unknown',
      reason: `it is ${what} that cannot be carried (family ${domain}, protocol ${protocol})`,
      remedy: refusal?.remedy ?? 'have it closed',
    });
  },
};

function isInternet(domain: number): boolean {
  return domain === AF.inet || domain === AF.inet6;
}
