import {
  AF,
  call,
  ERRNO,
  type InetDiag,
  inNetworkNamespace,
  listInetSockets,
  listPacketSockets,
  listUnixSockets,
  OwnedFd,
  type PacketDiag,
  readLink,
  readProc,
  SO,
  SOCK,
  SOL,
  SyscallBatch,
  sys,
  sysError,
  type UnixDiag,
} from '@ferry/linux';
import { typeOf } from './common.js';
import type { Descriptor, FileContext } from './context.js';
import { SocketProbe } from './socket-probe.js';

/** What a socket is. */
export interface SocketKind {
  readonly domain: number;
  readonly type: number;
  readonly protocol: number;
}

const ourPid = process.pid;
const kinds = new WeakMap<Descriptor, SocketKind>();

class KindLook {
  readonly domain = Buffer.alloc(4);
  readonly type = Buffer.alloc(4);
  readonly protocol = Buffer.alloc(4);
  readonly batch = new SyscallBatch(
    [
      { name: SO.domain, value: this.domain },
      { name: SO.type, value: this.type },
      { name: SO.protocol, value: this.protocol },
    ].map(({ name, value }) => ({
      name: 'getsockopt' as const,
      args: [SOL.socket, name, value, Buffer.of(4, 0, 0, 0)],
    })),
  );
}

const look = new KindLook();

/** The kind of socket behind a descriptor; undefined when it is none, or a path to one. */
export function socketKind(descriptor: Descriptor): SocketKind | undefined {
  if (typeOf(descriptor) !== 'socket' || !descriptor.link.startsWith('socket:[')) return undefined;
  let kind = kinds.get(descriptor);
  if (kind === undefined) {
    const fd = descriptor.dup().number;
    look.batch.run(fd);
    kind = {
      domain: look.domain.readInt32LE(0),
      type: look.type.readInt32LE(0),
      protocol: look.protocol.readInt32LE(0),
    };
    kinds.set(descriptor, kind);
  }
  return kind;
}

/** Has TCP sockets looked at while something else is done, in the order in which they will be read. */
export function readSocketsAhead(descriptors: readonly Descriptor[], ctx: FileContext): void {
  // While they are scanned, they may vanish.
  if (ctx.scanning) return;
  const groups = new Map<SocketProbe, number[]>();
  for (const descriptor of descriptors) {
    const kind = socketKind(descriptor);
    if (kind?.protocol !== IPPROTO_TCP || kind.type !== SOCK.stream) continue;
    const probe = NetworkTable.of(descriptor, ctx).probe(kind);
    const fds = groups.get(probe) ?? [];
    fds.push(descriptor.dup().number);
    groups.set(probe, fds);
  }
  for (const [probe, fds] of groups) probe.readAhead(fds);
}

/** Whether a socket belongs to the tree. Inode numbers are unique among all sockets of a host; `one` is any of them. */
export function isTreeSocket(inode: number, one: Descriptor, ctx: FileContext): boolean {
  return ctx.idsOfInode(one.stat.device, BigInt(inode)).length > 0;
}

/** What the kernel lists of a network namespace, each list asked for once a capture. */
export class NetworkTable {
  readonly #where: number | string;
  readonly #probes = new Map<string, SocketProbe>();
  readonly #foreign = new Map<string, boolean>();
  #unix: Map<number, UnixDiag> | undefined;
  #waiting: Map<number, UnixDiag> | undefined;
  #packet: Map<number, PacketDiag> | undefined;
  readonly #inet = new Map<number, InetDiag[]>();
  readonly #signed = new Map<number, ReadonlySet<number>>();

  readonly #onRelease: FileContext['onRelease'];

  private constructor(where: number | string, ctx: FileContext) {
    this.#where = where;
    this.#onRelease = (action) => ctx.onRelease(action);
  }

  /** The table of the network namespace that a socket belongs to. */
  static of(descriptor: Descriptor, ctx: FileContext): NetworkTable {
    const network = ctx.networks.of(descriptor);
    if (network !== undefined) {
      return ctx.shared(`network:${network.link}`, () => new NetworkTable(network.path, ctx));
    }
    const { process } = descriptor;
    // What is in flight was taken into this process; it belongs to the tree's namespace.
    const hostPid = process.hostPid === ourPid ? ctx.processes[0]!.hostPid : process.hostPid;
    const namespace = ctx.shared(`networkOf:${hostPid}`, () => readLink(`/proc/${hostPid}/ns/net`));
    return ctx.shared(`network:${namespace}`, () => new NetworkTable(hostPid, ctx));
  }

