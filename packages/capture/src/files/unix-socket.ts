import { dirname } from 'node:path';
import type { FileObject, UnixPath, UnixSocket } from '@ferry/image';
import {
  AF,
  OwnedFd,
  POLL,
  peerAddress,
  pollNow,
  readLink,
  SO,
  SOCK,
  SOL,
  socketOption,
  sys,
  tryReadProc,
  type UnixDiag,
  unixName,
} from '@ferry/linux';
import { externalKind, refuse, standardFdOf } from './common.js';
import type { Descriptor, FileCapture, FileContext } from './context.js';
import { coveredFile } from './covered-file.js';
import { mountPrefix } from './mount-prefix.js';
import { statPath } from './read-descriptors.js';
import { readPacketFilter } from './socket-probe.js';
import { refuseFilter, refuseOtherNamespace, refuseUrgent } from './socket-refusals.js';
import { isTreeSocket, NetworkTable, socketKind } from './socket-table.js';
import { UnacceptedReader } from './unaccepted.js';
import { captureUnixQueue, hasInFlight, parseCredentials } from './unix-queue.js';
import { isCarried, waitingAt, waitingOf } from './unix-waiting.js';

const ESTABLISHED = 1;
const LISTENING = 10;
const POLLPRI = 2;
const SHUTDOWN_BOTH = 3;
const S_IFMT = 0o170000;
const S_IFSOCK = 0o140000;

/** UNIX sockets of every type. What a socket is connected to must be in the tree, or be a datagram socket with a name,
 *  or lead to whoever started the tree. */
export const unixSocketCapture: FileCapture = {
  matches: (descriptor) => socketKind(descriptor)?.domain === AF.unix,
  capture(descriptor, ctx) {
    const table = NetworkTable.of(descriptor, ctx);
    const entry = table.unix.get(Number(descriptor.stat.inode));
    if (entry === undefined) return elsewhere(descriptor, ctx);
    const peer = peerOf(descriptor, entry, table, ctx);
    if (peer === 'external') return external(descriptor, ctx);
    if (peer === undefined || !canListen(descriptor, entry, ctx)) return undefined;
    const value = describe(descriptor, entry, peer, ctx);
    return value && { $case: 'unix', value };
  },
};

type Peer = Pick<
  UnixSocket,
  'peerInode' | 'peerClosed' | 'peerReset' | 'peerAddress' | 'pendingOnInode'
>;

const NO_PEER: Peer = {
  peerInode: 0n,
  peerClosed: false,
  peerReset: false,
  peerAddress: Buffer.alloc(0),
  pendingOnInode: 0n,
};

/** What the socket is connected to. 'external': whoever started the tree; undefined after a blocker. */
function peerOf(
  descriptor: Descriptor,
  entry: UnixDiag,
  table: NetworkTable,
  ctx: FileContext,
): Peer | 'external' | undefined {
  if (entry.peer === undefined) return NO_PEER;
  if (entry.peer !== 0) return livePeer(descriptor, entry, entry.peer, ctx);
  const listener = table.waiting.get(entry.inode);
  if (listener === undefined) {
    const isStream = entry.type !== SOCK.dgram;
    const isReset = isStream && (pollNow(descriptor.dup().number, 0) & POLL.error) !== 0;
    const name = unixName(peerAddress(descriptor.dup().number)?.subarray(2) ?? Buffer.alloc(0));
    return { ...NO_PEER, peerClosed: true, peerReset: isReset, peerAddress: name };
  }
  if (!isTreeSocket(listener.inode, descriptor, ctx)) return outside(descriptor, ctx);
  if (!ctx.scanning && entry.sent > 0 && !isCarried(waitingAt(listener, descriptor, ctx))) {
    return refuse(descriptor, ctx, {
      code: 'socket.unixPendingData',
      reason:
        'it has sent data on a connection that nobody has accepted yet, where the data ' +
        'cannot be read, or descriptors',
      remedy: 'try again once the server has accepted the connection',
    });
  }
  return { ...NO_PEER, pendingOnInode: BigInt(listener.inode) };
}

