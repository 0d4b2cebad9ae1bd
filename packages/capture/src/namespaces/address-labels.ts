import { SysError } from '@ferry/core';
import { inFreshNamespace, NETLINK_HEADER, netlinkAttributes, netlinkDump } from '@ferry/linux';
import type { Refusal } from './network-links.js';

const NETLINK_ROUTE = 0;
const RTM_GETADDRLABEL = 74;
const AF_INET6 = 10;
// include/uapi/linux/if_addrlabel.h
const LABEL_MESSAGE = { length: 12, prefixLength: 2, device: 4 } as const;
const IFAL = { address: 1, label: 2 } as const;

/** Those of a new network namespace: they differ between kernels. */
let usual: readonly string[] | undefined;

/** ip-addrlabel(8): what of the labels that IPv6 addresses are chosen by differs from those of a new network namespace, in
 *  that which the thread is in. */
export function addressLabels(): Refusal[] {
  const own = labels();
  if (own.length === 0) return []; // a kernel without IPv6
  usual ??= inFreshNamespace('net', labels);
  const refuse = (label: string, what: string, remedy: string): Refusal => ({
    code: 'network.addressLabel',
    object: `IPv6 address label ${label}${what}`,
    reason: 'address labels that were changed cannot be carried yet',
    remedy: `ip addrlabel ${remedy} ${label}`,
  });
  const given = usual;
  const added = own.filter((label) => !given.includes(label));
  const removed = given.filter((label) => !own.includes(label));
  return [
    ...added.map((label) => refuse(label, '', 'del')),
    ...removed.map((label) => refuse(label, ' (removed)', 'add')),
  ];
}

/** As `ip addrlabel` takes them: "prefix 2001:db8::/32 label 99". */
function labels(): string[] {
  const payload = Buffer.alloc(LABEL_MESSAGE.length);
  payload.writeUInt8(AF_INET6, 0);
  try {
    return netlinkDump(NETLINK_ROUTE, { type: RTM_GETADDRLABEL, payload }).map(textOf);
  } catch (error) {
    if (error instanceof SysError && ['EINVAL', 'EOPNOTSUPP'].includes(error.errno)) return [];
    throw error;
  }
}

function textOf(message: Buffer): string {
  const attributes = new Map(netlinkAttributes(message, NETLINK_HEADER + LABEL_MESSAGE.length));
  const address = attributes.get(IFAL.address)?.toString('hex') ?? '';
  const groups = address.match(/.{4}/g)?.map((group) => Number.parseInt(group, 16).toString(16));
  const prefix = `${groups?.join(':')}/${message.readUInt8(NETLINK_HEADER + LABEL_MESSAGE.prefixLength)}`;
  const device = message.readInt32LE(NETLINK_HEADER + LABEL_MESSAGE.device);
  const where = device === 0 ? '' : ` dev if${device}`;
  return `prefix ${prefix}${where} label ${attributes.get(IFAL.label)?.readUInt32LE(0) ?? 0}`;
}
