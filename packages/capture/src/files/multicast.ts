import type { Membership } from '@ferry/image';
import { AF, SOL, sys, tryReadProc } from '@ferry/linux';
import { refuse } from './common.js';
import type { Descriptor, FileContext } from './context.js';

const MCAST_MSFILTER = 48;
const MCAST_EXCLUDE = 0;
const MODE_AT = 136;
const COUNT_AT = 140;
const SOURCES_AT = 144;
const SOCKADDR_STORAGE = 128;
const SOURCES_MAX = 64;
const ALL_SENDERS = { sources: Buffer.alloc(0), onlySources: false };

/** Multicast groups that a socket has joined. No list of them exists, but the namespace tells which groups anybody has
 *  joined (/proc/net/igmp), and a socket whether it is among them (MCAST_MSFILTER, ip(7)). */
export function membershipsOf(
  descriptor: Descriptor,
  family: number,
  ctx: FileContext,
): Membership[] {
  const { hostPid } = descriptor.process;
  const groups = ctx.shared(`multicast:${hostPid}`, () => groupsOf(hostPid));
  const fd = descriptor.dup().number;
  const found: Membership[] = [];
  for (const membership of groups) {
    const isIpv4 = membership.group.length === 4;
    if (!isIpv4 && family === AF.inet) continue;
    const filter = filterRequest(membership);
    const size = Buffer.alloc(4);
    size.writeUInt32LE(filter.length, 0);
    const level = isIpv4 ? SOL.ip : SOL.ipv6;
    if (sys('getsockopt', fd, level, MCAST_MSFILTER, filter, size) < 0) continue;
    const count = filter.readUInt32LE(COUNT_AT);
    if (count > SOURCES_MAX) {
      refuse(descriptor, ctx, {
        code: 'socket.multicastSources',
        reason: `it chooses ${count} senders of a multicast group; up to ${SOURCES_MAX} are carried`,
        remedy: 'join the group for all senders',
      });
      continue;
    }
    const onlySources = filter.readUInt32LE(MODE_AT) !== MCAST_EXCLUDE;
    found.push({ ...membership, onlySources, sources: sourcesIn(filter, count, isIpv4) });
  }
  return found;
}

/** Addresses, one after the other. */
function sourcesIn(filter: Buffer, count: number, isIpv4: boolean): Buffer {
  return Buffer.concat(
    Array.from({ length: count }, (_, i) => {
      const at = SOURCES_AT + i * SOCKADDR_STORAGE;
      return isIpv4 ? filter.subarray(at + 4, at + 8) : filter.subarray(at + 8, at + 24);
    }),
  );
}

/** struct group_filter: interface, group, mode, number of sources, and room for them. */
function filterRequest({ group, interfaceIndex }: Membership): Buffer {
  const request = Buffer.alloc(SOURCES_AT + SOURCES_MAX * SOCKADDR_STORAGE);
  request.writeUInt32LE(interfaceIndex, 0);
  Buffer.from(groupAddress(group)).copy(request, 8);
  request.writeUInt32LE(SOURCES_MAX, COUNT_AT);
  return request;
}

/** struct sockaddr_in or sockaddr_in6 of a group. */
function groupAddress(group: Uint8Array): Buffer {
  const isIpv4 = group.length === 4;
  const address = Buffer.alloc(isIpv4 ? 16 : 28);
  address.writeUInt16LE(isIpv4 ? AF.inet : AF.inet6, 0);
  address.set(group, isIpv4 ? 4 : 8);
  return address;
}

function groupsOf(hostPid: number): Membership[] {
  const found: Membership[] = [];
  let interfaceIndex = 0;
  for (const line of (tryReadProc(`/proc/${hostPid}/net/igmp`) ?? '').split('\n')) {
    const device = /^(\d+)\s/.exec(line);
    if (device !== null) interfaceIndex = Number(device[1]);
    const group = /^\s+([0-9A-F]{8})\s/.exec(line)?.[1];
    if (group === undefined || group === ALL_HOSTS) continue;
    found.push({ ...ALL_SENDERS, group: Buffer.from(group, 'hex').reverse(), interfaceIndex });
  }
  for (const line of (tryReadProc(`/proc/${hostPid}/net/igmp6`) ?? '').split('\n')) {
    const parts = /^(\d+)\s+\S+\s+([0-9a-f]{32})\s/.exec(line);
    if (parts === null || OWN_GROUPS.test(parts[2]!)) continue;
    const own = { group: Buffer.from(parts[2]!, 'hex'), interfaceIndex: Number(parts[1]) };
    found.push({ ...ALL_SENDERS, ...own });
  }
  return found;
}

/** 224.0.0.1 as /proc/net/igmp prints it, and the groups that IPv6 itself joins. */
const ALL_HOSTS = '010000E0';
const OWN_GROUPS = /^ff0[12]0{27}1$|^ff020{16}0001ff/;
