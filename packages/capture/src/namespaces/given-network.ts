import { NETLINK_HEADER, netlinkAttributes, tryReadProc } from '@ferry/linux';
import { textOf } from './address-text.js';
import { givenLinkChanges } from './given-links.js';
import { attribute, indexOf, nameOf, type Refusal } from './network-links.js';

/** What a container's host puts into its network namespace. Addresses are hex digits, 8 or 32 of them. */
export interface GivenNetwork {
  readonly device: string;
  /** Twelve hex digits. */
  readonly mac: string;
  readonly addresses: readonly { readonly address: string; readonly prefix: number }[];
  /** Of default routes. */
  readonly gateways: readonly string[];
}

/** Dumps of rtnetlink(7), of one network namespace. */
export interface Routing {
  readonly links: readonly Buffer[];
  readonly addresses: readonly Buffer[];
  readonly routes: readonly Buffer[];
  readonly rules: readonly Buffer[];
  readonly neighbours: readonly Buffer[];
}

const LOOPBACK = 1;
const IFLA = { state: 16 } as const;
const STATE_UP = 6;
const AF = { inet: 2, inet6: 10, ipMulticast: 128, ip6Multicast: 129 } as const;
const FIXED = { address: 8, route: 12, rule: 12, neighbour: 12 } as const;
const IFA = { address: 1, local: 2, flags: 8, origin: 11 } as const;
const IFA_F_PERMANENT = 0x80;
const RTA = {
  destination: 1,
  device: 4,
  gateway: 5,
  priority: 6,
  multipath: 9,
  table: 15,
} as const;
/** What a route has whatever it was made with: RTA_OIF, GATEWAY, PRIORITY, CACHEINFO, TABLE, PREF. */
const RTA_USUAL: ReadonlySet<number> = new Set([4, 5, 6, 12, 15, 20]);
const RTN_UNICAST = 1;
const ROUTE_TYPES = [
  ...['unspec', '', 'local', 'broadcast', 'anycast', 'multicast', 'blackhole', 'unreachable'],
  ...['prohibit', 'throw', 'nat'],
];
/** RTPROT_REDIRECT, RTPROT_KERNEL, RTPROT_RA: nobody in the container has set it, and it comes again. */
const RTPROT_FOUND: ReadonlySet<number> = new Set([1, 2, 9]);
const RTPROT_KERNEL = 2;
const RTM_F_CLONED = 0x200;
const TABLE = { default: 253, main: 254, local: 255 } as const;
const IP6_PRIORITY = 1024;
const FRA = { priority: 6, suppressPrefix: 14, table: 15, protocol: 21 } as const;
const FR_ACT_TO_TABLE = 1;
/** Rules of a new namespace: family, priority, table (fib_rules.c, fib6_rules.c, ipmr.c and ip6mr.c of the kernel). */
const USUAL_RULES: readonly (readonly [number, number, number])[] = [
  [AF.inet, 0, TABLE.local],
  [AF.inet, 32766, TABLE.main],
  [AF.inet, 32767, TABLE.default],
  [AF.inet6, 0, TABLE.local],
  [AF.inet6, 32766, TABLE.main],
  [AF.ipMulticast, 32767, TABLE.default],
  [AF.ip6Multicast, 32767, TABLE.main],
];
/** How ip(8) is told of those of a family. */
const RULE_FAMILIES: Readonly<Record<number, string>> = {
  [AF.inet]: 'ip rule',
  [AF.inet6]: 'ip -6 rule',
  [AF.ipMulticast]: 'ip mrule',
  [AF.ip6Multicast]: 'ip -6 mrule',
};
const NUD = { noarp: 0x40, permanent: 0x80 } as const;
const NDA = { address: 1, hardware: 2 } as const;

/** Devices that are carried, though the network is not. */
export interface CarriedDevices {
  /** Names of those that come with their descriptors, addresses and routes. */
  readonly tuns: ReadonlySet<string>;
  /** Numbers of veth ends of carried namespaces, which come with their addresses. */
  readonly ends: ReadonlySet<number>;
}

/** What somebody in a container has set in the network that its host gave it, or removed from it. The host makes it as it
 *  was given, so that this would be gone, or come back. Runs in the namespace; changes nothing. */
