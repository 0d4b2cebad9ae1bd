import type { KernelSetting, Namespace, NetworkNamespace, TunQueue } from '@ferry/image';
import { netlinkAttribute } from '@ferry/linux';
import type { CompileContext } from '../compile-context.js';
import type { ProgramBuilder, Slot } from '../program.js';
import { emitFilters } from './filters.js';
import { emitLinkStates, emitLinks, emitTunLink, type OtherNetwork, parseLinks } from './links.js';
import {
  attributeOf,
  CHANGE,
  emitChange,
  emitSocket,
  only,
  type Parsed,
  parseMessage,
  without,
} from './netlink.js';
import { emitSettings } from './settings.js';

const NETLINK_ROUTE = 0;
const RTM = {
  newAddress: 20,
  newRoute: 24,
  newNeighbour: 28,
  newRule: 32,
  deleteRule: 33,
  deleteAddress: 21,
  newNexthop: 104,
} as const;
const AF_INET = 2;
const AF_INET6 = 10;
const IFF_UP = 1;
const LOOPBACK = 1;
const IFA = { address: 1, local: 2, cacheInfo: 6, flags: 8 } as const;
const IFA_F_STATE = 0x40 | 0x8 | 0x80 | 0x1; // tentative, failed, permanent, secondary
const RTPROT_KERNEL = 2;
const RTM_F_CLONED = 0x200;
const RTNH_F_ONLINK = 4;
const RTA = {
  ...{ gateway: 5, multipath: 9, cacheInfo: 12, via: 18, expires: 23, nexthop: 30 },
  where: [4, 5, 9, 18, 21, 22], // RTA_OIF, GATEWAY, MULTIPATH, VIA, ENCAP_TYPE, ENCAP
} as const;
/** NHA_ID, GROUP, GROUP_TYPE, BLACKHOLE, OIF, GATEWAY, ENCAP_TYPE, ENCAP, FDB. */
const NHA = { group: 2, settable: [1, 2, 3, 4, 5, 6, 7, 8, 11] } as const;
const NUD_PERMANENT = 0x80;
const NTF_PROXY = 8;
const FRA = { priority: 6, table: 15 } as const;
/** Rules that every new namespace has: family, priority, table. */
const USUAL_RULES: readonly (readonly [number, number, number])[] = [
  [2, 0, 255],
  [2, 32766, 254],
  [2, 32767, 253],
  [AF_INET6, 0, 255],
  [AF_INET6, 32766, 254],
];

/** Everything in a network namespace. Runs inside it. What follows from its devices waits where another carried namespace
 *  has yet to make some of them (emitNetworkRest). */
export function emitNetwork(
  b: ProgramBuilder,
  namespace: Namespace,
  ctx: CompileContext,
  outer: number,
): void {
  const content = contentOf(namespace);
  if (content === undefined) return;
  const socket = emitSocket(b, NETLINK_ROUTE);
  const otherOf = (id: number): OtherNetwork => {
    const other = ctx.image.namespaces.find((candidate) => candidate.id === id);
    const isRoots = ctx.process(ctx.image.rootPid).namespaceIds.includes(id);
    return {
      fd: isRoots ? ctx.homeFd('net') : ctx.spaceFd(id),
      content: contentOf(other)!,
      isMade: ctx.networksMade.has(id),
    };
  };
  emitLinks(b, socket, content, { outerNamespace: outer, otherOf });
  ctx.networksMade.add(namespace.id);
  b.sys('close', [socket], 'close the netlink socket');
  if (content.outerLinks.length > 0) {
    const outside = ctx.namespaceFd('outerNetlink');
    emitLinkStates(b, outside, content.outerLinks);
    for (const address of content.outerAddresses) emitAddress(b, outside, address);
  }
  if (content.peers.length === 0) emitNetworkRest(b, namespace, ctx);
}

/** Settings, states, addresses, routes and rules, when every device stands. Runs inside the namespace. */
export function emitNetworkRest(
  b: ProgramBuilder,
  namespace: Namespace,
  ctx: CompileContext,
): void {
  const content = contentOf(namespace);
  if (content === undefined) return;
  const socket = emitSocket(b, NETLINK_ROUTE);
  emitSettings(b, namespace, ctx.namespaceFd('proc'));
  emitLinkStates(b, socket, content.links);
  emitLoopbackGone(b, socket, content);
  emitAddresses(b, socket, namespace, { content, proc: ctx.namespaceFd('proc') });
  emitNexthops(b, socket, content);
  emitRoutes(b, socket, content);
  emitRules(b, socket, content);
  for (const neighbour of content.neighbours) emitNeighbour(b, socket, neighbour);
  b.sys('close', [socket], 'close the netlink socket');
  if (content.filters.length > 0) emitFilters(b, content.filters);
}

