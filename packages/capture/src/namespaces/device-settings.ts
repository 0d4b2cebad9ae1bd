import { inFreshNamespace, inNamespace, netlinkAttributes, netlinkDump } from '@ferry/linux';
import { attribute, nameOf } from './network-links.js';
import type { Found } from './refusals.js';
import { readSettings, setBack, words } from './settings.js';

/** Modes of addresses are told of the device (given-links.ts). */
const OF_ADDRESSES: ReadonlySet<string> = new Set(['addr_gen_mode', 'stable_secret']);
/** What a router may tell a device of IPv6 (RFC 4861). */
const OF_ROUTERS = /^(mtu|hop_limit|retrans_time.*|base_reachable_time.*)$/;
/** What the loopback device has of itself, and others as they are made (net/ipv6/addrconf.c: ipv6_add_dev;
 *  net/ipv4/devinet.c: inetdev_init). */
const OF_LOOPBACK: ReadonlySet<string> = new Set([
  ...['accept_dad', 'use_tempaddr', 'disable_policy', 'disable_xfrm'],
]);
/** What the host sets for the device that it gives. */
const GIVEN: Readonly<Record<string, string>> = { accept_dad: '0' };
/** What of net/ipv4/conf is not 0 where nobody has changed it (net/ipv4/devinet.c: ipv4_devconf). */
const KERNEL_VALUES: Readonly<Record<string, string>> = {
  ...{ accept_redirects: '1', send_redirects: '1', secure_redirects: '1', shared_media: '1' },
  ...{ accept_source_route: '1', igmpv2_unsolicited_report_interval: '10000' },
  igmpv3_unsolicited_report_interval: '1000',
};
const FOLDERS = ['net/ipv4/conf', 'net/ipv6/conf', 'net/ipv4/neigh', 'net/ipv6/neigh'];

const RTM_GETLINK = 18;
const LINK_MESSAGE = 16;
const IFLA = { mtu: 4, afSpec: 26 } as const;
const INET6 = { family: 10, flags: 1 } as const;
/** The kernel has taken up a router advertisement (include/net/if_inet6.h). */
const IF_RA_RCVD = 0x20;

let freshKnown: ReadonlyMap<string, Buffer> | undefined;

type Reader = (name: string) => string | undefined;

/** What was set inside a container for its devices, and of IPv4 for all or for new ones.
 *  @param path  a way to the network namespace
 *  @param given  the device that its host gave it, and what its configuration sets below /proc/sys, by path: what that sets
 *    for all or for new devices tells nothing of those that were there */
export function deviceSettings(
  path: string,
  given: { device: string; settings: Readonly<Record<string, string>> },
): Found[] {
  const [own, devices] = inNamespace('net', path, () => [readSettings(FOLDERS), deviceFacts()]);
  freshKnown ??= inFreshNamespace('net', () => readSettings(FOLDERS));
  const configured = new Set(Object.keys(given.settings).map((name) => name.split('/').at(-1)));
  const [text, fresh] = [readerOf(own), readerOf(freshKnown)];
  return [...own.keys()].flatMap((name) => {
    const place = placeOf(name);
    if (place === undefined || configured.has(place.key)) return [];
    const usual =
      place.device === 'all'
        ? commonOf(place, fresh(name), text(name))
        : usualOf(place, given.device, { text, fresh, devices });
    const value = text(name) ?? '';
    if (usual === undefined || usual === value) return [];
    return [setBack(name, value, usual)];
  });
}

/** What a device's settings depend on. */
interface DeviceFacts {
  readonly mtu: number;
  readonly hasHeardRouter: boolean;
}

