import { SysError } from '@ferry/core';
import {
  NETLINK_HEADER,
  netlinkAttribute,
  netlinkAttributes,
  netlinkDump,
  tryReadProc,
} from '@ferry/linux';
import { addressLabels } from './address-labels.js';
import { mptcpRefusals } from './mptcp.js';
import { attribute, indexOf, kindOf, nameOf, type Refusal } from './network-links.js';

const NETLINK = { route: 0, xfrm: 6, netfilter: 12 } as const;
const RTM = { getNeighbour: 30, getQdisc: 38, getNexthop: 106 } as const;
const XFRM = { getState: 18, getPolicy: 21, idLength: 64 } as const;
const IPSET = { list: (6 << 8) | 7, protocol: 1, version: 7, name: 2 } as const;
const CONNTRACK = { get: (1 << 8) | 1, status: 3, translated: 0x10 | 0x20 } as const;
const AF = { inet: 2, bridge: 7 } as const;
const TCA_KIND = 1;
const NDA_LLADDR = 2;
const NTF_SELF = 2;
/** NUD_PERMANENT, NUD_NOARP: somebody has set it. */
const NUD_SET = 0x80 | 0x40;
const NUD_NOARP = 0x40;
const IFLA = { address: 1, linkInfo: 18 } as const;
const IFLA_BR_VLAN_FILTERING = 7;
const NFT_FLOWTABLE = 22;

/** What a network namespace has besides devices, addresses, routes and rules that is not carried. Asks the network
 *  namespace that the thread is in; changes nothing. */
export function networkRefusals(
  links: readonly Uint8Array[],
  filters: readonly Uint8Array[],
): Refusal[] {
  return [
    ...queueing(links),
    ...ipsec(),
    ...addressSets(),
    ...translations(),
    ...staticForwarding(links),
    ...links.flatMap(bridgeVlans),
    ...flowtables(filters),
    ...legacyTables(),
    ...addressLabels(),
    ...mptcpRefusals(),
  ];
}

/** A dump that the kernel may not know, which then has nothing to tell. */
function dump(protocol: number, type: number, payload: Buffer): Buffer[] {
  try {
    return netlinkDump(protocol, { type, payload });
  } catch (error) {
    const unknown = ['EINVAL', 'EOPNOTSUPP', 'ENOENT', 'EPROTONOSUPPORT'];
    if (error instanceof SysError && unknown.includes(error.errno)) return [];
    throw error;
  }
}

/** ip-nexthop(8); none on a kernel that has no such objects. */
export function nexthops(): Buffer[] {
  return dump(NETLINK.route, RTM.getNexthop, Buffer.alloc(8));
}

/** tc(8): what the kernel attaches by itself has no handle (net/sched/sch_generic.c). */
function queueing(links: readonly Uint8Array[]): Refusal[] {
  return dump(NETLINK.route, RTM.getQdisc, Buffer.alloc(20)).flatMap((message) => {
    if (message.readUInt32LE(NETLINK_HEADER + 8) === 0) return [];
    const index = message.readInt32LE(NETLINK_HEADER + 4);
    const link = links.find((each) => indexOf(each) === index);
    const kind = new Map(netlinkAttributes(message, NETLINK_HEADER + 20)).get(TCA_KIND);
    const name = link === undefined ? `device ${index}` : nameOf(link);
    const what = kind?.toString('utf8').replace(/\0.*$/, '') ?? '?';
    return [
      {
        code: 'network.qdisc',
        object: `queueing discipline ${what} of ${name}`,
        reason: 'traffic control cannot be carried yet',
        remedy: `remove it: tc qdisc del dev ${name} ${what === 'ingress' || what === 'clsact' ? what : 'root'}`,
      },
    ];
  });
}

/** ip-xfrm(8) */
function ipsec(): Refusal[] {
  const payload = Buffer.alloc(XFRM.idLength);
  const states = dump(NETLINK.xfrm, XFRM.getState, payload).length;
  const policies = dump(NETLINK.xfrm, XFRM.getPolicy, payload).length;
  if (states + policies === 0) return [];
  return [
    {
      code: 'network.ipsec',
      object: `${states} IPsec states and ${policies} policies`,
      reason: 'IPsec cannot be carried yet',
      remedy: 'end it first: ip xfrm state flush; ip xfrm policy flush',
    },
  ];
}

/** ipset(8) */
function addressSets(): Refusal[] {
  const version = netlinkAttribute(IPSET.protocol, Buffer.of(IPSET.version));
  const payload = Buffer.concat([Buffer.from([AF.inet, 0, 0, 0]), version]);
  const names = dump(NETLINK.netfilter, IPSET.list, payload).flatMap((message) => {
    const name = new Map(netlinkAttributes(message, NETLINK_HEADER + 4)).get(IPSET.name);
    return name === undefined ? [] : [name.toString('utf8').replace(/\0.*$/, '')];
  });
  return [...new Set(names)].map((name) => ({
    code: 'network.ipset',
    object: `IP set ${name}`,
    reason: 'sets of ipset cannot be carried yet',
    remedy: `use a set of nftables, and remove it: ipset destroy ${name}`,
  }));
}