export function givenNetworkChanges(
  routing: Routing,
  { addresses, ...named }: GivenNetwork,
  carried: CarriedDevices,
): Refusal[] {
  const names = new Map(routing.links.map((link) => [indexOf(link), nameOf(link)]));
  const link = routing.links.find((candidate) => nameOf(candidate) === named.device);
  const ofLink = link === undefined ? undefined : linkLocal(link, named);
  const given = { ...named, addresses: [...addresses, ...(ofLink === undefined ? [] : [ofLink])] };
  const view = { given, names, index: link === undefined ? -1 : indexOf(link), carried };
  return [
    ...givenLinkChanges(routing.links, given),
    ...addressChanges(routing.addresses, view),
    ...routeChanges(routing.routes, view),
    ...ruleChanges(routing.rules),
    ...neighbourChanges(routing.neighbours, view),
  ];
}

/** What the kernel gives a device that carries IPv6, of its hardware address: net/ipv6/addrconf.c, addrconf_addr_gen. It
 *  is not known for those that it is told to make otherwise. */
function linkLocal(
  link: Buffer,
  { device, mac }: Pick<GivenNetwork, 'device' | 'mac'>,
): GivenNetwork['addresses'][number] | undefined {
  const isReady = attribute(link, IFLA.state)?.readUInt8(0) === STATE_UP;
  const hasIpv6 = tryReadProc(`/proc/sys/net/ipv6/conf/${device}/disable_ipv6`)?.trim() === '0';
  const mode = tryReadProc(`/proc/sys/net/ipv6/conf/${device}/addr_gen_mode`)?.trim();
  if (!isReady || !hasIpv6 || mode !== '0') return undefined;
  const first = (Number.parseInt(mac.slice(0, 2), 16) ^ 2).toString(16).padStart(2, '0');
  const identifier = `${first}${mac.slice(2, 6)}fffe${mac.slice(6)}`;
  return { address: `fe80${'0'.repeat(12)}${identifier}`, prefix: 64 };
}

interface View {
  readonly given: GivenNetwork;
  readonly names: ReadonlyMap<number, string>;
  /** Of the given device; -1 when it is gone. */
  readonly index: number;
  readonly carried: CarriedDevices;
}

function added(object: string, remedy: string): Refusal {
  return {
    code: 'network.added',
    object,
    reason: 'it was set inside the container, whose network its host makes anew',
    remedy,
  };
}

function removed(object: string, remedy: string): Refusal {
  return {
    code: 'network.removed',
    object: `${object}, which is missing`,
    reason: 'it was removed inside the container, and its host would give it again',
    remedy,
  };
}

function addressChanges(addresses: readonly Buffer[], view: View): Refusal[] {
  const { given, names, index, carried } = view;
  const parsed = addresses.map((message) => {
    const { fixed, attributes } = parse(message, FIXED.address);
    const peer = attributes.get(IFA.address)?.toString('hex') ?? '';
    const address = attributes.get(IFA.local)?.toString('hex') ?? peer;
    const flags = attributes.get(IFA.flags)?.readUInt32LE(0) ?? fixed.readUInt8(2);
    const origin = attributes.get(IFA.origin)?.readUInt8(0) ?? 0;
    const [prefix, device] = [fixed.readUInt8(1), fixed.readUInt32LE(4)];
    return { address, peer, flags, origin, prefix, device, scope: fixed.readUInt8(3) };
  });
  // Since Linux 5.18 the kernel tells which ones are its own (IFA_PROTO).
  const tellsOrigin = parsed.some(({ origin }) => origin !== 0);
  const expected = [
    { device: LOOPBACK, address: '7f000001', prefix: 8 },
    { device: LOOPBACK, address: `${'0'.repeat(31)}1`, prefix: 128 },
    ...given.addresses.map((each) => ({ device: index, ...each })),
  ];
  type Parsed = (typeof parsed)[number];
  const isSame = (each: Parsed, { device, address, prefix }: (typeof expected)[number]): boolean =>
    each.device === device &&
    each.address === address &&
    each.peer === address &&
    each.prefix === prefix;
  const isKernels = ({ address, flags, origin }: Parsed): boolean => {
    if (tellsOrigin || address.length === 8) return origin !== 0;
    // Found by router discovery, or made from the hardware address.
    return (flags & IFA_F_PERMANENT) === 0 || /^fe80/.test(address);
  };
  const isCarried = ({ device }: Parsed): boolean =>
    carried.ends.has(device) || carried.tuns.has(names.get(device) ?? '');
  const extra = parsed.filter(
    (each) => !(isKernels(each) || isCarried(each) || expected.some((it) => isSame(each, it))),
  );
  const missing = given.addresses.filter(
    (each) => !parsed.some((it) => isSame(it, { device: index, ...each })),
  );
  return [
    ...extra.map(({ address, prefix, device }) => {
      const name = names.get(device) ?? `if${device}`;
      const text = `${textOf(address)}/${prefix}`;
      return added(`address ${text} of ${name}`, `remove it: ip addr del ${text} dev ${name}`);
    }),
    ...missing.map(({ address, prefix }) => {
      const text = `${textOf(address)}/${prefix}`;
      const nodad = address.length === 8 ? '' : ' nodad';
      const command = `ip addr add ${text} dev ${given.device}${nodad}`;
      return removed(`address ${text} of ${given.device}`, `give it back: ${command}`);
    }),
  ];
}

