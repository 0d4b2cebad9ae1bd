import { inFreshNamespace, inNamespace } from '@ferry/linux';
import type { Found } from './refusals.js';
import { readSettings, setBack, words } from './settings.js';

/** Settings that a device has of itself, or that router discovery finds: not what new ones are made with. Modes of addresses
 *  are told of the device (given-links.ts). */
const OF_ITSELF: ReadonlySet<string> = new Set([
  ...['mtu', 'hop_limit', 'addr_gen_mode', 'stable_secret'],
]);
/** What the loopback device has of itself, and others as they are made (net/ipv6/addrconf.c: ipv6_add_dev;
 *  net/ipv4/devinet.c: inetdev_init). */
const OF_LOOPBACK: ReadonlySet<string> = new Set([
  ...['accept_dad', 'use_tempaddr', 'disable_policy', 'disable_xfrm'],
]);
/** What router discovery finds of IPv6. */
const OF_NEIGHBOURS = /^(retrans_time|base_reachable_time)/;
/** What the host sets for the device that it gives. */
const GIVEN: Readonly<Record<string, string>> = { accept_dad: '0' };
/** What of net/ipv4/conf is not 0 where nobody has changed it (net/ipv4/devinet.c: ipv4_devconf). */
const KERNEL_VALUES: Readonly<Record<string, string>> = {
  ...{ accept_redirects: '1', send_redirects: '1', secure_redirects: '1', shared_media: '1' },
  ...{ accept_source_route: '1', igmpv2_unsolicited_report_interval: '10000' },
  igmpv3_unsolicited_report_interval: '1000',
};
const FOLDERS = ['net/ipv4/conf', 'net/ipv6/conf', 'net/ipv4/neigh', 'net/ipv6/neigh'];

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
  const own = inNamespace('net', path, () => readSettings(FOLDERS));
  freshKnown ??= inFreshNamespace('net', () => readSettings(FOLDERS));
  const configured = new Set(Object.keys(given.settings).map((name) => name.split('/').at(-1)));
  const [text, fresh] = [readerOf(own), readerOf(freshKnown)];
  return [...own.keys()].flatMap((name) => {
    const place = placeOf(name);
    if (place === undefined || configured.has(place.key)) return [];
    const usual =
      place.device === 'all'
        ? commonOf(place, fresh(name), text(name))
        : usualOf(place, given.device, { text, fresh });
    const value = text(name) ?? '';
    if (usual === undefined || usual === value) return [];
    return [setBack(name, value, usual)];
  });
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
  { text, fresh }: { text: Reader; fresh: Reader },
): string | undefined {
  const { family, kind, device, key } = place;
  const nameOf = (other: string): string => `net/${family}/${kind}/${other}/${key}`;
  const of = (other: string): string | undefined => text(nameOf(other));
  const isOwn = device === ownDevice;
  if (kind === 'neigh') return neighbourUsual(place, ownDevice, { of, fresh: fresh(nameOf('lo')) });
  if (![ownDevice, 'lo', 'default'].includes(device)) return undefined;
  if (device === 'lo' && (OF_LOOPBACK.has(key) || key === 'hop_limit')) return fresh(nameOf('lo'));
  if (OF_ITSELF.has(key)) return undefined;
  if (isOwn && GIVEN[key] !== undefined) return GIVEN[key];
  // Those of IPv6 for new devices are compared with other settings.
  if (device === 'default' && family === 'ipv6') return undefined;
  if (OF_LOOPBACK.has(key)) {
    const common = of('default');
    const usual = commonOf({ ...place, device: 'default' }, fresh(nameOf('default')), common);
    return isOwn ? (usual ?? common) : usual;
  }
  const [first, second] = [ownDevice, 'lo', 'default'].filter((each) => each !== device).map(of);
  if (first === second) return first;
  // Somebody has changed another one, which is told, or all of them.
  const isAlike = first === of(device) || second === of(device);
  return isAlike ? undefined : of('lo');
}

/** Devices are made with the host's, now and then: the given one, that of the container's loopback device and that of a new
 *  one. Neighbours of IPv6 may be found other times by a router. */
function neighbourUsual(
  { family, device, key }: Place,
  ownDevice: string,
  { of, fresh }: { of: Reader; fresh: string | undefined },
): string | undefined {
  const [loopback, own] = [of('lo'), of(ownDevice)];
  const isFound = family === 'ipv6' && OF_NEIGHBOURS.test(key);
  if (device === ownDevice) return isFound || own === fresh ? undefined : loopback;
  if (device !== 'lo') return undefined;
  return own === fresh ? fresh : undefined;
}
