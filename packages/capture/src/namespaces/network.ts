import { SysError } from '@ferry/core';
import type { Namespace, NetworkNamespace } from '@ferry/image';
import {
  addressOf,
  call,
  inNamespace,
  NETLINK_HEADER,
  netlinkAttribute,
  netlinkAttributes,
  netlinkDump,
  OwnedFd,
  sys,
  tryReadProc,
} from '@ferry/linux';
import { type CarriedDevices, type GivenNetwork, givenNetworkChanges } from './given-network.js';
import { attribute, indexOf, kindOf, nameOf, type Refusal } from './network-links.js';
import { networkRefusals, nexthops } from './network-refusals.js';

const NETLINK_ROUTE = 0;
const NETLINK_NETFILTER = 12;
const RTM = { getLink: 18, getAddress: 22, getRoute: 26, getNeighbour: 30, getRule: 34 } as const;
/** nf_tables: requests for each kind, in the order in which they depend on each other. */
const NFT = {
  table: 1,
  chain: 4,
  set: 10,
  element: 13,
  object: 19,
  rule: 7,
  flowtable: 23,
} as const;
const NFT_SUBSYSTEM = 10 << 8;
const IFLA = { mtu: 4, link: 5, linkNamespace: 37, extMask: 29 } as const;
const SKIP_STATISTICS = 8;
const NTF_PROXY = 8;
const IFF_PROMISC = 0x100;
const IFF_ALLMULTI = 0x200;
const IFA_ADDRESS = 1;
const IPV6_MTU_MIN = 1280;
const LOOPBACK = 1;
/** Kinds of device that can be made again. */
const KINDS = new Set([
  ...['dummy', 'veth', 'bridge', 'vlan', 'macvlan', 'macvtap', 'ipvlan', 'ipvtap', 'tun', 'ifb'],
  ...['bond', 'vrf', 'vxlan', 'gre', 'gretap', 'ip6gre', 'ip6gretap', 'sit', 'ipip', 'ip6tnl'],
  ...['geneve', 'nlmon', 'team', 'vti', 'vti6', 'erspan', 'ip6erspan', 'xfrm'],
]);

/** A network namespace as rtnetlink(7) and nf_tables tell it. Changes nothing.
 *  @param path  a way to it
 *  @param outside  a way to the one that its devices may lead to, and whether that is carried too */
export function captureNetwork(
  path: string,
  outside: { path: string; isCarried: boolean },
): {
  content: NetworkNamespace;
  refusals: Refusal[];
  /** Devices that lead out of it, and not to where \`outside\` is: each is refused unless \`joinPeers\` finds where. */
  leading: Leading[];
} {
  const content = inNamespace('net', path, (): NetworkNamespace => {
    return {
      ...routing(),
      neighbours: [...route(RTM.getNeighbour, Buffer.alloc(12)), ...proxies()],
      nexthops: nexthops(),
      filters: filters(),
      connections: [],
      outerLinks: [],
      outerAddresses: [],
      peers: [],
    };
  });
  const refusals = content.links.flatMap((link) => linkRefusal(link, content));
  const outer = inNamespace('net', outside.path, () => endsOutside(content, outside.isCarried));
  if (outer.indexes.length > 0) {
    Object.assign(content, { outerLinks: outer.links, outerAddresses: outer.addresses });
  }
  const { links, filters: found } = content;
  const others = inNamespace('net', path, () => [
    ...networkRefusals(links, found),
    ...loopbackRefusal(content),
  ]);
  refusals.push(...others);
  return { content, refusals, leading: outer.leading };
}

/** Devices that each network namespace has by itself once their modules are loaded (net/core/sysctl_net_core.c:
 *  fb_tunnels_only_for_init_net). */
const FALLBACK = new Set([
  ...['tunl0', 'gre0', 'gretap0', 'erspan0', 'ip_vti0', 'ip6_vti0', 'sit0', 'ip6tnl0', 'ip6gre0'],
]);

/** What a container has changed of the network that its host gave it.
 *  @param path  a way to the namespace
 *  @param given  what the host has made there; undefined: only what no host makes is found */
