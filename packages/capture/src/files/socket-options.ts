import { SOL } from '@ferry/linux';

/** An option that getsockopt(2) reads and setsockopt(2) writes in the same form. */
export interface CarriedOption {
  readonly level: number;
  readonly name: number;
  readonly size: number;
}

const TIMEVAL = 16;

function options(
  level: number,
  sizes: Record<number, number>,
  ...names: number[]
): CarriedOption[] {
  return names.map((name) => ({ level, name, size: sizes[name] ?? 4 }));
}

/** SOL_SOCKET, for every kind. SO_REUSEADDR .. SO_PASSRIGHTS by number: asm-generic/socket.h. Left out is what the kernel
 *  changes by itself (SO_INCOMING_CPU, SO_TXREHASH), what only reads, and what is carried apart (buffers, filters). */
const GENERIC = options(
  SOL.socket,
  { 13: 8, 20: TIMEVAL, 21: TIMEVAL, 47: 8, 37: 8 },
  ...[2, 15, 9, 10, 13, 12, 36, 5, 18, 20, 21, 29, 35, 37, 42, 44, 46, 47, 60],
);

/** SO_BROADCAST, SO_NO_CHECK, SO_RXQ_OVFL. */
const GENERIC_DATAGRAM = options(SOL.socket, {}, 6, 11, 40);

/** SO_PASSCRED, SO_PASSSEC, SO_PASSPIDFD, SO_PASSRIGHTS. */
const UNIX = options(SOL.socket, {}, 16, 34, 76, 83);

/** IP_TOS, IP_TTL, IP_MTU_DISCOVER, IP_RECVERR, IP_FREEBIND, IP_TRANSPARENT, IP_MINTTL, IP_BIND_ADDRESS_NO_PORT,
 *  IP_LOCAL_PORT_RANGE. */
const IP = options(SOL.ip, {}, 1, 2, 10, 11, 15, 19, 21, 24, 51);

/** IP_RECVOPTS, IP_RETOPTS, IP_PKTINFO, IP_RECVTTL, IP_RECVTOS, IP_RECVORIGDSTADDR, IP_MULTICAST_IF, _TTL, _LOOP, _ALL. */
const IP_DATAGRAM = options(SOL.ip, {}, 6, 7, 8, 12, 13, 20, 32, 33, 34, 49);

/** IPV6_UNICAST_HOPS, V6ONLY, MTU_DISCOVER, RECVERR, DONTFRAG, RECVTCLASS, TCLASS, AUTOFLOWLABEL, ADDR_PREFERENCES,
 *  MINHOPCOUNT, TRANSPARENT, FREEBIND, FLOWINFO_SEND. */
const IPV6 = options(SOL.ipv6, {}, 16, 26, 23, 25, 62, 66, 67, 70, 72, 73, 75, 78, 33);

/** IPV6_MULTICAST_IF, _HOPS, _LOOP, _ALL, RECVPKTINFO, RECVHOPLIMIT, RECVPATHMTU, RECVORIGDSTADDR. */
const IPV6_DATAGRAM = options(SOL.ipv6, {}, 17, 18, 19, 29, 49, 51, 60, 74);

/** TCP_NODELAY, MAXSEG, CORK, KEEPIDLE, KEEPINTVL, KEEPCNT, SYNCNT, LINGER2, DEFER_ACCEPT, WINDOW_CLAMP, CONGESTION,
 *  USER_TIMEOUT, FASTOPEN, NOTSENT_LOWAT, SAVE_SYN, FASTOPEN_CONNECT, FASTOPEN_NO_COOKIE, INQ,
 *  TX_DELAY, RTO_MAX_MS. */
const TCP = options(
  SOL.tcp,
  { 13: 16 },
  ...[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 18, 23, 25, 27, 30, 34, 36, 37, 44],
);

/** UDP_CORK, UDP_ENCAP, UDP_NO_CHECK6_TX, UDP_NO_CHECK6_RX, UDP_SEGMENT, UDP_GRO. */
const UDP = options(SOL.udp, {}, 1, 100, 101, 102, 103, 104);

const IPPROTO_UDP = 17;

/** The options of a kind of socket, in the order in which they are put back: IP_TOS sets SO_PRIORITY, so that the
 *  latter comes later. */
export function carriedOptions(kind: {
  domain: number;
  type: number;
  protocol: number;
}): CarriedOption[] {
  if (kind.domain === 1) return [...GENERIC, ...UNIX];
  const datagram = kind.protocol === IPPROTO_UDP;
  const list = datagram ? [...IP, ...IP_DATAGRAM] : [...IP];
  if (kind.domain === 10) list.push(...IPV6, ...(datagram ? IPV6_DATAGRAM : []));
  return [...list, ...(datagram ? [...UDP, ...GENERIC_DATAGRAM] : TCP), ...GENERIC];
}
