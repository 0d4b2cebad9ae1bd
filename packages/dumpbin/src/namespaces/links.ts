import type { NetworkNamespace } from '@ferry/image';
import { netlinkAttribute, netlinkAttributes } from '@ferry/linux';
import type { ProgramBuilder, Slot } from '../program.js';
import { attributeOf, CHANGE, emitChange, only, type Parsed, parseMessage } from './netlink.js';

const RTM_NEWLINK = 16;
const IFLA = {
  ...{ address: 1, name: 3, mtu: 4, link: 5, master: 10, queueLength: 13, linkInfo: 18 },
  ...{ alias: 20, netnsFd: 28, group: 27, txQueues: 31, rxQueues: 32, linkNamespace: 37 },
} as const;
/** IFLA_GSO_MAX_SEGS, GSO_MAX_SIZE, GRO_MAX_SIZE, GSO_IPV4_MAX_SIZE, GRO_IPV4_MAX_SIZE, and what they are by default. */
const SEGMENTATION: ReadonlyMap<number, number> = new Map([
  [40, 65535],
  ...[41, 58, 63, 64].map((type): [number, number] => [type, 65536]),
]);
const INFO = { kind: 1, data: 2 } as const;
const VETH_INFO_PEER = 1;
const VXLAN = { link: 3, checksumReceive: 22, ttlInherit: 28 } as const;
const IFF_UP = 1;
/** IFF_UP, DEBUG, NOARP, PROMISC, ALLMULTI, MULTICAST, DYNAMIC: what ip-link(8) can set. */
const IFF_SETTABLE = 0x1 | 0x4 | 0x80 | 0x100 | 0x200 | 0x1000 | 0x8000;
const LOOPBACK = 1;
const TUN = {
  type: 3,
  pi: 4,
  vnetHeader: 5,
  persist: 6,
  multiQueue: 7,
  owner: 1,
  group: 2,
} as const;
const TUNSET = {
  iff: 0x400454ca,
  persist: 0x400454cb,
  owner: 0x400454cc,
  group: 0x400454ce,
} as const;
const TUNSETIFINDEX = 0x400454da;

export interface Link {
  readonly index: number;
  readonly flags: number;
  readonly name: string;
  readonly kind: string;
  readonly parsed: Parsed;
}

export function parseLinks(messages: readonly Uint8Array[]): Link[] {
  return messages.map((message) => {
    const parsed = parseMessage(message, 16);
    return {
      index: parsed.fixed.readInt32LE(4),
      flags: parsed.fixed.readUInt32LE(8),
      name: text(attributeOf(parsed, IFLA.name)),
      kind: text(info(parsed, INFO.kind)),
      parsed,
    };
  });
}

function text(value: Buffer | undefined): string {
  return value?.toString('utf8').split('\0')[0] ?? '';
}

function info(parsed: Parsed, type: number): Buffer | undefined {
  const found = attributeOf(parsed, IFLA.linkInfo);
  if (found === undefined) return undefined;
  return [...netlinkAttributes(found, 0)].find(([each]) => each === type)?.[1];
}

/** Another carried network namespace. */
export interface OtherNetwork {
  readonly fd: number;
  readonly content: NetworkNamespace;
  /** Whether its devices stand. */
  readonly isMade: boolean;
}

/** Makes every device, still down. A veth pair between two carried namespaces is made by the later one.
 *  @param options.outerNamespace  descriptor of the one outside that devices lead to */
