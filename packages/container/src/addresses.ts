import { isIPv4, isIPv6 } from 'node:net';
import { FerryError } from '@ferry/core';

/** IP and MAC arithmetic. Pure. IPv4 addresses are numbers 0..2^32-1, IPv6 addresses bigints. */

export interface Subnet4 {
  readonly base: number;
  readonly prefix: number;
}

export interface Subnet6 {
  readonly base: bigint;
  readonly prefix: number;
}

function bad(text: string, what: string): FerryError {
  return new FerryError('container.address', `${JSON.stringify(text)} is not ${what}`);
}

export function parseIpv4(text: string): number {
  if (!isIPv4(text)) throw bad(text, 'an IPv4 address');
  return text.split('.').reduce((value, part) => value * 256 + Number(part), 0);
}

export function formatIpv4(value: number): string {
  return [24, 16, 8, 0].map((shift) => (value >>> shift) & 0xff).join('.');
}

export function parseSubnet4(text: string): Subnet4 {
  const [address = '', length = ''] = text.split('/');
  const prefix = Number(length);
  if (!isIPv4(address) || !/^\d+$/.test(length) || prefix < 1 || prefix > 30) {
    throw bad(text, 'an IPv4 subnet such as 10.77.0.0/24');
  }
  const mask = (0xffffffff << (32 - prefix)) >>> 0;
  return { base: (parseIpv4(address) & mask) >>> 0, prefix };
}

export function subnet4Contains(subnet: Subnet4, address: number): boolean {
  const size = 2 ** (32 - subnet.prefix);
  return address >= subnet.base && address < subnet.base + size;
}

/** `FIRST-LAST` within `subnet`; without text every address but the network's and the broadcast
 *  one. */
export function parseRange4(
  text: string | undefined,
  subnet: Subnet4,
): { first: number; last: number } {
  const size = 2 ** (32 - subnet.prefix);
  if (text === undefined) return { first: subnet.base + 1, last: subnet.base + size - 2 };
  const [from = '', to = ''] = text.split('-').map((part) => part.trim());
  const range = { first: parseIpv4(from), last: parseIpv4(to) };
  const inside = subnet4Contains(subnet, range.first) && subnet4Contains(subnet, range.last);
  if (!inside || range.first > range.last) throw bad(text, 'a range FIRST-LAST inside the subnet');
  return range;
}

export function parseIpv6(text: string): bigint {
  if (!isIPv6(text) || text.includes('%')) throw bad(text, 'an IPv6 address');
  const plain = text.replace(/(\d+\.\d+\.\d+\.\d+)$/, (v4) => {
    const value = parseIpv4(v4);
    return `${(value >>> 16).toString(16)}:${(value & 0xffff).toString(16)}`;
  });
  const [head = '', tail] = plain.split('::');
  const groups = (part: string) => (part === '' ? [] : part.split(':'));
  const left = groups(head);
  const right = groups(tail ?? '');
  const zeros = tail === undefined ? [] : Array<string>(8 - left.length - right.length).fill('0');
  return [...left, ...zeros, ...right].reduce(
    (value, group) => (value << 16n) | BigInt(`0x${group}`),
    0n,
  );
}

/** Without zero compression beyond leading zeros of groups: what `ip` takes, one spelling per
 *  address. */
export function formatIpv6(value: bigint): string {
  const groups: string[] = [];
  for (let shift = 112n; shift >= 0n; shift -= 16n)
    groups.push(((value >> shift) & 0xffffn).toString(16));
  const text = groups.join(':');
  const run = [...text.matchAll(/(?:^|:)0(?::0)+(?=:|$)/g)].sort(
    (a, b) => b[0].length - a[0].length,
  )[0];
  if (run === undefined) return text;
  const before = text.slice(0, run.index);
  const after = text.slice(run.index + run[0].length).replace(/^:/, '');
  return `${before}::${after}`;
}

export function parseSubnet6(text: string): Subnet6 {
  const [address = '', length = ''] = text.split('/');
  const prefix = Number(length);
  if (!isIPv6(address) || !/^\d+$/.test(length) || prefix < 8 || prefix > 96) {
    throw bad(text, 'an IPv6 subnet such as fd77::/64');
  }
  const shift = BigInt(128 - prefix);
  return { base: (parseIpv6(address) >> shift) << shift, prefix };
}

/** The IPv6 address that goes with an IPv4 one: the same number of the host, in the IPv6 subnet.
 *  Unique where the IPv4 address is, so that one allocation serves both. */
export function pairedIpv6(subnet6: Subnet6, subnet4: Subnet4, address: number): bigint {
  return subnet6.base + BigInt(address - subnet4.base);
}

/** The MAC address that goes with an IPv4 one: locally administered, unique where the address
 *  is. */
export function macForIpv4(address: number): string {
  const bytes = [0x02, 0xfe, ...[24, 16, 8, 0].map((shift) => (address >>> shift) & 0xff)];
  return bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

export function macBytes(mac: string): Buffer {
  return Buffer.from(mac.replaceAll(':', ''), 'hex');
}

/** The lowest free address of the range.
 *  @throws FerryError container.address when there is none */
export function allocateAddress(
  range: { first: number; last: number },
  taken: ReadonlySet<number>,
): number {
  for (let address = range.first; address <= range.last; address++) {
    if (!taken.has(address)) return address;
  }
  const text = `${formatIpv4(range.first)}-${formatIpv4(range.last)}`;
  throw new FerryError('container.address', `No address is free in ${text}`, {
    remedy: 'remove containers, or widen the range in the configuration of the agent',
  });
}