  /** What looks at sockets of a kind.
   *  @throws SysError when no such socket can be made */
  probe(kind: SocketKind): SocketProbe {
    const key = `${kind.domain}/${kind.type}/${kind.protocol}`;
    let probe = this.#probes.get(key);
    if (probe === undefined) {
      using fresh = inNetworkNamespace(this.#where, () => freshSocket(kind));
      probe = SocketProbe.borrow(fresh.number, kind, this.#onRelease);
      this.#probes.set(key, probe);
    }
    return probe;
  }

  /** Whether the hosts of this network have not the address of a sockaddr. */
  isForeignAddress(family: number, sockaddr: Buffer): boolean {
    const address = Buffer.from(sockaddr);
    address.writeUInt16BE(0, 2);
    const key = address.toString('latin1');
    let isForeign = this.#foreign.get(key);
    if (isForeign === undefined) {
      using socket = inNetworkNamespace(
        this.#where,
        () => new OwnedFd(call('socket', family, SOCK.dgram | SOCK.cloexec, 0)),
      );
      const bound = sys('bind', socket.number, address, family === AF.inet ? 16 : 28);
      isForeign = bound === -ERRNO.EADDRNOTAVAIL;
      this.#foreign.set(key, isForeign);
    }
    return isForeign;
  }

  /** UNIX sockets by inode. */
  get unix(): Map<number, UnixDiag> {
    this.#unix ??= new Map(
      inNetworkNamespace(this.#where, listUnixSockets).map((entry) => [entry.inode, entry]),
    );
    return this.#unix;
  }

  /** Packet sockets by inode; without the kernel's module for that, none. */
  get packet(): Map<number, PacketDiag> {
    this.#packet ??= new Map(
      inNetworkNamespace(this.#where, packetSockets).map((entry) => [entry.inode, entry]),
    );
    return this.#packet;
  }

  /** The listening UNIX socket that has not accepted a client yet, by the client's inode. */
  get waiting(): Map<number, UnixDiag> {
    if (this.#waiting === undefined) {
      this.#waiting = new Map();
      for (const listener of this.unix.values()) {
        for (const client of listener.pending) this.#waiting.set(client, listener);
      }
    }
    return this.#waiting;
  }

  /** Inodes of the TCP sockets that have keys of TCP_MD5SIG and are in such a state: of those that listen, or are closed and
   *  have a port (Linux 6.8), or of all others. That takes a walk through a table of all networks; the one of those that
   *  listen is short. */
  signed(state: number): ReadonlySet<number> {
    const states = [LISTEN, CLOSED].find((mask) => (mask & (1 << state)) !== 0) ?? OPEN_STATES;
    let found = this.#signed.get(states);
    if (found === undefined) {
      const list = inNetworkNamespace(this.#where, () => signedSockets(states));
      found = new Set(list.map(({ inode }) => inode));
      this.#signed.set(states, found);
    }
    return found;
  }

  /** Every TCP (6), UDP (17) or UDP-Lite (136) socket, of both families, but those that listen or are closed. */
  inet(protocol: number): InetDiag[] {
    let list = this.#inet.get(protocol);
    if (list === undefined) {
      const states = protocol === 6 ? OPEN_STATES : 0xfff;
      list = inNetworkNamespace(this.#where, () =>
        [2, 10].flatMap((family) => listInetSockets({ family, protocol, states })),
      );
      this.#inet.set(protocol, list);
    }
    return list;
  }
}

function packetSockets(): PacketDiag[] {
  try {
    return listPacketSockets();
  } catch {
    return [];
  }
}

/** Without the kernel's module for that, none. */
function signedSockets(states: number): InetDiag[] {
  const kind = { protocol: IPPROTO_TCP, states, withKeys: true };
  try {
    return [AF.inet, AF.inet6]
      .flatMap((family) => listInetSockets({ family, ...kind }))
      .filter(({ hasKeys }) => hasKeys);
  } catch {
    return [];
  }
}

const IPPROTO_TCP = 6;

/** ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING: include/net/tcp_states.h. */
const OPEN_STATES = [1, 2, 4, 5, 8, 9, 11].reduce((mask, state) => mask | (1 << state), 0);

/** CLOSE, and BOUND_INACTIVE (Linux 6.8). */
const CLOSED = (1 << 7) | (1 << 13);
const LISTEN = 1 << 10;

/** ICMP sockets for everybody are only for some groups (icmp(7)): one of them makes it. */
function freshSocket({ domain, type, protocol }: SocketKind): OwnedFd {
  const make = () => sys('socket', domain, type | SOCK.cloexec, protocol);
  const fd = make();
  if (fd !== -ERRNO.EACCES) {
    return new OwnedFd(fd >= 0 ? fd : call('socket', domain, type | SOCK.cloexec, protocol));
  }
  const group = Number.parseInt(readProc('/proc/sys/net/ipv4/ping_group_range'), 10);
  const own = process.getegid?.() ?? 0;
  call('setresgid', -1, group, -1);
  const made = make();
  call('setresgid', -1, own, -1);
  if (made < 0) throw sysError('socket', -made);
  return new OwnedFd(made);
}
