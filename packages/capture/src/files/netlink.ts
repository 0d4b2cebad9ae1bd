import type { NetlinkSocket } from '@ferry/image';
import { AF, call, MSG, NETLINK_HEADER, POLL, pollNow, sys } from '@ferry/linux';
import { refuse } from './common.js';
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
  // struct sockaddr_nl: family, padding, port, groups
  const portId = facts.local.readUInt32LE(4);
  const groups = groupsOf(fd);
  const waiting = ctx.scanning ? 0 : pollNow(fd, POLL.in);
  if ((waiting & POLL.in) !== 0) {
    if (groups.length === 0 || ((waiting & POLL.error) === 0 && isAnswer(fd, portId))) {
      return refusePending(descriptor, ctx);
    }
    ctx.lose('messages', descriptor);
  }
  return {
    inode: descriptor.stat.inode,
    type: kind.type,
    protocol: kind.protocol,
    portId,
    groups,
    peerPortId: facts.peer?.readUInt32LE(4) ?? 0,
    peerGroups: facts.peer?.readUInt32LE(8) ?? 0,
    options: facts.options,
    buffers: facts.buffers,
    packetFilter: readPacketFilter(fd, facts),
  };
}

/** Whether what a member of groups has to read first was sent to it alone: nobody would send it again. What goes to groups
 *  may be lost anyway (ENOBUFS of netlink(7)). A look would take a waiting error from the program.
 *  @param portId  its own, which answers name */
function isAnswer(fd: number, portId: number): boolean {
  const [header, address, length] = [
    Buffer.alloc(NETLINK_HEADER),
    Buffer.alloc(12),
    Buffer.alloc(4),
  ];
  length.writeUInt32LE(address.length, 0);
  const flags = MSG.peek | MSG.dontWait;
  const got = sys('recvfrom', fd, header, header.length, flags, address, length);
  // Groups beyond 32 are not told there (net/netlink/af_netlink.c: netlink_group_mask).
  return (
    got >= NETLINK_HEADER && address.readUInt32LE(8) === 0 && header.readUInt32LE(12) === portId
  );
}

function refusePending(descriptor: Descriptor, ctx: FileContext): undefined {
  return refuse(descriptor, ctx, {
    code: 'socket.netlinkPending',
    reason: 'messages that were sent to it alone, such as answers of the kernel, wait to be read',
    remedy: 'try again once the program has read them, or close the socket',
  });
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