export function givenNetworkRefusals(
  path: string,
  devices: CarriedDevices,
  given: GivenNetwork | undefined,
): Refusal[] {
  return inNamespace('net', path, () => {
    const dumps = routing();
    const { links } = dumps;
    const carried = devices.tuns;
    const found = filters();
    const tables = found.filter((message) => (message.readUInt16LE(4) & 0xff) === 0).length;
    const refusals = networkRefusals(links, found);
    for (const link of links) {
      if (!(kindOf(link) === 'tun' && carried.has(nameOf(link))))
        refusals.push(...changedLink(link));
      const isOuter = attribute(link, IFLA.linkNamespace) !== undefined || kindOf(link) === '';
      const isGiven =
        given === undefined
          ? isOuter
          : (isOuter && nameOf(link) === given.device) || devices.ends.has(indexOf(link));
      if (isGiven || indexOf(link) === LOOPBACK || FALLBACK.has(nameOf(link))) continue;
      if (kindOf(link) === 'tun' && carried.has(nameOf(link))) continue;
      refusals.push({
        code: 'network.added',
        object: `network device ${nameOf(link)} (${kindOf(link)})`,
        reason: 'it was made inside the container, whose network its host makes anew',
        remedy: `remove it (ip link del ${nameOf(link)}), or make it in a network namespace below the container's`,
      });
    }
    const answered = proxies().length;
    if (answered > 0) {
      refusals.push({
        code: 'network.added',
        object: `${answered} neighbours that are answered for`,
        reason: 'they were set inside the container, whose network its host makes anew',
        remedy: 'remove them: ip neigh flush proxy',
      });
    }
    const hops = nexthops().length;
    if (hops > 0) {
      refusals.push({
        code: 'network.added',
        object: `${hops} nexthop objects`,
        reason: 'they were made inside the container, whose network its host makes anew',
        remedy: 'name the gateways in the routes, and remove them: ip nexthop flush',
      });
    }
    if (tables > 0) {
      refusals.push({
        code: 'network.added',
        object: `${tables} tables of nftables`,
        reason: 'rules were set inside the container, whose network its host makes anew',
        remedy: 'set them outside, or remove them: nft flush ruleset',
      });
    }
    if (given === undefined) return refusals;
    const neighbours = route(RTM.getNeighbour, Buffer.alloc(12));
    return [...refusals, ...givenNetworkChanges({ ...dumps, neighbours }, given, devices)];
  });
}

function route(type: number, payload: Buffer): Buffer[] {
  return netlinkDump(NETLINK_ROUTE, { type, payload });
}

function everyLink(): Buffer {
  const mask = Buffer.alloc(4);
  mask.writeUInt32LE(SKIP_STATISTICS);
  return Buffer.concat([Buffer.alloc(16), netlinkAttribute(IFLA.extMask, mask)]);
}

function routing() {
  return {
    links: route(RTM.getLink, everyLink()),
    addresses: route(RTM.getAddress, Buffer.alloc(8)),
    routes: route(RTM.getRoute, Buffer.alloc(12)),
    rules: route(RTM.getRule, Buffer.alloc(12)),
  };
}

/** Those that are answered for (ip neigh add proxy), which a dump shows apart: net/core/neighbour.c, neigh_dump_info. */
function proxies(): Buffer[] {
  const payload = Buffer.alloc(12);
  payload.writeUInt8(NTF_PROXY, 10);
  return route(RTM.getNeighbour, payload);
}

/** Tables, chains, sets with their elements, objects and rules. Empty where the kernel has no nf_tables. */
function filters(): Buffer[] {
  const dump = (request: number, attributes = Buffer.alloc(0), family = 0): Buffer[] => {
    const payload = Buffer.concat([Buffer.from([family, 0, 0, 0]), attributes]);
    try {
      return netlinkDump(NETLINK_NETFILTER, { type: NFT_SUBSYSTEM | request, payload });
    } catch (error) {
      if (error instanceof SysError && ['EINVAL', 'EOPNOTSUPP', 'ENOENT'].includes(error.errno))
        return [];
      if (error instanceof SysError && error.errno === 'EPROTONOSUPPORT') return [];
      throw error;
    }
  };
  const sets = dump(NFT.set);
  const elements = sets.flatMap((set) => {
    const names = [...netlinkAttributes(set, NETLINK_HEADER + 4)];
    const of = Buffer.concat(
      names
        .filter(([type]) => type === 1 || type === 2)
        .map(([type, value]) => netlinkAttribute(type, value)),
    );
    return dump(NFT.element, of, set.readUInt8(NETLINK_HEADER));
  });
  return [
    ...dump(NFT.table),
    ...dump(NFT.chain),
    ...dump(NFT.object),
    ...sets,
    ...elements,
    ...dump(NFT.rule),
    ...dump(NFT.flowtable),
  ];
}