export function emitLinks(
  b: ProgramBuilder,
  socket: Slot,
  content: NetworkNamespace,
  options: { outerNamespace: number; otherOf: (namespaceId: number) => OtherNetwork },
): void {
  const { outerNamespace, otherOf } = options;
  const links = parseLinks(content.links);
  const outer = parseLinks(content.outerLinks);
  const made = new Set([LOOPBACK]);
  const left = links.filter(({ index }) => index !== LOOPBACK);
  while (left.length > 0) {
    const ready = left.findIndex(
      (link) => lowerOf(link, links) === 0 || made.has(lowerOf(link, links)),
    );
    const [link] = left.splice(Math.max(0, ready), 1);
    if (made.has(link!.index)) continue;
    made.add(link!.index);
    if (link!.kind === 'tun') {
      emitTun(b, link!);
      emitTunLink(b, socket, link!);
      continue;
    }
    const carried = content.peers.find(({ index }) => index === link!.index);
    if (carried !== undefined) {
      const other = otherOf(carried.namespaceId);
      if (!other.isMade) continue;
      const end = parseLinks(other.content.links).find(({ index }) => index === carried.peerIndex);
      emitLink(b, socket, link!, { peer: end, outerNamespace: other.fd });
      continue;
    }
    const peer = peerOf(link!, links, outer);
    if (peer !== undefined && !outer.includes(peer)) made.add(peer.index);
    emitLink(b, socket, link!, {
      peer,
      outerNamespace: peer !== undefined && outer.includes(peer) ? outerNamespace : undefined,
    });
  }
}

/** The device that it stands on, when that one is in the namespace too and is not a veth's other end. */
function lowerOf(link: Link, links: readonly Link[]): number {
  if (link.kind === 'veth' || attributeOf(link.parsed, IFLA.linkNamespace) !== undefined) return 0;
  const told = link.kind === 'vxlan' ? vxlanLower(link) : attributeOf(link.parsed, IFLA.link);
  const lower = told?.readInt32LE(0) ?? 0;
  return lower !== link.index && links.some(({ index }) => index === lower) ? lower : 0;
}

function vxlanLower(link: Link): Buffer | undefined {
  const data = info(link.parsed, INFO.data) ?? Buffer.alloc(0);
  return new Map(netlinkAttributes(data, 0)).get(VXLAN.link);
}

function peerOf(link: Link, links: readonly Link[], outer: readonly Link[]): Link | undefined {
  if (link.kind !== 'veth') return undefined;
  const peer = attributeOf(link.parsed, IFLA.link)?.readInt32LE(0) ?? 0;
  const where = attributeOf(link.parsed, IFLA.linkNamespace) === undefined ? links : outer;
  return where.find(({ index }) => index === peer);
}

const CREATED_WITH = [
  ...[IFLA.address, IFLA.name, IFLA.mtu, IFLA.queueLength, IFLA.group],
  ...[IFLA.txQueues, IFLA.rxQueues],
];

/** What a tun or tap device is not made with. A tun device has no address. */
const TUN_SETTABLE = [IFLA.address, IFLA.mtu, IFLA.queueLength];

function header(link: Link, flags: number, mask: number): Buffer {
  const fixed = Buffer.alloc(16);
  fixed.writeInt32LE(link.index, 4);
  fixed.writeUInt32LE(flags, 8);
  fixed.writeUInt32LE(mask, 12);
  return fixed;
}

function emitLink(
  b: ProgramBuilder,
  socket: Slot,
  link: Link,
  options: { peer: Link | undefined; outerNamespace: number | undefined },
): void {
  const { peer, outerNamespace } = options;
  const parts = [header(link, 0, 0), only(link.parsed, CREATED_WITH)];
  const below = attributeOf(link.parsed, IFLA.link);
  if (link.kind !== 'veth' && below !== undefined && below.readInt32LE(0) !== 0) {
    parts.push(netlinkAttribute(IFLA.link, below));
  }
  let data = info(link.parsed, INFO.data) ?? Buffer.alloc(0);
  if (peer !== undefined) {
    const outside: Buffer[] = [];
    if (outerNamespace !== undefined) {
      const fd = Buffer.alloc(4);
      fd.writeInt32LE(outerNamespace);
      outside.push(netlinkAttribute(IFLA.netnsFd, fd));
    }
    const description = [header(peer, 0, 0), only(peer.parsed, CREATED_WITH), ...outside];
    data = netlinkAttribute(VETH_INFO_PEER, Buffer.concat(description));
  }
  if (link.kind === 'bridge') data = Buffer.alloc(0);
  if (link.kind === 'vxlan') data = vxlanData(data);
  if (link.kind === 'macvlan' || link.kind === 'macvtap') data = macvlanData(data);
  const kind = netlinkAttribute(INFO.kind, Buffer.from(link.kind));
  const described = data.length > 0 ? [kind, netlinkAttribute(INFO.data, data)] : [kind];
  parts.push(netlinkAttribute(IFLA.linkInfo, Buffer.concat(described)));
  emitChange(b, socket, {
    type: RTM_NEWLINK,
    flags: CHANGE.create,
    payload: Buffer.concat(parts),
    step: `network device ${link.name} (${link.kind})`,
  });
  if (link.kind === 'bridge') emitBridgeOptions(b, socket, link);
}

