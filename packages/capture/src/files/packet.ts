import type { PacketMembership, PacketSocket, SocketOption } from '@ferry/image';
import { AF, type PacketDiag, POLL, pollNow, sys } from '@ferry/linux';
import type { Descriptor, FileCapture, FileContext } from './context.js';
import { readPacketFilter } from './socket-probe.js';
import { refuseFilter } from './socket-refusals.js';
import { NetworkTable, socketKind } from './socket-table.js';

const SIOCGIFNAME = 0x8910;
const SOL_PACKET = 263;
const PACKET_FANOUT = 18;
const SOCK_PACKET = 10;

/** packet(7): what it is bound to, memberships, rings and options. */
export const packetCapture: FileCapture = {
  matches: (descriptor) => socketKind(descriptor)?.domain === AF.packet,
  capture(descriptor, ctx) {
    const value = describe(descriptor, ctx);
    return value && { $case: 'packet', value };
  },
};

function describe(descriptor: Descriptor, ctx: FileContext): PacketSocket | undefined {
  const kind = socketKind(descriptor)!;
  const fd = descriptor.dup().number;
  const table = NetworkTable.of(descriptor, ctx);
  const probe = table.probe({ ...kind, protocol: 0 });
  const facts = probe.read(fd);
  if (facts.filterLength === undefined) return refuseFilter(descriptor, ctx);
  if (!ctx.scanning && (pollNow(fd, POLL.in) & POLL.in) !== 0) ctx.lose('packets', descriptor);
  const diag = table.packet.get(Number(descriptor.stat.inode));
  return {
    inode: descriptor.stat.inode,
    type: kind.type,
    ...(kind.type === SOCK_PACKET ? oldAddress(facts.local, diag) : address(fd, facts.local)),
    options: facts.options.filter((option) => !isFanout(option)),
    buffers: facts.buffers,
    packetFilter: readPacketFilter(fd, facts),
    memberships: membershipsOf(fd, diag),
    receiveRing: diag?.receiveRing ?? Buffer.alloc(0),
    sendRing: diag?.sendRing ?? Buffer.alloc(0),
    fanout: facts.options.find(isFanout)?.value.readUInt32LE(0) ?? 0,
  };
}

/** struct sockaddr_ll: family, protocol (network order), index. */
function address(fd: number, local: Buffer): { protocol: number; device: string } {
  return { protocol: local.readUInt16BE(2), device: deviceName(fd, local.readInt32LE(4)) };
}

/** Of the type that was used in Linux 2.0 a struct sockaddr with the device's name; nothing else tells the protocol. */
function oldAddress(local: Buffer, diag: PacketDiag | undefined) {
  const name = local.toString('latin1', 2, 16).replace(/\0.*$/s, '');
  return { protocol: diag?.protocol ?? 0, device: name };
}

function isFanout({ level, name }: SocketOption): boolean {
  return level === SOL_PACKET && name === PACKET_FANOUT;
}

function membershipsOf(fd: number, diag: PacketDiag | undefined): PacketMembership[] {
  const all = diag?.memberships ?? [];
  return all.map(({ index, type, address, count }) => {
    return { device: deviceName(fd, index), type, address, count };
  });
}

/** netdevice(7), in the network namespace of the socket; empty for index 0. */
function deviceName(fd: number, index: number): string {
  if (index <= 0) return '';
  const request = Buffer.alloc(40);
  request.writeInt32LE(index, 16);
  if (sys('ioctl', fd, SIOCGIFNAME, request) < 0) return '';
  return request.toString('latin1', 0, 16).replace(/\0.*$/s, '');
}
