import { setTimeout as sleep } from 'node:timers/promises';
import { call, cString, ERRNO, OwnedFd, sys } from '@ferry/linux';
import { macBytes, parseIpv4, parseIpv6 } from './addresses.js';
import { deviceIndex } from './netlink.js';
import { inNetns } from './netns.js';

/** Telling neighbours where an address lives now, and asking whether it is taken: ARP (RFC 826,
 *  5227) and neighbour advertisements (RFC 4861), as raw frames. */

const AF_PACKET = 17;
const SOCK_RAW_CLOEXEC = 3 | 0o2000000;
const SIOCGIFHWADDR = 0x8927;
const MSG_DONTWAIT = 0x40;
const ETHERTYPE_ARP = 0x0806;
const ETHERTYPE_IPV6 = 0x86dd;
const ARP_REQUEST = 1;
const ARP_REPLY = 2;
const BROADCAST = Buffer.alloc(6, 0xff);

/** A taken address answers a probe well within this on a bridge; a second probe goes out
 *  halfway. */
const PROBE_MS = 60;
const PROBE_POLL_MS = 3;

/** An Ethernet frame with an ARP packet. Pure. */
export function arpFrame(fields: {
  operation: 'request' | 'reply';
  senderMac: Buffer;
  senderIp: number;
  targetMac: Buffer;
  targetIp: number;
}): Buffer {
  const { operation, senderMac, senderIp, targetMac, targetIp } = fields;
  const frame = Buffer.alloc(60);
  BROADCAST.copy(frame, 0);
  senderMac.copy(frame, 6);
  frame.writeUInt16BE(ETHERTYPE_ARP, 12);
  frame.writeUInt16BE(1, 14);
  frame.writeUInt16BE(0x0800, 16);
  frame.writeUInt8(6, 18);
  frame.writeUInt8(4, 19);
  frame.writeUInt16BE(operation === 'request' ? ARP_REQUEST : ARP_REPLY, 20);
  senderMac.copy(frame, 22);
  frame.writeUInt32BE(senderIp, 28);
  targetMac.copy(frame, 32);
  frame.writeUInt32BE(targetIp, 38);
  return frame;
}

/** An Ethernet frame with an unsolicited neighbour advertisement to all nodes, override flag set.
 *  Pure. */
export function advertisementFrame(mac: Buffer, address: bigint): Buffer {
  const source = ipv6Bytes(address);
  const allNodes = ipv6Bytes(0xff020000000000000000000000000001n);
  const icmp = Buffer.alloc(32);
  icmp.writeUInt8(136, 0);
  icmp.writeUInt32BE(0x20000000, 4);
  source.copy(icmp, 8);
  icmp.writeUInt8(2, 24);
  icmp.writeUInt8(1, 25);
  mac.copy(icmp, 26);
  const pseudo = Buffer.alloc(8);
  pseudo.writeUInt32BE(icmp.length, 0);
  pseudo.writeUInt32BE(58, 4);
  icmp.writeUInt16BE(internetChecksum(Buffer.concat([source, allNodes, pseudo, icmp])), 2);
  const header = Buffer.alloc(54);
  Buffer.from('333300000001', 'hex').copy(header, 0);
  mac.copy(header, 6);
  header.writeUInt16BE(ETHERTYPE_IPV6, 12);
  header.writeUInt8(0x60, 14);
  header.writeUInt16BE(icmp.length, 18);
  header.writeUInt8(58, 20);
  header.writeUInt8(255, 21);
  source.copy(header, 22);
  allNodes.copy(header, 38);
  return Buffer.concat([header, icmp]);
}