interface Route {
  readonly family: number;
  readonly type: number;
  readonly protocol: number;
  readonly destination: string;
  readonly prefix: number;
  readonly gateway: string | undefined;
  readonly device: number | undefined;
  readonly table: number;
  readonly priority: number;
  /** It has more than a destination, a gateway, a device, a table and a priority. */
  readonly isSpecial: boolean;
}

function routeOf(message: Buffer): Route | undefined {
  const { fixed, attributes } = parse(message, FIXED.route);
  if ((fixed.readUInt32LE(8) & RTM_F_CLONED) !== 0) return undefined;
  const family = fixed.readUInt8(0);
  if (family !== AF.inet && family !== AF.inet6) return undefined;
  const own = [...attributes.keys()].filter((type) => type !== RTA.destination);
  return {
    family,
    prefix: fixed.readUInt8(1),
    protocol: fixed.readUInt8(5),
    type: fixed.readUInt8(7),
    destination: attributes.get(RTA.destination)?.toString('hex') ?? '',
    gateway: attributes.get(RTA.gateway)?.toString('hex'),
    device: attributes.get(RTA.device)?.readUInt32LE(0),
    table: attributes.get(RTA.table)?.readUInt32LE(0) ?? fixed.readUInt8(4),
    priority: attributes.get(RTA.priority)?.readUInt32LE(0) ?? 0,
    isSpecial:
      fixed.readUInt8(2) !== 0 || fixed.readUInt8(3) !== 0 || own.some((t) => !RTA_USUAL.has(t)),
  };
}

function routeChanges(messages: readonly Buffer[], view: View): Refusal[] {
  const { given, names, index, carried } = view;
  const routes = messages.flatMap((message) => routeOf(message) ?? []);
  const isDefault = (route: Route, gateway: string): boolean =>
    route.gateway === gateway &&
    route.prefix === 0 &&
    route.type === RTN_UNICAST &&
    route.device === index &&
    route.table === TABLE.main &&
    route.priority === (route.family === AF.inet6 ? IP6_PRIORITY : 0) &&
    !route.isSpecial;
  const extra = routes.filter(
    (route) =>
      !RTPROT_FOUND.has(route.protocol) &&
      !(carried.tuns.has(names.get(route.device ?? 0) ?? '') && route.table !== TABLE.local) &&
      !given.gateways.some((gateway) => isDefault(route, gateway)),
  );
  const lost = given.gateways.filter((gateway) => !routes.some((it) => isDefault(it, gateway)));
  // Those of an address that is missing are given back with it.
  const cut = given.addresses.filter(
    ({ address, prefix }) =>
      prefix < address.length * 4 &&
      routes.some((it) => it.table === TABLE.local && it.destination === address) &&
      !routes.some(
        (it) =>
          it.protocol === RTPROT_KERNEL &&
          it.device === index &&
          it.prefix === prefix &&
          it.destination === networkOf(address, prefix),
      ),
  );
  return [
    ...extra.map((route) => {
      const text = routeText(route, names);
      const six = route.family === AF.inet6 ? ' -6' : '';
      return added(`route ${text}`, `remove it: ip${six} route del ${text}`);
    }),
    ...lost.map((gateway) => {
      const text = `default via ${textOf(gateway)} dev ${given.device}`;
      return removed(`route ${text}`, `give it back: ip route add ${text}`);
    }),
    ...cut.map(({ address, prefix }) => {
      const text = `${textOf(networkOf(address, prefix))}/${prefix} dev ${given.device}`;
      const six = address.length === 8 ? ` src ${textOf(address)} scope link` : ' metric 256';
      return removed(`route ${text}`, `give it back: ip route add ${text} proto kernel${six}`);
    }),
  ];
}

