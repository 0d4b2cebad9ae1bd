import { SysError } from '@ferry/core';
import {
  inFreshNamespace,
  NETLINK_HEADER,
  netlinkAsk,
  netlinkAttribute,
  netlinkAttributes,
} from '@ferry/linux';
import type { GivenNetwork } from './given-network.js';
import { changed, givenOffloadChanges } from './given-offloads.js';
import { attribute, indexOf, nameOf, type Refusal } from './network-links.js';

const NETLINK_ROUTE = 0;
const RTM_GETLINK = 18;
const LOOPBACK = 1;
const LINK_MESSAGE = 16;
const IFF = { up: 1, noarp: 0x80, multicast: 0x1000 } as const;
const IFLA = {
  ...{ address: 1, mtu: 4, link: 5, queue: 13, linkMode: 17, alias: 20, afSpec: 26, group: 27 },
  ...{ linkNamespace: 37, down: 39, xdp: 43, targetNamespace: 46, properties: 52 },
} as const;
const XDP_ATTACHED = 2;
const INET6 = { family: 10, token: 7, mode: 8 } as const;
/** Numbers that both ends of a veth pair are made with alike: attribute, and what ip-link(8) calls it. */
const NUMBERS = [
  [IFLA.mtu, 'mtu'],
  [IFLA.queue, 'txqueuelen'],
  [41, 'gso_max_size'],
  [40, 'gso_max_segs'],
  [58, 'gro_max_size'],
  [63, 'gso_ipv4_max_size'],
  [64, 'gro_ipv4_max_size'],
] as const;

let freshLoopback: Buffer | undefined;

/** What was changed at the devices of a network that a host gives. The given one is compared with its other end, which the
 *  host keeps and which was made like it; the loopback device with a new one. Runs in the namespace; changes nothing. */
export function givenLinkChanges(links: readonly Buffer[], given: GivenNetwork): Refusal[] {
  const loopback = links.find((link) => indexOf(link) === LOOPBACK);
  const own = links.find((link) => nameOf(link) === given.device);
  const found: Refusal[] = [];
  if (loopback !== undefined) {
    freshLoopback ??= inFreshNamespace('net', () => linkIn(undefined, LOOPBACK));
    found.push(...flagChanges(loopback, IFF.up), ...numberChanges(loopback, freshLoopback));
    found.push(...propertyChanges(loopback));
  }
  if (own === undefined) {
    const object = `network device ${given.device}, which has another name or is gone`;
    return [...found, changed(object, `name it so again: ip link set NAME name ${given.device}`)];
  }
  const mac = attribute(own, IFLA.address)?.toString('hex') ?? '';
  if (mac !== given.mac) {
    const text = given.mac.match(/../g)?.join(':') ?? '';
    found.push(
      changed(
        `network device ${given.device} with another hardware address`,
        `give back its own: ip link set ${given.device} address ${text}`,
      ),
    );
  }
  found.push(...flagChanges(own, IFF.up | IFF.multicast));
  const end = otherEnd(own);
  if (end !== undefined) found.push(...numberChanges(own, end));
  return [...found, ...propertyChanges(own), ...givenOffloadChanges(given.device)];
}

function flagChanges(link: Buffer, expected: number): Refusal[] {
  const name = nameOf(link);
  const flags = link.readUInt32LE(NETLINK_HEADER + 8);
  const words = [
    [IFF.up, 'up', 'down', 'up', 'down'],
    [IFF.multicast, 'multicast', 'no multicast', 'multicast on', 'multicast off'],
    [IFF.noarp, 'no ARP', 'ARP', 'arp off', 'arp on'],
  ] as const;
  return words.flatMap(([flag, with_, without, on, off]) => {
    const [is, should] = [(flags & flag) !== 0, (expected & flag) !== 0];
    if (is === should) return [];
    return [
      changed(
        `network device ${name} with ${is ? with_ : without}`,
        `take it back: ip link set ${name} ${should ? on : off}`,
      ),
    ];
  });
}