/** Whether devices of it lead to other carried namespaces. */
export function hasCarriedPeers(namespace: Namespace): boolean {
  return (contentOf(namespace)?.peers.length ?? 0) > 0;
}

function contentOf(namespace: Namespace | undefined): NetworkNamespace | undefined {
  return namespace?.content?.$case === 'net' ? namespace.content.value : undefined;
}

/** A tun or tap device whose network namespace is not carried, once its descriptor has made it. */
export function emitTunDevice(
  b: ProgramBuilder,
  { link, addresses, routes }: Pick<TunQueue, 'link' | 'addresses' | 'routes'>,
): void {
  const socket = emitSocket(b, NETLINK_ROUTE);
  emitTunLink(b, socket, parseLinks([link])[0]!);
  emitLinkStates(b, socket, [link]);
  for (const address of addresses) emitAddress(b, socket, address);
  emitRoutes(b, socket, { routes }, CHANGE.replace);
  b.sys('close', [socket], 'close the netlink socket');
}

/** Addresses are good at once: nobody else can have them, and sockets are about to be bound to them. */
function emitAddresses(
  b: ProgramBuilder,
  socket: Slot,
  namespace: Namespace,
  options: { content: NetworkNamespace; proc: number },
): void {
  const { content, proc } = options;
  const six = content.addresses
    .map((address) => parseMessage(address, 8))
    .filter((address) => !isLoopback(address))
    .map(({ fixed }) => fixed)
    .filter((fixed) => fixed.readUInt8(0) === AF_INET6)
    .map((fixed) => fixed.readUInt32LE(4));
  const names = parseLinks(content.links)
    .filter(({ index }) => six.includes(index))
    .map(({ name }) => `net/ipv6/conf/${name}/accept_dad`);
  const set = (values: KernelSetting[]): void =>
    emitSettings(b, { ...namespace, settings: values }, proc);
  set(names.map((name) => ({ name, value: Buffer.from('0') })));
  for (const address of content.addresses) emitAddress(b, socket, address);
  const usualValue = (name: string): Buffer =>
    namespace.settings.find((setting) => setting.name === name)?.value ?? Buffer.from('1');
  set(names.map((name) => ({ name, value: usualValue(name) })));
}

function emitAddress(b: ProgramBuilder, socket: Slot | number, message: Uint8Array): void {
  const parsed = parseMessage(message, 8);
  if (isLoopback(parsed)) return;
  const flags = Buffer.alloc(4);
  const had = attributeOf(parsed, IFA.flags)?.readUInt32LE(0) ?? parsed.fixed.readUInt8(2);
  flags.writeUInt32LE(had & ~IFA_F_STATE);
  parsed.fixed.writeUInt8(0, 2);
  const attributes = without(parsed, [IFA.flags]);
  emitChange(b, socket, {
    type: RTM.newAddress,
    flags: CHANGE.replace,
    payload: Buffer.concat([parsed.fixed, attributes, netlinkAttribute(IFA.flags, flags)]),
    step: `address on device ${parsed.fixed.readUInt32LE(4)}`,
  });
}

/** 127.0.0.1/8 and ::1/128, which the loopback device gets by itself as it goes up. */
function isLoopback({ fixed, attributes }: Parsed): boolean {
  if (fixed.readUInt32LE(4) !== LOOPBACK) return false;
  const address = attributes.find(([type]) => type === IFA.address)?.[1].toString('hex');
  const length = fixed.readUInt8(1);
  return (address === '7f000001' && length === 8) || address === `${'0'.repeat(31)}1`;
}

/** 127.0.0.1/8 where somebody has removed it: before other addresses are there, which would go with it as its secondaries. */
function emitLoopbackGone(b: ProgramBuilder, socket: Slot, content: NetworkNamespace): void {
  const isUp = parseLinks(content.links).some(
    ({ index, flags }) => index === LOOPBACK && (flags & IFF_UP) !== 0,
  );
  const isThere = content.addresses
    .map((address) => parseMessage(address, 8))
    .some((parsed) => parsed.fixed.readUInt8(0) === AF_INET && isLoopback(parsed));
  if (!isUp || isThere) return;
  const fixed = Buffer.from([AF_INET, 8, 0, 0, LOOPBACK, 0, 0, 0]);
  const address = Buffer.from([127, 0, 0, 1]);
  const payload = Buffer.concat([fixed, netlinkAttribute(IFA.local, address)]);
  emitChange(b, socket, { type: RTM.deleteAddress, flags: 0, payload, step: '127.0.0.1 removed' });
}