/** What of a network that its host makes anew was set on its devices. */
function changedLink(link: Uint8Array): Refusal[] {
  const flags = Buffer.from(link).readUInt32LE(NETLINK_HEADER + 8);
  const set = [
    ...((flags & IFF_PROMISC) === 0 ? [] : ['promisc']),
    ...((flags & IFF_ALLMULTI) === 0 ? [] : ['allmulticast']),
  ];
  return set.map((what) => ({
    code: 'network.added',
    object: `network device ${nameOf(link)} takes everything (${what})`,
    reason: 'that was set inside the container, whose network its host makes anew',
    remedy: `take it back: ip link set ${nameOf(link)} ${what} off`,
  }));
}

/** ::1 comes back as the loopback device goes up, unless it has no IPv6 (net/ipv6/addrconf.c: addrconf_notify). */
function loopbackRefusal({ links, addresses }: NetworkNamespace): Refusal[] {
  const loopback = links.find((link) => indexOf(link) === LOOPBACK);
  const isUp =
    loopback !== undefined && (Buffer.from(loopback).readUInt32LE(NETLINK_HEADER + 8) & 1) !== 0;
  const mtu = isUp ? (attribute(loopback, IFLA.mtu)?.readUInt32LE(0) ?? 0) : 0;
  const hasIpv6 = tryReadProc('/proc/sys/net/ipv6/conf/lo/disable_ipv6')?.trim() === '0';
  const isThere = addresses.some((address) => {
    const bytes = Buffer.from(address);
    const isOurs = bytes.readInt32LE(NETLINK_HEADER + 4) === LOOPBACK;
    const value = new Map(netlinkAttributes(bytes, NETLINK_HEADER + 8)).get(IFA_ADDRESS);
    return isOurs && value?.toString('hex') === `${'0'.repeat(31)}1`;
  });
  if (mtu < IPV6_MTU_MIN || !hasIpv6 || isThere) return [];
  return [
    {
      code: 'network.loopback',
      object: 'network device lo without ::1',
      reason: 'the address would come back',
      remedy: 'give it back (ip addr add ::1/128 dev lo), or switch IPv6 off there (disable_ipv6)',
    },
  ];
}

function linkRefusal(link: Uint8Array, _content: NetworkNamespace): Refusal[] {
  if (indexOf(link) === LOOPBACK) return [];
  const kind = kindOf(link);
  const object = `network device ${nameOf(link)}`;
  if (kind === '') {
    return [
      {
        code: 'network.device',
        object,
        reason: 'it is a device of this host, not one that software makes',
        remedy: 'move it back (ip link set NAME netns 1), and use macvlan or ipvlan in its place',
      },
    ];
  }
  if (!KINDS.has(kind)) {
    const reason = `network devices of kind ${kind} cannot be carried yet`;
    return [{ code: 'network.kind', object, reason, remedy: 'remove it first' }];
  }
  return [];
}

/** The other ends of veth pairs that are in the thread's network namespace. */
function endsOutside(content: NetworkNamespace, isCarried: boolean) {
  const leading: Leading[] = [];
  const indexes: number[] = [];
  const needed = content.links.filter(
    (link) => attribute(link, IFLA.linkNamespace) !== undefined && kindOf(link) !== '',
  );
  if (needed.length === 0) return { indexes, links: [], addresses: [], leading };
  const outside = routing();
  for (const link of needed) {
    const peer = attribute(link, IFLA.link)?.readInt32LE(0) ?? 0;
    const end = outside.links.find((other) => indexOf(other) === peer);
    const back = end === undefined ? 0 : attribute(end, IFLA.link)?.readInt32LE(0);
    if (kindOf(link) === 'veth' && end !== undefined && kindOf(end) === 'veth') {
      if (back === indexOf(link) && !isCarried) {
        indexes.push(peer);
        continue;
      }
    }
    leading.push({
      index: indexOf(link),
      peer,
      refusal: {
        code: 'network.outside',
        object: `network device ${nameOf(link)}`,
        reason: `it is joined to device ${peer} of a network namespace outside the tree`,
        remedy: 'remove it first, or dump a tree that has both',
      },
    });
  }
  const addresses = outside.addresses.filter((address) => {
    return indexes.includes(address.readInt32LE(NETLINK_HEADER + 4));
  });
  const links = outside.links.filter((link) => indexes.includes(indexOf(link)));
  return { indexes, links, addresses, leading };
}

