import { FerryError } from '@ferry/core';

/** IPv4 addresses from `first` to `last` as numbers, both included. */
export interface AddressRange {
  readonly first: number;
  readonly last: number;
}

/** Parses `10.77.128.0/17` (its network and broadcast addresses are left out) or
 *  `10.77.1.10-10.77.1.250`.
 *  @throws FerryError address.invalid */
export function parsePool(pool: string): AddressRange {
  const range = /^([0-9.]+)-([0-9.]+)$/.exec(pool);
  if (range !== null) {
    const [first, last] = [parseIpv4(range[1] ?? ''), parseIpv4(range[2] ?? '')];
    if (first > last) throw invalid(pool);
    return { first, last };
  }
  const { network, prefixLength } = parseSubnet(pool);
  if (prefixLength > 30) throw invalid(pool);
  return { first: network + 1, last: network + 2 ** (32 - prefixLength) - 2 };
}

/** @throws FerryError address.invalid */
export function parseSubnet(subnet: string): { network: number; prefixLength: number } {
  const match = /^([0-9.]+)\/([0-9]{1,2})$/.exec(subnet);
  const prefixLength = Number(match?.[2] ?? 33);
  if (match === null || prefixLength > 32) throw invalid(subnet);
  const size = 2 ** (32 - prefixLength);
  return { network: Math.floor(parseIpv4(match[1] ?? '') / size) * size, prefixLength };
}

/** The addresses of a pool in order, without the taken ones. */
export function* freeAddresses(pool: AddressRange, taken: ReadonlySet<string>): Generator<string> {
  for (let address = pool.first; address <= pool.last; address += 1) {
    const text = formatIpv4(address);
    if (!taken.has(text)) yield text;
  }
}

/** @throws FerryError address.invalid */
export function parseIpv4(text: string): number {
  const parts = text.split('.');
  const valid =
    parts.length === 4 && parts.every((part) => /^[0-9]{1,3}$/.test(part) && +part < 256);
  if (!valid) throw invalid(text);
  return parts.reduce((address, part) => address * 256 + Number(part), 0);
}

function formatIpv4(address: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(address / 2 ** shift) % 256).join('.');
}

function invalid(text: string): FerryError {
  return new FerryError(
    'address.invalid',
    `"${text.slice(0, 80)}" is not an IPv4 address or range`,
    {
      remedy: 'write 10.77.0.0/16 or 10.77.1.10-10.77.1.250',
    },
  );
}