/** RFC 1071. */
export function internetChecksum(bytes: Buffer): number {
  let sum = 0;
  for (let at = 0; at + 1 < bytes.length; at += 2) sum += bytes.readUInt16BE(at);
  if (bytes.length % 2 === 1) sum += (bytes.at(-1) ?? 0) << 8;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

function ipv6Bytes(address: bigint): Buffer {
  return Buffer.from(address.toString(16).padStart(32, '0'), 'hex');
}

/** Sends a gratuitous ARP request and reply, and a neighbour advertisement, out of `device` of the
 *  namespace that the calling thread is in. Synchronous. */
export function announceHere(
  device: string,
  addresses: { mac: string; address: string; address6?: string | undefined },
): void {
  const mac = macBytes(addresses.mac);
  const ip = parseIpv4(addresses.address);
  using socket = packetSocket(0);
  const index = deviceIndex(device);
  for (const operation of ['request', 'reply'] as const) {
    const targetMac = operation === 'request' ? Buffer.alloc(6) : BROADCAST;
    const frame = arpFrame({ operation, senderMac: mac, senderIp: ip, targetMac, targetIp: ip });
    send(socket, index, frame);
  }
  if (addresses.address6 !== undefined) {
    send(socket, index, advertisementFrame(mac, parseIpv6(addresses.address6)));
  }
}

/** Asks on `device` of the host's namespace whether an IPv4 address is in use, for 60 ms. */
export async function isAddressInUse(
  device: string,
  address: number,
  options: { signal?: AbortSignal | undefined; hostNetns?: string | undefined } = {},
): Promise<boolean> {
  const open = () => packetSocket(ETHERTYPE_ARP);
  const index =
    options.hostNetns === undefined
      ? deviceIndex(device)
      : inNetns(options.hostNetns, () => deviceIndex(device));
  using socket = options.hostNetns === undefined ? open() : inNetns(options.hostNetns, open);
  call('bind', socket.number, linkAddress(index, ETHERTYPE_ARP), 20);
  const senderMac = deviceMac(socket, device);
  const probe = arpFrame({
    ...{ operation: 'request', senderMac, senderIp: 0 },
    ...{ targetMac: Buffer.alloc(6), targetIp: address },
  });
  const reply = Buffer.alloc(1600);
  for (let round = 0; round < 2; round++) {
    send(socket, index, probe);
    for (let waitedMs = 0; waitedMs < PROBE_MS / 2; waitedMs += PROBE_POLL_MS) {
      options.signal?.throwIfAborted();
      await sleep(PROBE_POLL_MS);
      for (;;) {
        const length = sys(
          'recvfrom',
          socket.number,
          reply,
          reply.length,
          MSG_DONTWAIT,
          null,
          null,
        );
        if (length === -ERRNO.EAGAIN) break;
        if (length < 0) break;
        if (length >= 42 && reply.readUInt32BE(28) === address) return true;
      }
    }
  }
  return false;
}

/** Closing a packet socket waits until no CPU can be about to give it a frame (packet_release: synchronize_net): 10 ms and
 *  more, which nothing here needs to wait for. */
class PacketSocket extends OwnedFd {
  override [Symbol.dispose](): void {
    this.closeElsewhere();
  }
}

/** A raw packet socket of the calling thread's namespace, closed on exec. */
export function packetSocket(protocol: number): OwnedFd {
  return new PacketSocket(call('socket', AF_PACKET, SOCK_RAW_CLOEXEC, swap16(protocol)));
}

function interfaceRequest(socket: OwnedFd, device: string, request: number): Buffer {
  const ifreq = Buffer.alloc(40);
  cString(device).copy(ifreq, 0, 0, 16);
  call('ioctl', socket.number, request, ifreq);
  return ifreq;
}

function deviceMac(socket: OwnedFd, device: string): Buffer {
  return interfaceRequest(socket, device, SIOCGIFHWADDR).subarray(18, 24);
}

/** struct sockaddr_ll, packet(7). */
export function linkAddress(index: number, protocol: number): Buffer {
  const address = Buffer.alloc(20);
  address.writeUInt16LE(AF_PACKET, 0);
  address.writeUInt16BE(protocol, 2);
  address.writeInt32LE(index, 4);
  return address;
}

function send(socket: OwnedFd, index: number, frame: Buffer): void {
  const to = linkAddress(index, frame.readUInt16BE(12));
  call('sendto', socket.number, frame, frame.length, 0, to, to.length);
}

function swap16(value: number): number {
  return ((value & 0xff) << 8) | (value >> 8);
}
