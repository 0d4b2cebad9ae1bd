import { inFreshNamespace, inNamespace } from '@ferry/linux';
import type { Found } from './refusals.js';
import { readSettings, settingBlocker, words } from './settings.js';

/** Settings that a device has of itself, or that router discovery finds: not what new ones are made with. Modes of addresses
 *  are told of the device (given-links.ts). */
const OF_ITSELF: ReadonlySet<string> = new Set([
  ...['mtu', 'hop_limit', 'addr_gen_mode', 'stable_secret', 'disable_policy', 'disable_xfrm'],
]);
/** Likewise of the loopback device (net/ipv6/addrconf.c: ipv6_add_dev). */
const OF_LOOPBACK: ReadonlySet<string> = new Set(['accept_dad', 'use_tempaddr']);
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

let freshCommon: ReadonlyMap<string, Buffer> | undefined;

/** What was set inside a container for its devices, and of IPv4 for all or for new ones.
 *  @param path  a way to the network namespace
 *  @param given  the device that its host gave it, and what its configuration sets below /proc/sys, by path: what that sets
 *    for all or for new devices tells nothing of those that were there */
export function deviceSettings(
  path: string,
  given: { device: string; settings: Readonly<Record<string, string>> },
): Found[] {
  const own = inNamespace('net', path, () => readSettings(FOLDERS));
  freshCommon ??= inFreshNamespace('net', () => readSettings(['net/ipv4/conf/all']));
  const configured = new Set(Object.keys(given.settings).map((name) => name.split('/').at(-1)));
  const text = (name: string): string | undefined => {
    const value = own.get(name);
    return value === undefined ? undefined : words(value.toString());
  };
  return [...own.keys()].flatMap((name) => {
    const place = placeOf(name);
    if (place === undefined || configured.has(place.key)) return [];
    const fresh = freshCommon?.get(name);
    const usual =
      place.device === 'all'
        ? commonOf(place, fresh === undefined ? undefined : words(fresh.toString()), text(name))
        : usualOf(place, given.device, text);
    const value = text(name) ?? '';
    if (usual === undefined || usual === value) return [];
    return [settingBlocker(name, value, `set it back: echo ${usual} > /proc/sys/${name}`)];
  });
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
  { family, kind, device, key }: Place,
  ownDevice: string,
  text: (name: string) => string | undefined,
): string | undefined {
  const of = (other: string): string | undefined => text(`net/${family}/${kind}/${other}/${key}`);
  if (kind === 'neigh') {
    return device === ownDevice && !OF_NEIGHBOURS.test(key) ? of('lo') : undefined;
  }
  if (OF_ITSELF.has(key) || ![ownDevice, 'lo', 'default'].includes(device)) return undefined;
  if (device === ownDevice && GIVEN[key] !== undefined) return GIVEN[key];
  if (OF_LOOPBACK.has(key)) return device === ownDevice ? of('default') : undefined;
  // Those of IPv6 for new devices are compared with other settings.
  if (device === 'default' && family === 'ipv6') return undefined;
  const [first, second] = [ownDevice, 'lo', 'default'].filter((each) => each !== device).map(of);
  if (first === second) return first;
  // Somebody has changed another one, which is told, or all of them.
  const isAlike = first === of(device) || second === of(device);
  return isAlike ? undefined : of('lo');
}