/** Connections whose addresses or ports nftables changes (IPS_SRC_NAT, IPS_DST_NAT of
 *  uapi/linux/netfilter/nf_conntrack_common.h): without their entry the answers go astray. What is only followed is
 *  picked up again in the middle (nf_conntrack_tcp_loose). A dump walks the table of all namespaces, 10 ms and more, so
 *  it is first asked whether this one has any entries; a kernel that does not count them is asked for all. */
function translations(): Refusal[] {
  if (tryReadProc('/proc/sys/net/netfilter/nf_conntrack_count')?.trim() === '0') return [];
  const found = dump(NETLINK.netfilter, CONNTRACK.get, Buffer.alloc(4)).filter((message) => {
    const status = new Map(netlinkAttributes(message, NETLINK_HEADER + 4)).get(CONNTRACK.status);
    return ((status?.readUInt32BE(0) ?? 0) & CONNTRACK.translated) !== 0;
  });
  if (found.length === 0) return [];
  return [
    {
      code: 'network.translation',
      object: `${found.length} connections with translated addresses`,
      reason: 'entries of connection tracking with address translation cannot be carried yet',
      remedy: 'end them first, or forget them: conntrack -D --any-nat',
    },
  ];
}

/** bridge-fdb(8): what somebody has entered. The kernel enters the devices' own addresses and multicast groups. */
function staticForwarding(links: readonly Uint8Array[]): Refusal[] {
  const payload = Buffer.alloc(12);
  payload.writeUInt8(AF.bridge, 0);
  const own = new Set(links.map((link) => attribute(link, IFLA.address)?.toString('hex')));
  return dump(NETLINK.route, RTM.getNeighbour, payload).flatMap((message) => {
    const state = message.readUInt16LE(NETLINK_HEADER + 8);
    const flags = message.readUInt8(NETLINK_HEADER + 10);
    const address = new Map(netlinkAttributes(message, NETLINK_HEADER + 12)).get(NDA_LLADDR);
    if (address === undefined || (state & NUD_SET) === 0) return [];
    const isGroup = (address.readUInt8(0) & 1) !== 0 && (flags & NTF_SELF) !== 0;
    // A vxlan device's default destination, which it is made with.
    const isDefault = address.every((byte) => byte === 0);
    const isKernels = own.has(address.toString('hex')) && (state & NUD_NOARP) === 0;
    if (isGroup || isDefault || isKernels) return [];
    const index = message.readInt32LE(NETLINK_HEADER + 4);
    const link = links.find((each) => indexOf(each) === index);
    const name = link === undefined ? `device ${index}` : nameOf(link);
    const text = [...address].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
    return [
      {
        code: 'network.forwarding',
        object: `static forwarding entry ${text} of ${name}`,
        reason: 'forwarding entries that were set by hand cannot be carried yet',
        remedy: `remove it: bridge fdb del ${text} dev ${name}`,
      },
    ];
  });
}

function bridgeVlans(link: Uint8Array): Refusal[] {
  if (kindOf(link) !== 'bridge') return [];
  const info = new Map(netlinkAttributes(attribute(link, IFLA.linkInfo)!, 0));
  const data = new Map(netlinkAttributes(info.get(2) ?? Buffer.alloc(0), 0));
  if ((data.get(IFLA_BR_VLAN_FILTERING)?.readUInt8(0) ?? 0) === 0) return [];
  return [
    {
      code: 'network.bridgeVlan',
      object: `bridge ${nameOf(link)} with VLAN filtering`,
      reason: 'the VLANs of its ports cannot be carried yet',
      remedy: `switch it off: ip link set ${nameOf(link)} type bridge vlan_filtering 0`,
    },
  ];
}

function flowtables(filters: readonly Uint8Array[]): Refusal[] {
  return filters.flatMap((message) => {
    const bytes = Buffer.from(message);
    if ((bytes.readUInt16LE(4) & 0xff) !== NFT_FLOWTABLE) return [];
    const attributes = new Map(netlinkAttributes(bytes, NETLINK_HEADER + 4));
    const name = attributes.get(2)?.toString('utf8').replace(/\0.*$/, '') ?? '?';
    return [
      {
        code: 'network.flowtable',
        object: `flowtable ${name} of nftables`,
        reason: 'flowtables cannot be carried yet',
        remedy: 'remove it and the rules that offload to it (nft delete flowtable)',
      },
    ];
  });
}

/** Rules of iptables-legacy, which nf_tables does not show. */
function legacyTables(): Refusal[] {
  return ['ip', 'ip6', 'arp'].flatMap((family) => {
    const file = `/proc/thread-self/net/${family}_tables_names`;
    const tables = (tryReadProc(file) ?? '').trim();
    if (tables === '') return [];
    return [
      {
        code: 'network.legacyTables',
        object: `tables ${tables.replaceAll('\n', ', ')} of ${family}tables-legacy`,
        reason: 'rules of the legacy packet filter cannot be carried',
        remedy: 'set them with iptables-nft or nft (update-alternatives --config iptables)',
      },
    ];
  });
}
