import type { UnixCredentials, UnixMessage } from '@ferry/image';
import {
  call,
  ioctlInt,
  OwnedFd,
  POLL,
  pollNow,
  type ReceivedMessage,
  SO,
  SOCK,
  SOL,
  socketOption,
  unixName,
} from '@ferry/linux';
import type { Descriptor, FileContext } from './context.js';
import { DescriptorReader } from './read-descriptors.js';
import type { SocketFacts } from './socket-probe.js';
import { closeAll, peekConnected, peekDatagrams, rightsOf, withOption } from './socket-queue.js';
import { socketKind } from './socket-table.js';

const SIOCINQ = 0x541b;
const SO_ACCEPTCONN = 30;
const SCM_CREDENTIALS = 2;
const OVERFLOW_ID = 65534;
const AF_UNIX_NAME = 2;

/** What waits in a UNIX socket to be received; nothing is taken. */
export function captureUnixQueue(
  descriptor: Descriptor,
  { isDatagram, facts }: { isDatagram: boolean; facts: SocketFacts },
  ctx: FileContext,
): UnixMessage[] {
  const fd = descriptor.dup().number;
  if (isDatagram && (pollNow(fd, POLL.in) & POLL.in) === 0) return [];
  const total = facts.readable;
  // Credentials are shown to receivers with SO_PASSCRED only.
  const passCredentials = { level: SOL.socket, name: SO.passCredentials };
  const messages = withOption(fd, passCredentials, () =>
    isDatagram ? peekDatagrams(fd) : peekConnected(fd, total),
  );
  return messages.map((message) => ({
    data: message.data,
    fileIds: adoptRights(descriptor, message, ctx),
    sourceAddress: unixName(message.name.subarray(AF_UNIX_NAME)),
    credentials: credentialsOf(message, ctx),
  }));
}

/** Whether descriptors wait in a socket's queue: fdinfo tells (Linux 5.12). */
export function hasInFlight({ info, link }: Pick<Descriptor, 'info' | 'link'>): boolean {
  return link.startsWith('socket:[') && /^scm_fds: *[1-9]/m.test(info);
}

/** Takes up what is in flight in a socket's queue, before anything is captured: other sockets may be connected to it. */
export function adoptInFlight(descriptor: Descriptor, ctx: FileContext): void {
  if (!hasInFlight(descriptor)) return;
  const fd = descriptor.dup().number;
  // A listening socket counts what waits on connections that nobody has accepted: it has no queue of its own.
  if ((socketOption(fd, SOL.socket, SO_ACCEPTCONN, 4)?.readInt32LE(0) ?? 0) !== 0) return;
  const kind = socketKind(descriptor);
  const messages =
    kind?.type === SOCK.dgram ? peekDatagrams(fd) : peekConnected(fd, ioctlInt(fd, SIOCINQ));
  for (const message of messages) adoptRights(descriptor, message, ctx);
}

/** Descriptions in flight: known ones are recognised, others become file objects of their own. */
function adoptRights(carrier: Descriptor, message: ReceivedMessage, ctx: FileContext): number[] {
  const fds = rightsOf(message);
  if (fds.length === 0) return [];
  const reader = ctx.shared('inFlight', () => {
    const made = new DescriptorReader();
    ctx.onRelease(() => made[Symbol.dispose]());
    return made;
  });
  ctx.onRelease(() => closeAll(fds));
  const { pid, command } = carrier.process;
  return fds.flatMap((fd) => {
    const mine = reader.read({ pid, hostPid: process.pid, command }, fd);
    return mine === undefined ? [] : [ctx.adopt({ ...mine, dup: () => duplicate(fd, ctx) })];
  });
}

function duplicate(fd: number, ctx: FileContext): OwnedFd {
  return ctx.shared(`inFlight:${fd}`, () => {
    const F_DUPFD_CLOEXEC = 1030;
    const made = new OwnedFd(call('fcntl', fd, F_DUPFD_CLOEXEC, 3));
    ctx.onRelease(() => made[Symbol.dispose]());
    return made;
  });
}

/** SCM_CREDENTIALS, when the sender's were recorded: they are if either side asked for them at the time. */
function credentialsOf(message: ReceivedMessage, ctx: FileContext): UnixCredentials | undefined {
  const found = message.control.find(
    ({ level, type }) => level === SOL.socket && type === SCM_CREDENTIALS,
  );
  if (found === undefined) return undefined;
  const credentials = parseCredentials(found.data, ctx);
  return credentials.pid === 0 && credentials.uid === OVERFLOW_ID ? undefined : credentials;
}

/** struct ucred, its pid as the tree's PID namespace numbers it; 0 when the process is gone or outside. */
export function parseCredentials(raw: Buffer, ctx: FileContext): UnixCredentials {
  const hostPid = raw.readInt32LE(0);
  return {
    pid: hostPid === 0 ? 0 : innerPid(hostPid, ctx),
    uid: raw.readUInt32LE(4),
    gid: raw.readUInt32LE(8),
  };
}

function innerPid(hostPid: number, ctx: FileContext): number {
  return ctx.processes.find((process) => process.hostPid === hostPid)?.pid ?? 0;
}
