/** Packets that a peer would have sent, as bytes for a raw socket: constants, as everything about them is known. */

const IPPROTO = { tcp: 6, udp: 17 } as const;
export const TCP_FLAG = { fin: 1, ack: 0x10 } as const;
const TIME_TO_LIVE = 64;

export interface Endpoint {
  /** 4 or 16 bytes, the same for both ends. */
  readonly address: Uint8Array;
  readonly port: number;
}

/** A TCP segment without data or options, in an IPv4 or IPv6 packet. */
export function tcpPacket(
  from: Endpoint,
  to: Endpoint,
  segment: { sequence: number; acknowledged: number; flags: number; window: number },
): Buffer {
  const header = Buffer.alloc(20);
  header.writeUInt16BE(from.port, 0);
  header.writeUInt16BE(to.port, 2);
  header.writeUInt32BE(segment.sequence >>> 0, 4);
  header.writeUInt32BE(segment.acknowledged >>> 0, 8);
  header.writeUInt8(5 << 4, 12);
  header.writeUInt8(segment.flags, 13);
  header.writeUInt16BE(segment.window, 14);
  header.writeUInt16BE(transportChecksum(from, to, IPPROTO.tcp, header), 16);
  return ipPacket(from, to, IPPROTO.tcp, header);
}

/** A UDP datagram in an IPv4 or IPv6 packet; or (protocol 136) one of UDP-Lite, whose length field says how much the
 *  checksum covers: all of it. */
export function udpPacket(
  from: Endpoint,
  to: Endpoint,
  data: Uint8Array,
  protocol: number = IPPROTO.udp,
): Buffer {
  const datagram = Buffer.concat([Buffer.alloc(8), data]);
  datagram.writeUInt16BE(from.port, 0);
  datagram.writeUInt16BE(to.port, 2);
  datagram.writeUInt16BE(datagram.length, 4);
  // 0 means "no checksum": RFC 768.
  datagram.writeUInt16BE(transportChecksum(from, to, protocol, datagram) || 0xffff, 6);
  return ipPacket(from, to, protocol, datagram);
}

function ipPacket(from: Endpoint, to: Endpoint, protocol: number, body: Buffer): Buffer {
  if (from.address.length === 16) {
    const header = Buffer.alloc(40);
    header.writeUInt8(6 << 4, 0);
    header.writeUInt16BE(body.length, 4);
    header.writeUInt8(protocol, 6);
    header.writeUInt8(TIME_TO_LIVE, 7);
    header.set(from.address, 8);
    header.set(to.address, 24);
    return Buffer.concat([header, body]);
  }
  const header = Buffer.alloc(20);
  header.writeUInt8(0x45, 0);
  header.writeUInt16BE(20 + body.length, 2);
  header.writeUInt8(TIME_TO_LIVE, 8);
  header.writeUInt8(protocol, 9);
  header.set(from.address, 12);
  header.set(to.address, 16);
  header.writeUInt16BE(checksum(header), 10);
  return Buffer.concat([header, body]);
}

/** Over the pseudo header of RFC 9293 or RFC 8200, and the transport's own. */
function transportChecksum(from: Endpoint, to: Endpoint, protocol: number, body: Buffer): number {
  const tail = Buffer.alloc(from.address.length === 16 ? 8 : 4);
  if (tail.length === 8) {
    tail.writeUInt32BE(body.length, 0);
    tail.writeUInt8(protocol, 7);
  } else {
    tail.writeUInt8(protocol, 1);
    tail.writeUInt16BE(body.length, 2);
  }
  return checksum(Buffer.concat([from.address, to.address, tail, body]));
}

/** The Internet checksum: RFC 1071. */
function checksum(bytes: Buffer): number {
  let sum = 0;
  for (let i = 0; i + 1 < bytes.length; i += 2) sum += bytes.readUInt16BE(i);
  if (bytes.length % 2 === 1) sum += bytes[bytes.length - 1]! << 8;
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return ~sum & 0xffff;
}
