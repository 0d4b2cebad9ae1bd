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
  [AF.netlink]: {
    code: 'socket.netlink',
    what: 'a netlink socket',
    remedy: 'have the program close it when it is not watching the network',
  },
  [AF.packet]: {
    code: 'socket.packet',
    what: 'a packet socket',
    remedy: 'stop capturing packets in the container',
  },
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
  1: {
    code: 'socket.ping',
    what: 'an ICMP socket',
    remedy: 'stop pinging, or have the program close the socket in between',
  },
  132: { code: 'socket.sctp', what: 'an SCTP socket', remedy: 'use TCP' },
  136: { code: 'socket.udplite', what: 'a UDP-Lite socket', remedy: 'use UDP' },
};

const SOCK_RAW = 3;

/** Sockets of every kind that nobody else takes: refused. */
export const otherSocketCapture: FileCapture = {
  matches: (descriptor) => socketKind(descriptor) !== undefined,
  capture(descriptor, ctx) {
    const { domain, type, protocol } = socketKind(descriptor)!;
    const refusal = isInternet(domain) ? INET[protocol] : REFUSALS[domain];
    const isRaw = isInternet(domain) && type === SOCK_RAW;
    return refuse(descriptor, ctx, {
      code: isRaw ? 'socket.raw' : (refusal?.code ?? 'socket.unknown'),
      reason: `it is ${whatOf(refusal, isRaw)} (family ${domain}, protocol ${protocol})`,
      remedy: isRaw ? 'have the program close it' : (refusal?.remedy ?? 'have it closed'),
    });
  },
};

function isInternet(domain: number): boolean {
  return domain === AF.inet || domain === AF.inet6;
}

function whatOf(refusal: Refusal | undefined, isRaw: boolean): string {
  if (isRaw) return 'a raw IP socket, which cannot be carried';
  return `${refusal?.what ?? 'a kind of socket'} that cannot be carried`;
}
