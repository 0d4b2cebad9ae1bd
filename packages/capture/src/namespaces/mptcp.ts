import { existsSync } from 'node:fs';
import {
  inFreshNamespace,
  NETLINK_HEADER,
  netlinkAsk,
  netlinkAttribute,
  netlinkAttributes,
  netlinkDump,
} from '@ferry/linux';
import { textOf } from './address-text.js';
import type { Refusal } from './network-links.js';

const NETLINK_GENERIC = 16;
/** Length of struct genlmsghdr. */
const GENERIC_HEADER = 4;
// include/uapi/linux/genetlink.h
const CONTROL = { family: 16, version: 1, getFamily: 3, familyId: 1, familyName: 2 } as const;
// include/uapi/linux/mptcp_pm.h
const PM = { version: 1, getAddress: 3, getLimits: 6 } as const;
const PM_ATTRIBUTE = { address: 1, accepted: 2, subflows: 3 } as const;
const ADDRESS = { id: 2, four: 3, six: 4, flags: 6 } as const;
/** Made by the kernel for an address that a peer has used. */
const IMPLICIT = 1 << 4;
const MISSING = 'MPTCP endpoints and limits cannot be carried yet';

let family: number | undefined;
let usual: string | undefined;

/** ip-mptcp(8): endpoints, and limits other than those of a new namespace. Asks the network namespace that the thread is
 *  in; changes nothing. */
export function mptcpRefusals(): Refusal[] {
  // To ask a kernel without it would have it look for a module.
  if (!existsSync('/proc/sys/net/mptcp')) return [];
  family ??= familyOf('mptcp_pm');
  const now = limits(family);
  const id = family;
  usual ??= inFreshNamespace('net', () => limits(id));
  const found: Refusal[] = endpoints(family).map(({ id, address }) => ({
    code: 'network.mptcp',
    object: `MPTCP endpoint ${id} (${address})`,
    reason: MISSING,
    remedy: `remove it: ip mptcp endpoint delete id ${id}`,
  }));
  if (now !== usual) {
    found.push({
      code: 'network.mptcp',
      object: `MPTCP limits ${now}`,
      reason: MISSING,
      remedy: `take them back: ip mptcp limits set ${usual}`,
    });
  }
  return found;
}

function familyOf(name: string): number {
  const answer = netlinkAsk(NETLINK_GENERIC, {
    type: CONTROL.family,
    payload: Buffer.concat([
      Buffer.from([CONTROL.getFamily, CONTROL.version, 0, 0]),
      netlinkAttribute(CONTROL.familyName, Buffer.from(`${name}\0`)),
    ]),
  });
  return attributesOf(answer).get(CONTROL.familyId)!.readUInt16LE(0);
}

/** As ip-mptcp(8) takes them. */
function limits(type: number): string {
  const payload = Buffer.from([PM.getLimits, PM.version, 0, 0]);
  const attributes = attributesOf(netlinkAsk(NETLINK_GENERIC, { type, payload }));
  const [subflows, accepted] = [PM_ATTRIBUTE.subflows, PM_ATTRIBUTE.accepted].map(
    (attribute) => attributes.get(attribute)?.readUInt32LE(0) ?? 0,
  );
  return `subflow ${subflows} add_addr_accepted ${accepted}`;
}

function endpoints(type: number): { id: number; address: string }[] {
  const payload = Buffer.from([PM.getAddress, PM.version, 0, 0]);
  return netlinkDump(NETLINK_GENERIC, { type, payload }).flatMap((message) => {
    const nested = attributesOf(message).get(PM_ATTRIBUTE.address) ?? Buffer.alloc(0);
    const attributes = new Map(netlinkAttributes(nested, 0));
    const flags = attributes.get(ADDRESS.flags)?.readUInt32LE(0) ?? 0;
    if ((flags & IMPLICIT) !== 0) return [];
    const address = attributes.get(ADDRESS.four) ?? attributes.get(ADDRESS.six);
    const id = attributes.get(ADDRESS.id)?.readUInt8(0) ?? 0;
    return [{ id, address: textOf(address?.toString('hex') ?? '') }];
  });
}

function attributesOf(message: Buffer): Map<number, Buffer> {
  return new Map(netlinkAttributes(message, NETLINK_HEADER + GENERIC_HEADER));
}
