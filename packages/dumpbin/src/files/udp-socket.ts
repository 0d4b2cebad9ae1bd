import type { InetSocket, Membership } from '@ferry/image';
import type { ProgramBuilder } from '../program.js';
import { AF, plain } from './inet-address.js';
import { udpPacket } from './inet-packets.js';
import { emitRawPacket } from './inet-raw.js';
import { emitRoom, SOL } from './socket-options.js';

const MCAST_JOIN_GROUP = 42;
const MCAST_MSFILTER = 48;
const MCAST_EXCLUDE = 0;
const MCAST_INCLUDE = 1;
const SOCKADDR_STORAGE = 128;
const SHUT_RD = 0;
const SHUT_WR = 1;
const SHUT_RDWR = 2;
const BOTH = 3;
const READ = 1;
const LOOPBACK4 = Uint8Array.of(127, 0, 0, 1);
const LOOPBACK6 = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1);

interface Target {
  readonly fd: number;
  readonly name: string;
}

/** Datagrams that were not read yet arrive again, from those who had sent them. */
export function emitDatagramQueue(b: ProgramBuilder, socket: InetSocket, target: Target): void {
  const { receiveQueue, localPort, protocol } = socket;
  if (receiveQueue.length === 0) return;
  emitRoom(b, target.fd, receiveQueue, 'receive');
  for (const { data, source } of receiveQueue) {
    const from = sourceOf(Buffer.from(source));
    const to = { address: destination(socket, from.address.length), port: localPort };
    emitRawPacket(b, udpPacket(from, to, data, protocol), to, target.name);
  }
}

function sourceOf(raw: Buffer): { address: Uint8Array; port: number } {
  const address = raw.readUInt16LE(0) === AF.inet ? raw.subarray(4, 8) : raw.subarray(8, 24);
  return { address: plain(address), port: raw.readUInt16BE(2) };
}

/** A socket that is bound to every address gets them over loopback. */
function destination(socket: InetSocket, length: number): Uint8Array {
  const address = plain(socket.localAddress);
  const isAny = address.every((byte) => byte === 0) || address.length !== length;
  return isAny ? (length === 4 ? LOOPBACK4 : LOOPBACK6) : address;
}

/** struct group_req: interface, then the group as a sockaddr. */
export function emitMemberships(b: ProgramBuilder, socket: InetSocket, target: Target): void {
  for (const membership of socket.memberships) {
    const { group, interfaceIndex } = membership;
    const isIpv4 = group.length === 4;
    const request = Buffer.alloc(136);
    request.writeUInt32LE(interfaceIndex, 0);
    request.writeUInt16LE(isIpv4 ? AF.inet : AF.inet6, 8);
    request.set(group, isIpv4 ? 12 : 16);
    const level = isIpv4 ? SOL.ip : SOL.ipv6;
    const at = b.bytes(request);
    const step = `${target.name}: join multicast group ${Array.from(group).join('.')}`;
    b.sys('setsockopt', [target.fd, level, MCAST_JOIN_GROUP, at, request.length], step);
    if (membership.sources.length === 0 && !membership.onlySources) continue;
    const filter = sourceFilter(request, membership);
    const args = [target.fd, level, MCAST_MSFILTER, b.bytes(filter), filter.length];
    b.sys('setsockopt', args, `${step}: senders`);
  }
}

/** struct group_filter: interface and group as to join it, mode, number of sources, their addresses. */
function sourceFilter(request: Buffer, { group, sources, onlySources }: Membership): Buffer {
  const size = group.length;
  const count = sources.length / size;
  const filter = Buffer.alloc(144 + count * SOCKADDR_STORAGE);
  request.copy(filter, 0);
  filter.writeUInt32LE(onlySources ? MCAST_INCLUDE : MCAST_EXCLUDE, 136);
  filter.writeUInt32LE(count, 140);
  for (let i = 0; i < count; i++) {
    const at = 144 + i * SOCKADDR_STORAGE;
    filter.writeUInt16LE(size === 4 ? AF.inet : AF.inet6, at);
    filter.set(sources.subarray(i * size, (i + 1) * size), at + (size === 4 ? 4 : 8));
  }
  return filter;
}

export function emitUdpShutdown(b: ProgramBuilder, socket: InetSocket, target: Target): void {
  const { shutdown } = socket;
  if (shutdown === 0) return;
  const how = shutdown === BOTH ? SHUT_RDWR : shutdown === READ ? SHUT_RD : SHUT_WR;
  b.sys('shutdown', [target.fd, how], `shut down ${target.name}`);
}