function numberChanges(link: Buffer, usual: Buffer): Refusal[] {
  const name = nameOf(link);
  const differing = NUMBERS.flatMap(([type, what]) => {
    const value = attribute(link, type)?.readUInt32LE(0);
    const given = attribute(usual, type)?.readUInt32LE(0);
    const isKnown = value !== undefined && given !== undefined;
    return isKnown && value !== given ? [{ what, value, given }] : [];
  });
  return differing.flatMap(({ what, value, given }) => {
    // Setting the one for all sets that of IPv4 (net/core/dev.c: netif_set_gso_max_size).
    const common = what.replace('_ipv4', '');
    if (common !== what && differing.some((each) => each.what === common)) return [];
    return [
      changed(
        `network device ${name} with ${what} ${value}`,
        `take it back: ip link set ${name} ${what} ${given}`,
      ),
    ];
  });
}

/** What no device is given with. */
function propertyChanges(link: Buffer): Refusal[] {
  const name = nameOf(link);
  const found: Refusal[] = [];
  const add = (what: string, remedy: string): void => {
    found.push(changed(`network device ${name} with ${what}`, `take it back: ${remedy}`));
  };
  const set = `ip link set ${name}`;
  const isSet = (type: number): boolean =>
    attribute(link, type)?.some((byte) => byte !== 0) ?? false;
  if (isSet(IFLA.group)) add('a group', `${set} group default`);
  if (isSet(IFLA.alias)) add('an alias', `${set} alias ''`);
  if (isSet(IFLA.linkMode)) add('link mode dormant', `${set} mode default`);
  if (isSet(IFLA.down)) add('protodown', `${set} protodown off`);
  if (attribute(link, IFLA.properties) !== undefined) {
    add('another name besides', `ip link property del dev ${name} altname NAME`);
  }
  const xdp = new Map(netlinkAttributes(attribute(link, IFLA.xdp) ?? Buffer.alloc(0), 0));
  if ((xdp.get(XDP_ATTACHED)?.[0] ?? 0) !== 0) add('an XDP program', `${set} xdp off`);
  const families = new Map(netlinkAttributes(attribute(link, IFLA.afSpec) ?? Buffer.alloc(0), 0));
  const six = new Map(netlinkAttributes(families.get(INET6.family) ?? Buffer.alloc(0), 0));
  if (six.get(INET6.token)?.some((byte) => byte !== 0) ?? false) {
    add('a token', `ip token set :: dev ${name}`);
  }
  if ((six.get(INET6.mode)?.[0] ?? 0) !== 0) add('another addrgenmode', `${set} addrgenmode eui64`);
  return found;
}

/** The host's end of a veth pair; undefined where the kernel does not show it. */
function otherEnd(link: Buffer): Buffer | undefined {
  const [peer, namespace] = [IFLA.link, IFLA.linkNamespace].map((type) =>
    attribute(link, type)?.readInt32LE(0),
  );
  if (peer === undefined || namespace === undefined || namespace < 0) return undefined;
  try {
    return linkIn(namespace, peer);
  } catch (error) {
    if (error instanceof SysError) return undefined;
    throw error;
  }
}

/** One device of the network namespace that the thread is in, or of one that has that number there (IFLA_TARGET_NETNSID,
 *  net/core/rtnetlink.c: rtnl_getlink). */
function linkIn(namespace: number | undefined, index: number): Buffer {
  const head = Buffer.alloc(LINK_MESSAGE);
  head.writeInt32LE(index, 4);
  const target = Buffer.alloc(4);
  target.writeInt32LE(namespace ?? 0);
  const where = namespace === undefined ? [] : [netlinkAttribute(IFLA.targetNamespace, target)];
  return netlinkAsk(NETLINK_ROUTE, {
    type: RTM_GETLINK,
    payload: Buffer.concat([head, ...where]),
  });
}
