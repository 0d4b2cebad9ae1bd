import { SOL } from '@ferry/linux';

/** An option that getsockopt(2) reads and setsockopt(2) writes in the same form. */
export interface CarriedOption {
  readonly level: number;
  readonly name: number;
  readonly size: number;
}

const TIMEVAL = 16;
const HEADER_OPTIONS = 40;
const FASTOPEN_KEYS = 32;

function options(
  level: number,
  sizes: Record<number, number>,
  ...names: number[]
): CarriedOption[] {
  return names.map((name) => ({ level, name, size: sizes[name] ?? 4 }));
}

/** SOL_SOCKET, for every kind. SO_REUSEADDR .. SO_RCVPRIORITY by number: asm-generic/socket.h. SO_BROADCAST, SO_NO_CHECK,
 *  SO_RXQ_OVFL, SO_WIFI_STATUS, SO_NOFCS mean something for some kinds, but every kind keeps them. Left out is what the
 *  kernel changes by itself (SO_INCOMING_CPU, SO_TXREHASH), what only reads, and what is carried apart (buffers, filters). */
const GENERIC = options(
  SOL.socket,
  { 13: 8, 20: TIMEVAL, 21: TIMEVAL, 47: 8, 37: 8, 61: 8 },
  ...[2, 15, 9, 10, 13, 12, 36, 5, 18, 20, 21, 29, 35, 37, 42, 44, 45, 46, 47, 60, 61, 63, 64],
  ...[69, 70, 75, 82, 6, 11, 40, 41, 43],
);

/** SO_PASSCRED, SO_PASSSEC; of UNIX sockets SO_PASSPIDFD, SO_PASSRIGHTS too. Others took the first two before Linux 6.16. */
const CREDENTIALS = options(SOL.socket, {}, 16, 34);
const UNIX = options(SOL.socket, {}, 76, 83);

/** IP_TOS, IP_TTL, IP_OPTIONS, IP_MTU_DISCOVER, IP_RECVERR, IP_FREEBIND, IP_TRANSPARENT, IP_MINTTL,
 *  IP_BIND_ADDRESS_NO_PORT, IP_UNICAST_IF, IP_LOCAL_PORT_RANGE; then IP_RECVOPTS, IP_RETOPTS, IP_PKTINFO, IP_RECVTTL,
 *  IP_RECVTOS, IP_PASSSEC, IP_RECVORIGDSTADDR, IP_CHECKSUM, IP_RECVFRAGSIZE, IP_RECVERR_RFC4884, IP_MULTICAST_LOOP, _ALL,
 *  which say nothing to a stream, but are kept by it. */
const IP = options(
  SOL.ip,
  { 4: HEADER_OPTIONS },
  ...[1, 2, 4, 10, 11, 15, 19, 21, 24, 50, 51],
  ...[6, 7, 8, 12, 13, 18, 20, 23, 25, 26, 34, 49],
);

/** IP_MULTICAST_IF, _TTL */
const IP_DATAGRAM = options(SOL.ip, {}, 32, 33);

/** IPV6_UNICAST_HOPS, V6ONLY, MTU_DISCOVER, RECVERR, DONTFRAG, RECVTCLASS, TCLASS, AUTOFLOWLABEL, ADDR_PREFERENCES,
 *  MINHOPCOUNT, TRANSPARENT, UNICAST_IF, FREEBIND, FLOWINFO_SEND; IPV6_MULTICAST_LOOP, _ALL, RECVERR_RFC4884, RECVPKTINFO,
 *  RECVHOPLIMIT, RECVHOPOPTS, RECVRTHDR, RECVDSTOPTS, RECVPATHMTU, RECVORIGDSTADDR, RECVFRAGSIZE, FLOWINFO,
 *  ROUTER_ALERT_ISOLATE; the same as RFC 2292 had them. */
const IPV6 = options(
  SOL.ipv6,
  {},
  ...[16, 26, 23, 25, 62, 66, 67, 70, 72, 73, 75, 76, 78, 33],
  ...[19, 29, 31, 49, 51, 53, 56, 58, 60, 74, 77, 11, 30, 2, 3, 4, 5, 8],
);

