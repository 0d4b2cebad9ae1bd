import { NETLINK_HEADER, netlinkAttributes } from '@ferry/linux';

const IFLA = { name: 3, linkInfo: 18 } as const;
const LINK_ATTRIBUTES = 32;

export type Refusal = { code: string; object: string; reason: string; remedy: string };

/** The number of the device that an RTM_NEWLINK message describes. */
export function indexOf(link: Uint8Array): number {
  return Buffer.from(link).readInt32LE(NETLINK_HEADER + 4);
}

/** An attribute of such a message. */
export function attribute(message: Uint8Array, type: number): Buffer | undefined {
  for (const [found, value] of netlinkAttributes(Buffer.from(message), LINK_ATTRIBUTES)) {
    if (found === type) return value;
  }
  return undefined;
}

export function nameOf(link: Uint8Array): string {
  return attribute(link, IFLA.name)?.toString('utf8').replace(/\0.*$/, '') ?? '?';
}

/** "veth", "bridge" ...; empty for a device of the host. */
export function kindOf(link: Uint8Array): string {
  const info = attribute(link, IFLA.linkInfo);
  if (info === undefined) return '';
  for (const [type, value] of netlinkAttributes(info, 0)) {
    if (type === 1) return value.toString('utf8').replace(/\0.*$/, '');
  }
  return '';
}