function livePeer(
  descriptor: Descriptor,
  entry: UnixDiag,
  peer: number,
  ctx: FileContext,
): Peer | 'external' | undefined {
  if (isTreeSocket(peer, descriptor, ctx)) return { ...NO_PEER, peerInode: BigInt(peer) };
  const { device, inode } = descriptor.stat;
  const isStandard = standardFdOf(ctx.idsOfInode(device, inode), ctx) !== undefined;
  if (isStandard || ctx.externalInodes.includes(inode)) return 'external';
  const address = peerAddress(descriptor.dup().number);
  const name = unixName(address?.subarray(2) ?? Buffer.alloc(0));
  // As for a log daemon: the name is all that the sender knows of it.
  if (entry.type === SOCK.dgram && name.length > 0) return { ...NO_PEER, peerAddress: name };
  return outside(descriptor, ctx);
}

function external(descriptor: Descriptor, ctx: FileContext): FileObject['kind'] {
  const { device, inode } = descriptor.stat;
  const standardFd = standardFdOf(ctx.idsOfInode(device, inode), ctx);
  return standardFd === undefined
    ? outside(descriptor, ctx)
    : externalKind(descriptor, standardFd, ctx);
}

function outside(descriptor: Descriptor, ctx: FileContext): undefined {
  // The other end may be in flight in a queue of the tree, which a scan does not look into.
  if (ctx.scanning && ctx.descriptions.some((each) => hasInFlight(each.descriptor))) {
    return undefined;
  }
  const raw = socketOption(descriptor.dup().number, SOL.socket, SO.peerCredentials, 12);
  const pid = raw?.readInt32LE(0) ?? 0;
  const comm = tryReadProc(`/proc/${pid}/comm`)?.trim();
  const whose = comm === undefined ? 'a process' : `process ${pid} (${comm}),`;
  return refuse(descriptor, ctx, {
    code: 'socket.unixPeerOutside',
    reason: `it is a UNIX socket connected to ${whose} outside the tree`,
    remedy: 'close the connection, or dump at a common ancestor of both',
  });
}

function elsewhere(descriptor: Descriptor, ctx: FileContext): undefined {
  return ctx.scanning ? undefined : refuseOtherNamespace(descriptor, ctx);
}

/** Clients that wait in a listening socket's queue must be of the tree, to be made again. */
function canListen(descriptor: Descriptor, entry: UnixDiag, ctx: FileContext): boolean {
  if (ctx.scanning) {
    if (entry.pending.length > 0) UnacceptedReader.prepare();
    return true;
  }
  const foreign = entry.pending.filter((client) =>
    client === 0
      ? !isCarried(waitingAt(entry, descriptor, ctx))
      : !isTreeSocket(client, descriptor, ctx),
  );
  if (foreign.length === 0) return true;
  refuse(descriptor, ctx, {
    code: 'socket.unixPending',
    reason:
      `${foreign.length} connections from outside the tree, or closed by their clients, ` +
      'wait to be accepted',
    remedy: 'try again once the server has accepted them',
  });
  return false;
}

function describe(
  descriptor: Descriptor,
  entry: UnixDiag,
  peer: Peer,
  ctx: FileContext,
): UnixSocket | undefined {
  const kind = socketKind(descriptor)!;
  const fd = descriptor.dup().number;
  const facts = NetworkTable.of(descriptor, ctx).probe(kind).read(fd);
  if (facts.filterLength === undefined) return refuseFilter(descriptor, ctx);
  const isListening = entry.state === LISTENING;
  const isConnected = entry.state === ESTABLISHED;
  const isDatagram = entry.type === SOCK.dgram;
  if (!ctx.scanning && isConnected && entry.type === SOCK.stream) {
    if ((pollNow(fd, POLLPRI) & POLLPRI) !== 0) return refuseUrgent(descriptor, ctx);
  }
  const hasQueue = !ctx.scanning && !isListening && (isDatagram || facts.readable > 0);
  return {
    inode: BigInt(entry.inode),
    type: entry.type,
    address: entry.name,
    state: entry.state,
    ...peer,
    backlog: isListening ? entry.sent : 0,
    shutdown: peer.peerClosed && entry.type !== SOCK.dgram ? SHUTDOWN_BOTH : entry.shutdown,
    options: facts.options,
    receiveQueue: hasQueue ? captureUnixQueue(descriptor, { isDatagram, facts }, ctx) : [],
    pendingInodes: entry.pending.map(BigInt),
    waiting: ctx.scanning ? [] : waitingOf(entry, descriptor, ctx),
    peerCredentials:
      facts.peerCredentials !== undefined && (isListening || isConnected)
        ? parseCredentials(facts.peerCredentials, ctx)
        : undefined,
    path: pathOf(descriptor, entry, ctx),
    buffers: facts.buffers,
    packetFilter: readPacketFilter(fd, facts),
  };
}