/** IPV6_MULTICAST_IF, _HOPS; IPV6_HOPOPTS, RTHDRDSTOPTS, RTHDR, DSTOPTS. */
const IPV6_DATAGRAM = options(
  SOL.ipv6,
  { 54: HEADER_OPTIONS, 55: HEADER_OPTIONS, 57: HEADER_OPTIONS, 59: HEADER_OPTIONS },
  ...[17, 18, 54, 55, 57, 59],
);

/** TCP_NODELAY, MAXSEG, CORK, KEEPIDLE, KEEPINTVL, KEEPCNT, SYNCNT, LINGER2, DEFER_ACCEPT, WINDOW_CLAMP, CONGESTION,
 *  THIN_LINEAR_TIMEOUTS, USER_TIMEOUT, FASTOPEN, NOTSENT_LOWAT, SAVE_SYN, FASTOPEN_CONNECT, FASTOPEN_NO_COOKIE, INQ,
 *  TX_DELAY, RTO_MAX_MS, RTO_MIN_US, DELACK_MAX_US; FASTOPEN_KEY. */
const TCP = options(
  SOL.tcp,
  { 13: 16, 33: FASTOPEN_KEYS },
  ...[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 16, 18, 23, 25, 27, 30, 34, 36, 37, 44, 45, 46, 33],
);

/** UDP_CORK, UDP_ENCAP, UDP_NO_CHECK6_TX, UDP_NO_CHECK6_RX, UDP_SEGMENT, UDP_GRO. */
const UDP_NAMES = [1, 100, 101, 102, 103, 104];
const UDP = options(SOL.udp, {}, ...UDP_NAMES);

/** IP_HDRINCL, IP_ROUTER_ALERT, IP_NODEFRAG and ICMP_FILTER; IPV6_CHECKSUM (at SOL_RAW), ICMP6_FILTER and IPV6_HDRINCL. */
const RAW = [...options(SOL.ip, {}, 3, 5, 22), ...options(255, {}, 1)];
const RAW6 = [...options(255, {}, 7), ...options(58, { 1: 32 }, 1), ...options(SOL.ipv6, {}, 36)];

/** UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV. */
const UDP_LITE = options(136, {}, 10, 11, ...UDP_NAMES);

/** NETLINK_PKTINFO, BROADCAST_ERROR, NO_ENOBUFS, LISTEN_ALL_NSID, CAP_ACK, EXT_ACK, GET_STRICT_CHK. */
const NETLINK = options(270, {}, 3, 4, 5, 8, 10, 11, 12);

/** PACKET_AUXDATA, ORIGDEV, VERSION, RESERVE, LOSS, VNET_HDR, TIMESTAMP, FANOUT, TX_HAS_OFF, QDISC_BYPASS,
 *  IGNORE_OUTGOING, COPY_THRESH. */
const PACKET = options(263, {}, 8, 9, 10, 12, 14, 15, 17, 18, 19, 20, 23, 7);

const IPPROTO_UDP = 17;
const IPPROTO_UDPLITE = 136;
const SOCK_STREAM = 1;
const SOCK_RAW = 3;

/** The options of a kind of socket, in the order in which they are put back: IP_TOS sets SO_PRIORITY, so that the
 *  latter comes later. */
export function carriedOptions(kind: {
  domain: number;
  type: number;
  protocol: number;
}): CarriedOption[] {
  if (kind.domain === 1) return [...GENERIC, ...CREDENTIALS, ...UNIX];
  if (kind.domain === 16) return [...GENERIC, ...CREDENTIALS, ...NETLINK];
  if (kind.domain === 17) return [...GENERIC, ...CREDENTIALS, ...PACKET];
  const isStream = kind.type === SOCK_STREAM;
  const list = isStream ? [...IP] : [...IP, ...IP_DATAGRAM];
  if (kind.domain === 10) list.push(...IPV6, ...(isStream ? [] : IPV6_DATAGRAM));
  if (isStream) return [...list, ...TCP, ...GENERIC, ...CREDENTIALS];
  if (kind.type === SOCK_RAW) list.push(...(kind.domain === 10 ? RAW6 : RAW));
  if (kind.protocol === IPPROTO_UDP) list.push(...UDP);
  if (kind.protocol === IPPROTO_UDPLITE) list.push(...UDP_LITE);
  return [...list, ...GENERIC, ...CREDENTIALS];
}