/** Switches that are told as numbers, and are on as soon as they are there: drivers/net/vxlan/vxlan_core.c, the policy of
 *  IFLA_VXLAN_TTL_INHERIT, and what vxlan_nl2conf calls used bits for IFLA_VXLAN_REMCSUM_RX. */
function vxlanData(data: Buffer): Buffer {
  const parts = [...netlinkAttributes(data, 0)].flatMap(([type, value]) => {
    const isSwitch = type === VXLAN.ttlInherit || type === VXLAN.checksumReceive;
    if (isSwitch && value[0] === 0) return [];
    return netlinkAttribute(type, type === VXLAN.ttlInherit ? Buffer.alloc(0) : value);
  });
  return Buffer.concat(parts);
}

/** IFLA_MACVLAN_*: mode 1, flags 2, address mode 3 with addresses 5, queue length 7, cutoff 9. The kernel tells the length
 *  that is in use and the number of addresses too, and lets neither be set (drivers/net/macvlan.c: macvlan_policy). */
const MACVLAN = { addressMode: 3, addresses: 5, settable: [1, 2, 5, 7, 9] } as const;
const MACVLAN_MACADDR_SET = 3;

function macvlanData(data: Buffer): Buffer {
  const parsed = { fixed: Buffer.alloc(0), attributes: [...netlinkAttributes(data, 0)] };
  const described = [only(parsed, MACVLAN.settable)];
  if ((attributeOf(parsed, MACVLAN.addresses)?.length ?? 0) > 0) {
    const mode = Buffer.alloc(4);
    mode.writeUInt32LE(MACVLAN_MACADDR_SET);
    described.push(netlinkAttribute(MACVLAN.addressMode, mode));
  }
  return Buffer.concat(described);
}

/** IFLA_BR_*: forward delay, hello time, max age, ageing time, STP, priority, VLAN filtering, group forwarding mask,
 *  multicast snooping: those that configure; the others tell the state. */
const BRIDGE_OPTIONS = [1, 2, 3, 4, 5, 6, 7, 9, 23];
/** What not every kernel lets be set, even to what it is by default. */
const BRIDGE_DEFAULTS: Readonly<Record<number, number>> = { 7: 0, 23: 1 };

function emitBridgeOptions(b: ProgramBuilder, socket: Slot, link: Link): void {
  const data = info(link.parsed, INFO.data);
  if (data === undefined) return;
  const attributes = [...netlinkAttributes(data, 0)].filter(
    ([type, value]) => BRIDGE_DEFAULTS[type] !== value.readUInt8(0),
  );
  const options = only({ fixed: Buffer.alloc(0), attributes }, BRIDGE_OPTIONS);
  const described = Buffer.concat([
    netlinkAttribute(INFO.kind, Buffer.from(link.kind)),
    netlinkAttribute(INFO.data, options),
  ]);
  const payload = Buffer.concat([header(link, 0, 0), netlinkAttribute(IFLA.linkInfo, described)]);
  emitChange(b, socket, { type: RTM_NEWLINK, flags: 0, payload, step: `options of ${link.name}` });
}