/** The file that a socket's path names, as its process sees it. The kernel gives the file itself (SIOCUNIXFILE), and so
 *  the directory that a relative path belonged to, and where the file was moved. */
function pathOf(descriptor: Descriptor, entry: UnixDiag, ctx: FileContext): UnixPath | undefined {
  const { name, fileInode } = entry;
  if (name.length === 0 || name[0] === 0) return undefined;
  const text = name.toString('utf8');
  const { process } = descriptor;
  const bound = boundPath(descriptor);
  const isAbsolute = text.startsWith('/');
  const directory = isAbsolute
    ? ''
    : (directoryOf(bound, text) ?? readLink(`/proc/${process.hostPid}/cwd`));
  const full = isAbsolute ? text : `${directory}/${text}`;
  const prefix = mountPrefix({ process, info: '' }, ctx);
  const ownFile = (path: string) => {
    const there = statPath(prefix + path);
    const isOwn =
      there !== undefined &&
      (there.mode & S_IFMT) === S_IFSOCK &&
      Number(BigInt.asUintN(32, there.inode)) === fileInode;
    return isOwn ? there : undefined;
  };
  const atName = ownFile(full);
  const isFree = statPath(prefix + full) === undefined;
  // Datagrams that wait are sent again by name.
  const canMove = atName === undefined && isFree && entry.type !== SOCK.dgram;
  const elsewhere = canMove && bound !== undefined && ownFile(bound);
  const hidden =
    atName === undefined && isAbsolute
      ? coveredName(descriptor, { full, fileInode }, ctx)
      : undefined;
  const own = atName ?? (elsewhere || undefined) ?? hidden?.stat;
  return {
    present: own !== undefined,
    mode: own === undefined ? 0 : own.mode & 0o7777,
    uid: own?.uid ?? 0,
    gid: own?.gid ?? 0,
    directory,
    renamedTo: elsewhere ? bound! : '',
    covers: [...(hidden?.covers ?? [])],
  };
}

const SIOCUNIXFILE = 0x89e0;

/** The file of a bound socket below mounts that cover it since. */
function coveredName(
  descriptor: Descriptor,
  { full, fileInode }: { full: string; fileInode: number | undefined },
  ctx: FileContext,
) {
  const fd = sys('ioctl', descriptor.dup().number, SIOCUNIXFILE, 0);
  if (fd < 0) return undefined;
  using file = new OwnedFd(fd);
  const info = tryReadProc(`/proc/self/fdinfo/${file.number}`) ?? '';
  const found = coveredFile({ process: descriptor.process, info }, full, ctx);
  const isOwn = found !== undefined && Number(BigInt.asUintN(32, found.stat.inode)) === fileInode;
  return isOwn && found.covers.length > 0 ? found : undefined;
}

/** Where the file of a bound socket is now, or was when it was removed; undefined when the kernel does not tell (it asks
 *  for CAP_NET_ADMIN). */
function boundPath(descriptor: Descriptor): string | undefined {
  const fd = sys('ioctl', descriptor.dup().number, SIOCUNIXFILE, 0);
  if (fd < 0) return undefined;
  using file = new OwnedFd(fd);
  return readLink(`/proc/self/fd/${file.number}`).replace(/ \(deleted\)$/, '');
}

/** The directory from which a relative path leads to where the file is; that of the file when it has another name. */
function directoryOf(bound: string | undefined, text: string): string | undefined {
  if (bound === undefined) return undefined;
  const own = text.replace(/^(\.\/)+/, '');
  if (bound.endsWith(`/${own}`)) return bound.slice(0, -own.length - 1) || '/';
  return own.includes('/') ? undefined : dirname(bound);
}
