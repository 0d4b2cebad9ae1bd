import type { Membership } from '@ferry/image';
import { AF, SOL, sys, tryReadProc } from '@ferry/linux';
import { refuse } from './common.js';
import type { Descriptor, FileContext } from './context.js';

const MCAST_MSFILTER = 48;
const MCAST_EXCLUDE = 0;
const FILTER_SIZE = 144;

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
    size.writeUInt32LE(FILTER_SIZE, 0);
    const level = isIpv4 ? SOL.ip : SOL.ipv6;
    if (sys('getsockopt', fd, level, MCAST_MSFILTER, filter, size) < 0) continue;
    if (filter.readUInt32LE(136) !== MCAST_EXCLUDE || filter.readUInt32LE(140) > 0) {
      refuse(descriptor, ctx, {
        code: 'socket.multicastSources',
        reason: 'it has joined a multicast group for chosen senders only',
        remedy: 'join the group for all senders',
      });
      continue;
    }
    found.push(membership);
  }
  return found;
}

/** struct group_filter: interface, group, mode, number of sources. */
function filterRequest({ group, interfaceIndex }: Membership): Buffer {
  const request = Buffer.alloc(FILTER_SIZE);
  request.writeUInt32LE(interfaceIndex, 0);
  Buffer.from(groupAddress(group)).copy(request, 8);
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
    found.push({ group: Buffer.from(group, 'hex').reverse(), interfaceIndex });
  }
  for (const line of (tryReadProc(`/proc/${hostPid}/net/igmp6`) ?? '').split('\n')) {
    const parts = /^(\d+)\s+\S+\s+([0-9a-f]{32})\s/.exec(line);
    if (parts === null || OWN_GROUPS.test(parts[2]!)) continue;
    found.push({ group: Buffer.from(parts[2]!, 'hex'), interfaceIndex: Number(parts[1]) });
  }
  return found;
}

/** 224.0.0.1 as /proc/net/igmp prints it, and the groups that IPv6 itself joins. */
const ALL_HOSTS = '010000E0';
const OWN_GROUPS = /^ff0[12]0{27}1$|^ff020{16}0001ff/;
