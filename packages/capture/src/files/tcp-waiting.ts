import type { InetSocket, InetWaiting } from '@ferry/image';
import { AF, type InetDiag } from '@ferry/linux';
import { refuse } from './common.js';
import type { Descriptor, FileContext } from './context.js';
import { isTreeSocket, NetworkTable } from './socket-table.js';
import type { TcpInfo } from './tcp-state.js';
import { UnacceptedReader, type UnacceptedTcp } from './unaccepted.js';

const IPPROTO_TCP = 6;
const CLOSE_WAIT = 8;

/** A connection that waits to be accepted: its end here, the other one, and what has come. */
interface Waiting {
  readonly child: InetDiag;
  readonly client: InetDiag | undefined;
  readonly queue: UnacceptedTcp | undefined;
}

/** A listening TCP socket, with the connections that wait to be accepted: their clients must be of the tree, to connect
 *  and send again, or have been of its network and be closed. */
export function captureListening(
  descriptor: Descriptor,
  { socket, info }: { socket: InetSocket; info: TcpInfo },
  ctx: FileContext,
): InetSocket | undefined {
  socket.backlog = info.backlog;
  if (info.waiting === 0) return socket;
  const waiting = connectionsOf(descriptor, { socket, count: info.waiting }, ctx);
  const isWhole = waiting.every((each) => isCarried(each, descriptor, ctx));
  if (!isWhole || waiting.length < info.waiting) {
    return refuse(descriptor, ctx, {
      code: 'socket.tcpPending',
      reason:
        `${info.waiting} connections wait to be accepted, some from outside the tree, or with ` +
        'data that cannot be read',
      remedy: 'try again once the program has accepted them',
    });
  }
  socket.pendingInodes = waiting.map(({ client }) => BigInt(client?.inode ?? 0));
  if (waiting.every(({ queue }) => queue !== undefined)) {
    socket.waiting = waiting.map(({ child, queue }) => describe(child, queue!));
  }
  return socket;
}

/** In the order in which they will be accepted, where that can be read. */
function connectionsOf(
  descriptor: Descriptor,
  { socket, count }: { socket: InetSocket; count: number },
  ctx: FileContext,
): Waiting[] {
  const all = NetworkTable.of(descriptor, ctx).inet(IPPROTO_TCP);
  const children = all.filter((entry) => entry.inode === 0 && isChildOf(entry, socket));
  const clientOf = (child: InetDiag) => all.find((entry) => isOtherEnd(entry, child));
  // The list above has given all of them their cookies.
  const queues = UnacceptedReader.of(ctx)?.tcp(descriptor.dup().number);
  const known = queues?.flatMap((queue) => {
    const child = children.find(({ cookie }) => cookie === queue.cookie);
    return child === undefined ? [] : [{ child, client: clientOf(child), queue }];
  });
  if (known !== undefined && known.length === count) return known;
  return children.map((child) => ({ child, client: clientOf(child), queue: undefined }));
}

function isCarried({ child, client, queue }: Waiting, one: Descriptor, ctx: FileContext): boolean {
  const isWhole = queue === undefined ? child.received === 0 : dataOf(queue) !== undefined;
  if (!isWhole) return false;
  if (client !== undefined && client.inode !== 0) return isTreeSocket(client.inode, one, ctx);
  // Its client has closed it, and the end has come, so all before it: it is nothing but what is read here.
  const wasHere = client !== undefined || isLoopback(child);
  return queue !== undefined && wasHere && child.state === CLOSE_WAIT;
}

function describe(child: InetDiag, queue: UnacceptedTcp): InetWaiting {
  return {
    data: dataOf(queue)!,
    receiveSequence: queue.receiveSequence,
    client: sockaddr(child.remoteAddress, child.remotePort),
    server: sockaddr(child.localAddress, child.localPort),
  };
}

/** The bytes to be read, of segments that may overlap; undefined when they are not all there. */
function dataOf({ buffers, isOdd, copiedSequence }: UnacceptedTcp): Buffer | undefined {
  if (isOdd) return undefined;
  const parts: Buffer[] = [];
  let next = copiedSequence;
  for (const { data, sequence } of buffers) {
    const skipped = (next - sequence) | 0;
    if (skipped < 0) return undefined;
    const part = data.subarray(skipped);
    parts.push(part);
    next = (next + part.length) >>> 0;
  }
  return Buffer.concat(parts);
}

function isChildOf(entry: InetDiag, listener: InetSocket): boolean {
  if (entry.localPort !== listener.localPort) return false;
  const isAny = listener.localAddress.every((byte) => byte === 0);
  return isAny || entry.localAddress.equals(listener.localAddress);
}

/** Addresses of both families compare equal when they are the same over IPv4. */
function isOtherEnd(entry: InetDiag, child: InetDiag): boolean {
  return (
    entry.cookie !== child.cookie &&
    entry.localPort === child.remotePort &&
    entry.remotePort === child.localPort &&
    plain(entry.localAddress).equals(plain(child.remoteAddress)) &&
    plain(entry.remoteAddress).equals(plain(child.localAddress))
  );
}

const LOOPBACK = Buffer.from('00000000000000000000000000000001', 'hex');

function isLoopback({ remoteAddress }: InetDiag): boolean {
  const address = plain(remoteAddress);
  return address.length === 4 ? address[0] === 127 : address.equals(LOOPBACK);
}

const MAPPED = Buffer.from('00000000000000000000ffff', 'hex');

/** An IPv4 address in 4 bytes where it is written as IPv6. */
function plain(address: Buffer): Buffer {
  const isMapped = address.length === 16 && address.compare(MAPPED, 0, 12, 0, 12) === 0;
  return isMapped ? address.subarray(12) : address;
}

/** struct sockaddr_in or sockaddr_in6. */
function sockaddr(written: Buffer, port: number): Buffer {
  const address = plain(written);
  const isIpv4 = address.length === 4;
  const raw = Buffer.alloc(isIpv4 ? 16 : 28);
  raw.writeUInt16LE(isIpv4 ? AF.inet : AF.inet6, 0);
  raw.writeUInt16BE(port, 2);
  address.copy(raw, isIpv4 ? 4 : 8);
  return raw;
}
