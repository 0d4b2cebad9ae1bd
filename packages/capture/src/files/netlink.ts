import type { NetlinkSocket } from '@ferry/image';
import { AF, call, POLL, pollNow } from '@ferry/linux';
import type { Descriptor, FileCapture, FileContext } from './context.js';
import { readPacketFilter } from './socket-probe.js';
import { refuseFilter } from './socket-refusals.js';
import { NetworkTable, socketKind } from './socket-table.js';

const SOL_NETLINK = 270;
const NETLINK_LIST_MEMBERSHIPS = 9;
const GROUPS_BYTES_MAX = 4096;

/** netlink(7): port, groups, peer and options. */
export const netlinkCapture: FileCapture = {
  matches: (descriptor) => socketKind(descriptor)?.domain === AF.netlink,
  capture(descriptor, ctx) {
    const value = describe(descriptor, ctx);
    return value && { $case: 'netlink', value };
  },
};

function describe(descriptor: Descriptor, ctx: FileContext): NetlinkSocket | undefined {
  const kind = socketKind(descriptor)!;
  const fd = descriptor.dup().number;
  const probe = NetworkTable.of(descriptor, ctx).probe(kind);
  const facts = probe.read(fd);
  if (facts.filterLength === undefined) return refuseFilter(descriptor, ctx);
  if (!ctx.scanning && (pollNow(fd, POLL.in) & POLL.in) !== 0) ctx.lose('messages', descriptor);
  return {
    inode: descriptor.stat.inode,
    type: kind.type,
    protocol: kind.protocol,
    // struct sockaddr_nl: family, padding, port, groups
    portId: facts.local.readUInt32LE(4),
    groups: groupsOf(fd),
    peerPortId: facts.peer?.readUInt32LE(4) ?? 0,
    peerGroups: facts.peer?.readUInt32LE(8) ?? 0,
    options: facts.options,
    buffers: facts.buffers,
    packetFilter: readPacketFilter(fd, facts),
  };
}

function groupsOf(fd: number): Buffer {
  const groups = Buffer.alloc(GROUPS_BYTES_MAX);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(groups.length, 0);
  call('getsockopt', fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, groups, length);
  let used = Math.min(groups.length, length.readUInt32LE(0));
  while (used > 0 && groups[used - 1] === 0) used--;
  return Buffer.from(groups.subarray(0, used));
}