/** Of the network namespace that the thread is in, by name. */
function deviceFacts(): Map<string, DeviceFacts> {
  const links = netlinkDump(0, { type: RTM_GETLINK, payload: Buffer.alloc(LINK_MESSAGE) });
  const parts = (value: Buffer | undefined) =>
    new Map(netlinkAttributes(value ?? Buffer.alloc(0), 0));
  return new Map(
    links.map((link) => {
      const six = parts(parts(attribute(link, IFLA.afSpec)).get(INET6.family));
      const flags = six.get(INET6.flags)?.readUInt32LE(0) ?? 0;
      const mtu = attribute(link, IFLA.mtu)?.readUInt32LE(0) ?? 0;
      return [nameOf(link), { mtu, hasHeardRouter: (flags & IF_RA_RCVD) !== 0 }];
    }),
  );
}

function readerOf(settings: ReadonlyMap<string, Buffer>): Reader {
  return (name) => {
    const value = settings.get(name);
    return value === undefined ? undefined : words(value.toString());
  };
}

interface Place {
  readonly family: string;
  readonly kind: string;
  readonly device: string;
  readonly key: string;
}

function placeOf(name: string): Place | undefined {
  const [, family = '', kind = '', device, key] = name.split('/');
  return device === undefined || key === undefined ? undefined : { family, kind, device, key };
}

/** A new namespace takes over from the host what is set there then (net/ipv4/devinet.c: devinet_init_net): what is as the
 *  kernel has it may be the host's of an earlier time. Those of IPv6 are compared with other settings. */
function commonOf(
  { family, key }: Place,
  fresh: string | undefined,
  value: string | undefined,
): string | undefined {
  return family === 'ipv4' && value !== (KERNEL_VALUES[key] ?? '0') ? fresh : undefined;
}

/** What a setting was as the network was given. A device is made with what is set for new ones: that, the given device and
 *  the loopback device began alike, and the one that differs from both others was changed. */
function usualOf(
  place: Place,
  ownDevice: string,
  known: { text: Reader; fresh: Reader; devices: ReadonlyMap<string, DeviceFacts> },
): string | undefined {
  const { family, kind, device, key } = place;
  const nameOf = (other: string): string => `net/${family}/${kind}/${other}/${key}`;
  const of = (other: string): string | undefined => known.text(nameOf(other));
  const fresh = (other: string): string | undefined => known.fresh(nameOf(other));
  const isOwn = device === ownDevice;
  const facts = known.devices.get(device);
  if (family === 'ipv6' && (facts?.hasHeardRouter ?? false) && OF_ROUTERS.test(key))
    return undefined;
  if (kind === 'neigh') return neighbourUsual(place, ownDevice, { of, fresh: fresh('lo') });
  if (![ownDevice, 'lo', 'default'].includes(device) || OF_ADDRESSES.has(key)) return undefined;
  if (key === 'mtu') return facts === undefined ? undefined : String(facts.mtu);
  if (device === 'lo' && (OF_LOOPBACK.has(key) || key === 'hop_limit')) return fresh('lo');
  if (isOwn && GIVEN[key] !== undefined) return GIVEN[key];
  // Those of IPv6 for new devices are compared with other settings.
  if (device === 'default' && family === 'ipv6') return undefined;
  if (isOwn && key === 'hop_limit') return fresh('default');
  if (OF_LOOPBACK.has(key)) {
    const common = of('default');
    const usual = commonOf({ ...place, device: 'default' }, fresh('default'), common);
    return isOwn ? (usual ?? common) : usual;
  }
  const [first, second] = [ownDevice, 'lo', 'default'].filter((each) => each !== device).map(of);
  if (first === second) return first;
  // Somebody has changed another one, which is told, or all of them.
  const isAlike = first === of(device) || second === of(device);
  return isAlike ? undefined : of('lo');
}

/** Devices are made with the host's, now and then: the given one, that of the container's loopback device and that of a new
 *  one. */
function neighbourUsual(
  { device }: Place,
  ownDevice: string,
  { of, fresh }: { of: Reader; fresh: string | undefined },
): string | undefined {
  const [loopback, own] = [of('lo'), of(ownDevice)];
  if (device === ownDevice) return own === fresh ? undefined : loopback;
  return device === 'lo' && own === fresh ? fresh : undefined;
}