/** Makes a tun or tap device that persists until one that has it as a descriptor decides (files/tun.ts). */
export function emitTun(b: ProgramBuilder, link: Link, node = '/dev/net/tun'): void {
  const slot = b.slotFor('tun');
  b.sys('open', [b.cstr(node), 2, 0], `open ${node}`, { into: slot });
  emitTunInterface(b, slot, link);
  b.sys('ioctl', [slot, TUNSET.persist, 1], `persistence of ${link.name}`);
  b.sys('close', [slot], `close ${node}`);
}

/** Makes a descriptor of /dev/net/tun a queue of a device, which is made when there is none. */
export function emitTunInterface(b: ProgramBuilder, slot: Slot, link: Link): void {
  const data = info(link.parsed, INFO.data) ?? Buffer.alloc(0);
  const values = new Map(netlinkAttributes(data, 0));
  const is = (type: number): boolean => (values.get(type)?.readUInt8(0) ?? 0) !== 0;
  const flags =
    (values.get(TUN.type)?.readUInt8(0) ?? 1) |
    (is(TUN.pi) ? 0 : 0x1000) |
    (is(TUN.vnetHeader) ? 0x4000 : 0) |
    (is(TUN.multiQueue) ? 0x100 : 0);
  const request = Buffer.alloc(40);
  request.write(link.name, 0, 'utf8');
  request.writeUInt16LE(flags, 16);
  const index = Buffer.alloc(4);
  index.writeInt32LE(link.index);
  const step = (what: string): string => `${what} of ${link.name}`;
  b.sys('ioctl', [slot, TUNSETIFINDEX, b.bytes(index)], step('number'));
  b.sys('ioctl', [slot, TUNSET.iff, b.bytes(request)], `network device ${link.name} (tun)`);
  for (const [type, command] of [
    [TUN.owner, TUNSET.owner],
    [TUN.group, TUNSET.group],
  ] as const) {
    const value = values.get(type)?.readInt32LE(0);
    if (value !== undefined && value !== -1) b.sys('ioctl', [slot, command, value], step('owner'));
  }
}

/** Address, MTU and queue length of such a device. */
export function emitTunLink(b: ProgramBuilder, socket: Slot, link: Link): void {
  emitChange(b, socket, {
    type: RTM_NEWLINK,
    flags: CHANGE.set,
    payload: Buffer.concat([header(link, 0, 0), only(link.parsed, TUN_SETTABLE)]),
    step: `address of ${link.name}`,
  });
}

/** Flags, masters and what else changes a device that stands. */
export function emitLinkStates(
  b: ProgramBuilder,
  socket: Slot | number,
  messages: readonly Uint8Array[],
): void {
  const links = parseLinks(messages);
  const set = (link: Link, flags: number, mask: number, attributes: Buffer, step: string): void => {
    const payload = Buffer.concat([header(link, flags, mask), attributes]);
    emitChange(b, socket, { type: RTM_NEWLINK, flags: CHANGE.set, payload, step });
  };
  for (const link of links) {
    const master = only(link.parsed, [IFLA.master]);
    if (master.length > 0) set(link, 0, 0, master, `${link.name} gets its master`);
    const alias = only(link.parsed, [IFLA.alias]);
    if (alias.length > 0) set(link, 0, 0, alias, `alias of ${link.name}`);
    const segmentation = link.parsed.attributes.filter(([type]) => SEGMENTATION.has(type));
    if (segmentation.some(([type, value]) => value.readUInt32LE(0) !== SEGMENTATION.get(type))) {
      const sizes = only(link.parsed, [...SEGMENTATION.keys()]);
      set(link, 0, 0, sizes, `segmentation of ${link.name}`);
    }
    if (link.index === LOOPBACK) set(link, 0, 0, only(link.parsed, [IFLA.mtu]), 'MTU of lo');
  }
  for (const link of links) {
    const step = `${link.name} ${(link.flags & IFF_UP) === 0 ? 'down' : 'up'}`;
    set(link, link.flags & IFF_SETTABLE, IFF_SETTABLE, Buffer.alloc(0), step);
  }
}