/** ip-nexthop(8): single ones before groups of them. */
function emitNexthops(b: ProgramBuilder, socket: Slot, { nexthops }: NetworkNamespace): void {
  const parsed = nexthops.map((nexthop) => parseMessage(nexthop, 8));
  const isGroup = (nexthop: Parsed): number => (attributeOf(nexthop, NHA.group) ? 1 : 0);
  for (const nexthop of parsed.toSorted((x, y) => isGroup(x) - isGroup(y))) {
    // struct nhmsg: family, scope, protocol, flags; the scope is the kernel's to find.
    nexthop.fixed.writeUInt8(0, 1);
    nexthop.fixed.writeUInt32LE(nexthop.fixed.readUInt32LE(4) & RTNH_F_ONLINK, 4);
    emitChange(b, socket, {
      type: RTM.newNexthop,
      flags: CHANGE.replace,
      payload: Buffer.concat([nexthop.fixed, only(nexthop, NHA.settable)]),
      step: 'nexthop',
    });
  }
}

/** Routes that the kernel makes itself come with their addresses. */
function emitRoutes(
  b: ProgramBuilder,
  socket: Slot,
  { routes }: Pick<NetworkNamespace, 'routes'>,
  flags: number = CHANGE.append,
): void {
  const own = routes
    .map((route) => parseMessage(route, 12))
    .filter(({ fixed }) => fixed.readUInt8(5) !== RTPROT_KERNEL)
    .filter(({ fixed }) => (fixed.readUInt32LE(8) & RTM_F_CLONED) === 0);
  const isIndirect = (route: (typeof own)[number]): number =>
    [RTA.gateway, RTA.multipath, RTA.via].some((type) => attributeOf(route, type)) ? 1 : 0;
  for (const route of own.toSorted((x, y) => isIndirect(x) - isIndirect(y))) {
    route.fixed.writeUInt32LE(route.fixed.readUInt32LE(8) & RTNH_F_ONLINK, 8);
    emitChange(b, socket, {
      type: RTM.newRoute,
      flags,
      payload: Buffer.concat([route.fixed, without(route, left(route))]),
      step: 'route',
    });
  }
}

/** What a route is not made with: a nexthop object says where it leads. */
function left(route: Parsed): number[] {
  const always = [RTA.cacheInfo, RTA.expires];
  return attributeOf(route, RTA.nexthop) === undefined ? always : [...always, ...RTA.where];
}

function emitRules(b: ProgramBuilder, socket: Slot, { rules }: NetworkNamespace): void {
  const parsed = rules.map((rule) => parseMessage(rule, 12));
  const usual = (rule: (typeof parsed)[number], known: readonly number[]): boolean =>
    rule.fixed.readUInt8(0) === known[0] &&
    (attributeOf(rule, FRA.priority)?.readUInt32LE(0) ?? 0) === known[1] &&
    (attributeOf(rule, FRA.table)?.readUInt32LE(0) ?? rule.fixed.readUInt8(4)) === known[2];
  for (const rule of parsed) {
    if (USUAL_RULES.some((known) => usual(rule, known))) continue;
    if (![2, AF_INET6].includes(rule.fixed.readUInt8(0))) continue;
    const payload = Buffer.concat([rule.fixed, without(rule, [])]);
    emitChange(b, socket, {
      type: RTM.newRule,
      flags: CHANGE.create,
      payload,
      step: 'routing rule',
    });
  }
  if (parsed.length === 0) return;
  for (const known of USUAL_RULES) {
    const [family, priority] = known;
    if (!parsed.some((rule) => rule.fixed.readUInt8(0) === family)) continue;
    if (parsed.some((rule) => usual(rule, known))) continue;
    const fixed = Buffer.alloc(12);
    fixed.writeUInt8(family, 0);
    const value = Buffer.alloc(4);
    value.writeUInt32LE(priority);
    const payload = Buffer.concat([fixed, netlinkAttribute(FRA.priority, value)]);
    emitChange(b, socket, { type: RTM.deleteRule, flags: 0, payload, step: 'usual rule removed' });
  }
}

/** Only what somebody has set: the rest the kernel learns again. */
function emitNeighbour(b: ProgramBuilder, socket: Slot, message: Uint8Array): void {
  const parsed = parseMessage(message, 12);
  // One that is answered for (ip neigh add proxy) has no state; as ip-neighbour(8) makes it, it outlives a lost carrier.
  if ((parsed.fixed.readUInt8(10) & NTF_PROXY) !== 0) parsed.fixed.writeUInt16LE(NUD_PERMANENT, 8);
  if ((parsed.fixed.readUInt16LE(8) & NUD_PERMANENT) === 0) return;
  if (![2, AF_INET6].includes(parsed.fixed.readUInt8(0))) return;
  emitChange(b, socket, {
    type: RTM.newNeighbour,
    flags: CHANGE.replace,
    payload: Buffer.concat([parsed.fixed, without(parsed, [3, 4])]),
    step: 'neighbour',
  });
}
