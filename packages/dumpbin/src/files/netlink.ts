import type { FileObject, NetlinkSocket } from '@ferry/image';
import type { ProgramBuilder } from '../program.js';
import type { FileEmitter } from './emit.js';
import {
  constant,
  emitBuffers,
  emitIntOption,
  emitOption,
  emitPacketFilter,
  emitSocketFlags,
  isFilterLock,
} from './socket-options.js';

const AF_NETLINK = 16;
const SOCK_CLOEXEC = 0o2000000;
const SOL_NETLINK = 270;
const NETLINK_ADD_MEMBERSHIP = 1;

/** netlink(7). */
export const netlinkEmitter: FileEmitter = {
  create(b, file, ctx) {
    const socket = socketOf(file);
    const name = `netlink socket ${file.id} (protocol ${socket.protocol})`;
    const slot = b.slotFor('socket');
    const fd = ctx.fdOf(file.id);
    const { type, protocol } = socket;
    b.sys('socket', [AF_NETLINK, type | SOCK_CLOEXEC, protocol], `make ${name}`, { into: slot });
    b.moveFd(slot, fd, name);
    if (socket.portId !== 0) emitAddress(b, 'bind', fd, { port: socket.portId, groups: 0, name });
  },
  connect(b, file, ctx) {
    const socket = socketOf(file);
    const name = `netlink socket ${file.id} (protocol ${socket.protocol})`;
    const fd = ctx.fdOf(file.id);
    if (socket.peerPortId !== 0 || socket.peerGroups !== 0) {
      emitAddress(b, 'connect', fd, {
        ...{ port: socket.peerPortId, groups: socket.peerGroups, name },
      });
    }
    for (const option of socket.options) if (!isFilterLock(option)) emitOption(b, fd, option, name);
    for (const group of groupNumbers(socket.groups)) {
      const option = { level: SOL_NETLINK, name: NETLINK_ADD_MEMBERSHIP, value: group };
      emitIntOption(b, fd, option, `${name}: group ${group}`);
    }
    emitBuffers(b, fd, socket.buffers, { name, all: false });
    emitPacketFilter(b, fd, socket.packetFilter, name);
    for (const option of socket.options.filter(isFilterLock)) emitOption(b, fd, option, name);
    emitSocketFlags(b, file, fd);
  },
};

function socketOf(file: FileObject): NetlinkSocket {
  if (file.kind?.$case !== 'netlink') throw new TypeError(`File ${file.id} is no netlink socket`);
  return file.kind.value;
}

/** Of a bit mask, whose first bit is group 1. */
export function groupNumbers(mask: Uint8Array): number[] {
  const found: number[] = [];
  mask.forEach((byte, i) => {
    for (let bit = 0; bit < 8; bit++) if ((byte >> bit) & 1) found.push(i * 8 + bit + 1);
  });
  return found;
}

function emitAddress(
  b: ProgramBuilder,
  call: 'bind' | 'connect',
  fd: number,
  { port, groups, name }: { port: number; groups: number; name: string },
): void {
  const address = Buffer.alloc(12);
  address.writeUInt16LE(AF_NETLINK, 0);
  address.writeUInt32LE(port, 4);
  address.writeUInt32LE(groups, 8);
  b.sys(call, [fd, constant(b, address), address.length], `${call} ${name} to port ${port}`);
}
