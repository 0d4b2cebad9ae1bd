import type { ProgramBuilder } from '../program.js';
import { AF, sockaddr } from './inet-address.js';
import type { Endpoint } from './inet-packets.js';
import { constant } from './socket-options.js';

const SOCK_RAW = 3;
/** Sends whole packets, header included: raw(7), ipv6(7). */
const IPPROTO_RAW = 255;
export const POLLIN = 1;
export const POLLHUP = 0x10;
export const POLLRDHUP = 0x2000;
const WAIT_MS_MAX = 2000;

/** Gives a packet to the kernel as if it had arrived: sent to an address of this host, it comes back over loopback. */
export function emitRawPacket(b: ProgramBuilder, packet: Buffer, to: Endpoint, name: string): void {
  const family = to.address.length === 4 ? AF.inet : AF.inet6;
  const slot = b.slotFor('raw socket');
  const step = `${name}: packet from the peer`;
  b.sys('socket', [family, SOCK_RAW, IPPROTO_RAW], step, { into: slot });
  const address = constant(b, sockaddr(family, { address: to.address, port: 0, scopeId: 0 }));
  const length = family === AF.inet ? 16 : 28;
  b.sys('sendto', [slot, b.bytes(packet), packet.length, 0, address, length], step, {
    expect: { value: packet.length },
  });
  b.sys('close', [slot], step);
}

/** Waits until an event is there: packets over loopback arrive soon, but not at once. */
export function emitPoll(b: ProgramBuilder, fd: number, events: number, name: string): void {
  const entry = Buffer.alloc(8);
  entry.writeInt32LE(fd, 0);
  entry.writeInt16LE(events, 4);
  b.sys('poll', [b.bytes(entry), 1, WAIT_MS_MAX], `wait for ${name}`, { expect: { value: 1 } });
}