/** Numbers of the devices outside that carried network namespaces are joined to. */
export function outerEnds(namespaces: readonly Namespace[]): ReadonlySet<number> {
  const contents = namespaces.flatMap(({ content }) =>
    content?.$case === 'net' ? [content.value] : [],
  );
  return new Set(contents.flatMap(({ outerLinks }) => outerLinks.map(indexOf)));
}

/** A device that leads out of its network namespace. */
export interface Leading {
  readonly index: number;
  /** Number of what it is joined to, in the other namespace. */
  readonly peer: number;
  readonly refusal: Refusal;
}

/** Finds the other end of a veth device among the carried namespaces, and notes it.
 *  @returns whether there is exactly one that fits */
export function joinPeer(
  own: { readonly id: number; readonly content: NetworkNamespace },
  { index, peer }: Leading,
  others: readonly { readonly id: number; readonly content: NetworkNamespace }[],
): boolean {
  const isVeth = (link: Uint8Array | undefined): boolean =>
    link !== undefined && kindOf(link) === 'veth';
  if (!isVeth(own.content.links.find((link) => indexOf(link) === index))) return false;
  const fitting = others.filter(({ id, content }) => {
    const end = content.links.find((link) => indexOf(link) === peer);
    if (id === own.id || end === undefined || !isVeth(end)) return false;
    const back = attribute(end, IFLA.link)?.readInt32LE(0);
    return back === index && attribute(end, IFLA.linkNamespace) !== undefined;
  });
  const [found] = fitting;
  if (found === undefined || fitting.length > 1) return false;
  own.content.peers.push({ index, namespaceId: found.id, peerIndex: peer });
  return true;
}

const RTA_OIF = 4;
const RTM_TABLE_LOCAL = 255;

/** A device with its addresses and the routes that lead through it, in the network namespace that the thread is in;
 *  undefined when there is none of that name. */
export function deviceRecords(
  name: string,
): { link: Buffer; addresses: Buffer[]; routes: Buffer[] } | undefined {
  const { links, addresses, routes } = routing();
  const link = links.find((candidate) => nameOf(candidate) === name);
  if (link === undefined) return undefined;
  const index = indexOf(link);
  return {
    link,
    addresses: addresses.filter((address) => address.readInt32LE(NETLINK_HEADER + 4) === index),
    routes: routes.filter((route) => {
      if (route.readUInt8(NETLINK_HEADER + 4) === RTM_TABLE_LOCAL) return false;
      const out = new Map(netlinkAttributes(route, NETLINK_HEADER + 12)).get(RTA_OIF);
      return out?.readInt32LE(0) === index;
    }),
  };
}

const SIOCETHTOOL = 0x8946;
/** ETHTOOL_GTXCSUM, ETHTOOL_GTSO, and what TUNSETOFFLOAD calls that: TUN_F_CSUM, TUN_F_TSO4 and TUN_F_TSO6. */
const OFFLOADS = [
  [0x16, 1],
  [0x1e, 2 | 4],
] as const;

/** What a tun device leaves to the program behind it, as TUNSETOFFLOAD takes it: netdevice(7), ethtool(8). */
export function deviceOffload(name: string): number {
  using socket = new OwnedFd(call('socket', 2, 2, 0));
  let offload = 0;
  for (const [command, bits] of OFFLOADS) {
    const value = Buffer.alloc(8);
    value.writeUInt32LE(command, 0);
    const request = Buffer.alloc(40);
    request.write(name, 0, 15, 'latin1');
    request.writeBigUInt64LE(addressOf(value), 16);
    if (sys('ioctl', socket.number, SIOCETHTOOL, request) < 0) continue;
    if (value.readUInt32LE(4) !== 0) offload |= bits;
  }
  return offload;
}
