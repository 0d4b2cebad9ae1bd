import type { FileObject, PacketSocket } from '@ferry/image';
import type { DataRef, ProgramBuilder } from '../program.js';
import type { FileEmitter } from './emit.js';
import {
  emitBuffers,
  emitIntOption,
  emitOption,
  emitPacketFilter,
  emitSocketFlags,
  isFilterLock,
} from './socket-options.js';

const AF_PACKET = 17;
const SOCK_CLOEXEC = 0o2000000;
const SOCK_PACKET = 10;
const SOL_PACKET = 263;
const PACKET_ADD_MEMBERSHIP = 1;
const PACKET_RX_RING = 5;
const PACKET_TX_RING = 13;
const PACKET_FANOUT = 18;
const MAP_SHARED_FIXED = 0x11;
const SIOCGIFINDEX = 0x8933;
const INDEX_AT = 16;

/** packet(7). Devices are found by name: their numbers are others on another host. Nothing is received before the filter
 *  and the rings stand, as it is bound last. */
export const packetEmitter: FileEmitter = {
  create(b, file, ctx) {
    const { type, protocol } = socketOf(file);
    const slot = b.slotFor('socket');
    const name = `packet socket ${file.id}`;
    const first = type === SOCK_PACKET ? swapped(protocol) : 0;
    b.sys('socket', [AF_PACKET, type | SOCK_CLOEXEC, first], `make ${name}`, { into: slot });
    b.moveFd(slot, ctx.fdOf(file.id), name);
  },
  connect(b, file, ctx) {
    const socket = socketOf(file);
    const name = `packet socket ${file.id}`;
    const fd = ctx.fdOf(file.id);
    for (const option of socket.options) if (!isFilterLock(option)) emitOption(b, fd, option, name);
    emitRing(b, fd, { option: PACKET_RX_RING, request: socket.receiveRing, name });
    emitRing(b, fd, { option: PACKET_TX_RING, request: socket.sendRing, name });
    emitBuffers(b, fd, socket.buffers, { name, all: false });
    emitPacketFilter(b, fd, socket.packetFilter, name);
    for (const option of socket.options.filter(isFilterLock)) emitOption(b, fd, option, name);
    emitBind(b, fd, socket, name);
    for (const membership of socket.memberships) {
      for (let i = 0; i < membership.count; i++) emitMembership(b, fd, membership, name);
    }
    if (socket.fanout !== 0) {
      const option = { level: SOL_PACKET, name: PACKET_FANOUT, value: socket.fanout };
      emitIntOption(b, fd, option, `${name}: fanout`);
    }
    emitSocketFlags(b, file, fd);
  },
  late(b, file, holder) {
    const { inode } = socketOf(file);
    const { fd } = holder.descriptors.find(({ fileId }) => fileId === file.id)!;
    for (const vma of holder.mm?.vmas ?? []) {
      if (vma.kind !== 'packetRing' || vma.file?.inode !== inode) continue;
      const { start, end, prot, fileOffset } = vma;
      const args = [start, end - start, prot, MAP_SHARED_FIXED, fd, fileOffset];
      b.sys('mmap', args, `packet socket ${file.id}: map its ring at ${start.toString(16)}`);
    }
  },
};

function socketOf(file: FileObject): PacketSocket {
  if (file.kind?.$case !== 'packet') throw new TypeError(`File ${file.id} is no packet socket`);
  return file.kind.value;
}

/** The kernel takes the size of struct tpacket_req (16 bytes) for versions 1 and 2, of tpacket_req3 (28) for 3. */
function emitRing(
  b: ProgramBuilder,
  fd: number,
  { option, request, name }: { option: number; request: Uint8Array; name: string },
): void {
  if (request.length === 0) return;
  const step = `${name}: ring`;
  b.sys('setsockopt', [fd, SOL_PACKET, option, b.bytes(request), request.length], step);
}

/** Puts the number of a device at `to`. */
function emitIndex(
  b: ProgramBuilder,
  fd: number,
  { device, to, name }: { device: string; to: DataRef; name: string },
): void {
  const request = Buffer.alloc(40);
  request.write(device, 0, 15, 'latin1');
  const at = b.bytes(request);
  b.sys('ioctl', [fd, SIOCGIFINDEX, at], `${name}: device ${device}`);
  const slot = b.slotFor('device index');
  b.load(at.plus(INDEX_AT), 4, slot, `${name}: device ${device}`);
  b.store(slot, to, 4, `${name}: device ${device}`);
}

function emitBind(b: ProgramBuilder, fd: number, socket: PacketSocket, name: string): void {
  const { protocol, device } = socket;
  if (socket.type === SOCK_PACKET) {
    emitOldBind(b, fd, socket, name);
    return;
  }
  if (protocol === 0 && device === '') return;
  const address = Buffer.alloc(20);
  address.writeUInt16LE(AF_PACKET, 0);
  address.writeUInt16BE(protocol, 2);
  const at = b.bytes(address);
  if (device !== '') emitIndex(b, fd, { device, to: at.plus(4), name });
  b.sys('bind', [fd, at, address.length], `bind ${name}`);
}

/** The type of Linux 2.0 has its protocol from socket(2), and takes a device by name: packet(7). */
function emitOldBind(b: ProgramBuilder, fd: number, { device }: PacketSocket, name: string): void {
  if (device === '') return;
  const address = Buffer.alloc(16);
  address.writeUInt16LE(AF_PACKET, 0);
  address.write(device, 2, 13, 'latin1');
  b.sys('bind', [fd, b.bytes(address), address.length], `bind ${name}`);
}

/** In network order, as socket(2) wants it. */
function swapped(protocol: number): number {
  return ((protocol & 0xff) << 8) | (protocol >> 8);
}

/** struct packet_mreq: index, type, length of the address, address. */
function emitMembership(
  b: ProgramBuilder,
  fd: number,
  { device, type, address }: PacketSocket['memberships'][number],
  name: string,
): void {
  const request = Buffer.alloc(16);
  request.writeUInt16LE(type, 4);
  request.writeUInt16LE(address.length, 6);
  request.set(address.subarray(0, 8), 8);
  const at = b.bytes(request);
  emitIndex(b, fd, { device, to: at, name });
  const step = `${name}: membership`;
  b.sys('setsockopt', [fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, at, request.length], step);
}