function routeText(route: Route, names: ReadonlyMap<number, string>): string {
  const { prefix, destination, gateway, device, table, priority, type } = route;
  const to = prefix === 0 ? 'default' : `${textOf(destination)}/${prefix}`;
  return [
    ...(type === RTN_UNICAST ? [] : [ROUTE_TYPES[type] ?? String(type)]),
    to,
    ...(gateway === undefined ? [] : ['via', textOf(gateway)]),
    ...(device === undefined ? [] : ['dev', names.get(device) ?? `if${device}`]),
    ...(table === TABLE.main ? [] : ['table', String(table)]),
    ...(priority === 0 ? [] : ['metric', String(priority)]),
  ].join(' ');
}

function ruleChanges(messages: readonly Buffer[]): Refusal[] {
  const rules = messages.map((message) => {
    const { fixed, attributes } = parse(message, FIXED.rule);
    const priority = attributes.get(FRA.priority)?.readUInt32LE(0) ?? 0;
    const table = attributes.get(FRA.table)?.readUInt32LE(0) ?? fixed.readUInt8(4);
    const known: readonly number[] = [FRA.priority, FRA.suppressPrefix, FRA.table, FRA.protocol];
    const suppressed = attributes.get(FRA.suppressPrefix)?.readInt32LE(0) ?? -1;
    const isPlain =
      fixed.subarray(1, 4).every((byte) => byte === 0) &&
      fixed.readUInt8(7) === FR_ACT_TO_TABLE &&
      fixed.readUInt32LE(8) === 0 &&
      suppressed === -1 &&
      [...attributes.keys()].every((type) => known.includes(type));
    return { family: fixed.readUInt8(0), priority, table, isPlain };
  });
  if (rules.length === 0) return []; // a kernel without them
  type Rule = (typeof rules)[number];
  const isUsual = (rule: Rule): boolean =>
    rule.isPlain &&
    USUAL_RULES.some(
      ([family, priority, table]) =>
        rule.family === family && rule.priority === priority && rule.table === table,
    );
  const command = (family: number): string => RULE_FAMILIES[family] ?? 'ip rule';
  const missing = USUAL_RULES.filter(
    ([family, priority, table]) =>
      rules.some((rule) => rule.family === family) &&
      !rules.some(
        (it) =>
          it.isPlain && it.family === family && it.priority === priority && it.table === table,
      ),
  );
  return [
    ...rules
      .filter((rule) => !isUsual(rule))
      .map(({ family, priority }) =>
        added(
          `routing rule ${priority} (${command(family)})`,
          `remove it: ${command(family)} del pref ${priority}`,
        ),
      ),
    ...missing.map(([family, priority, table]) =>
      removed(
        `routing rule ${priority} (${command(family)})`,
        `give it back: ${command(family)} add pref ${priority} lookup ${table}`,
      ),
    ),
  ];
}

/** Entries that somebody has set. Permanent ones of the given device go along with what it has found
 *  (neighbour-table.ts of the container package). */
function neighbourChanges(messages: readonly Buffer[], { names, index }: View): Refusal[] {
  return messages.flatMap((message) => {
    const { fixed, attributes } = parse(message, FIXED.neighbour);
    const [device, state] = [fixed.readInt32LE(4), fixed.readUInt16LE(8)];
    const hardware = attributes.get(NDA.hardware);
    const isOfGroup = ((hardware?.[0] ?? 0) & 1) !== 0;
    const isPermanent = (state & NUD.permanent) !== 0;
    const isBare = hardware === undefined || hardware.every((byte) => byte === 0);
    // The kernel enters groups, and what a device without hardware addresses leads to, in this state.
    const isSet = isPermanent || ((state & NUD.noarp) !== 0 && !isOfGroup && !isBare);
    const address = attributes.get(NDA.address)?.toString('hex');
    if (!isSet || address === undefined) return [];
    if (device === index && isPermanent && !isOfGroup && !isBare) return [];
    const name = names.get(device) ?? `if${device}`;
    const text = `${textOf(address)} dev ${name}`;
    return [added(`neighbour ${text}`, `remove it: ip neigh del ${text}`)];
  });
}

function parse(message: Buffer, length: number) {
  const start = NETLINK_HEADER + length;
  const attributes = new Map(netlinkAttributes(message, start));
  return { fixed: message.subarray(NETLINK_HEADER, start), attributes };
}

function networkOf(address: string, prefix: number): string {
  const bits = address.length * 4;
  const rest = BigInt(bits - prefix);
  const network = (BigInt(`0x${address}`) >> rest) << rest;
  return network.toString(16).padStart(address.length, '0');
}
