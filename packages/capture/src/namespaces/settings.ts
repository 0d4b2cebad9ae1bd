import { readdirSync, statSync } from 'node:fs';
import type { KernelSetting } from '@ferry/image';
import { inFreshNamespace, inNamespace, readProcBytes } from '@ferry/linux';
import type { Found } from './refusals.js';

/** Below /proc/sys, what belongs to an IPC or a network namespace. */
const FOLDERS = {
  ipc: [
    ...['kernel/shmmax', 'kernel/shmall', 'kernel/shmmni', 'kernel/shm_rmid_forced', 'kernel/sem'],
    ...['kernel/msgmax', 'kernel/msgmnb', 'kernel/msgmni', 'fs/mqueue'],
  ],
  net: ['net'],
} as const;
/** Files that do something when written, that only look like a value, or that another one tells more exactly
 *  (NAME_ms). */
const LEFT_OUT = [
  /\/(flush|nf_conntrack_count|random\/|dev_snmp6)/,
  /^net\/(core|unix)\/(rps_sock|flow_limit|bpf_)/,
  /\/neigh\/[^/]+\/(retrans_time|base_reachable_time)$/,
  /^net\/ipv6\/route\/gc_min_interval$/,
];

/** Settings that differ from those of a new namespace. */
export function changedSettings(type: 'ipc' | 'net', where: number | string): KernelSetting[] {
  const own = inNamespace(type, where, () => readSettings(FOLDERS[type]));
  const fresh = freshSettings(type);
  const changed: KernelSetting[] = [];
  for (const [name, value] of own) {
    const usual = [name, commonOf(name, 'default'), commonOf(name, 'lo')]
      .map((each) => fresh.get(each))
      .find((each) => each !== undefined);
    if (isSpread(name, own, fresh) || !(usual?.equals(value) ?? false)) {
      changed.push({ name, value });
    }
  }
  return changed.sort((a, b) => rank(a.name) - rank(b.name));
}

/** The setting for all devices, or for new ones, that goes with one of a device. Of neighbours there is neither in a new
 *  namespace, but its loopback device has what any would be made with (net/core/neighbour.c: neigh_parms_alloc). */
function commonOf(name: string, which: 'all' | 'default' | 'lo'): string {
  return name.replace(/\/(conf|neigh)\/[^/]+\//, `/$1/${which}/`);
}

/** Whether a setting of a device was changed, or will be, by setting it for all or for new ones; an address generation
 *  mode by the secret for it too (addrconf_sysctl_stable_secret, net/ipv6/addrconf.c). */
function isSpread(
  name: string,
  own: ReadonlyMap<string, Buffer>,
  fresh: ReadonlyMap<string, Buffer>,
): boolean {
  const sources = [commonOf(name, 'all'), commonOf(name, 'default')];
  if (sources.includes(name) || sources[0] === sources[1]) return false;
  if (name.endsWith('/addr_gen_mode')) sources.push('net/ipv6/conf/default/stable_secret');
  return sources.some((source) => {
    const [now, usual] = [own.get(source), fresh.get(source)];
    return now !== undefined && !(usual?.equals(now) ?? false);
  });
}

/** What is set for all devices changes each of them, so that theirs come after; a secret changes the mode that uses it. */
function rank(name: string): number {
  const ofDevice = /\/(conf|neigh)\//.test(name) && !/\/(all|default)\//.test(name);
  if (name.endsWith('/stable_secret')) return ofDevice ? 1 : 0;
  if (ofDevice) return 4;
  return /\/default\//.test(name) ? 3 : 2;
}

/** What a new namespace takes over from the host as that is set then (net/ipv4/tcp_ipv4.c: tcp_sk_init): that the host has
 *  it otherwise now tells nothing of the container, only what it was given does. */
const INHERITED: ReadonlySet<string> = new Set([
  ...['net/ipv4/tcp_rmem', 'net/ipv4/tcp_wmem', 'net/ipv4/tcp_congestion_control'],
]);
/** What is told otherwise (device-settings.ts), and a key that its host takes along (container: network.ts). The kernel makes
 *  one when a program first accepts with TCP_FASTOPEN. */
const NOT_ITS_OWN = [
  /\/neigh\//,
  // Devices are given with their settings.
  /^net\/ipv6\/conf\/(?!all\/|default\/)/,
  /^net\/ipv4\/(conf\/|tcp_fastopen_key$)/,
];
const FORWARDING = 'net/ipv4/ip_forward';

/** Settings that a container has changed, whose namespaces are made anew with what its configuration sets.
 *  @param given  what that sets, and what was taken over from the host, by path below /proc/sys */
export function addedSettings(
  changed: readonly KernelSetting[],
  given: Readonly<Record<string, string>>,
): Found[] {
  return changed.flatMap(({ name, value }) => {
    const text = words(Buffer.from(value).toString());
    const isTaken =
      NOT_ITS_OWN.some((kind) => kind.test(name)) || (name === FORWARDING && text === '0');
    const known = given[name];
    if (isTaken || words(known ?? '') === text) return [];
    if (INHERITED.has(name)) return known === undefined ? [] : [setBack(name, text, words(known))];
    const key = name.replaceAll('/', '.');
    return [
      settingBlocker(
        name,
        text,
        `set it in the container's spec (sysctl: { "${key}": "${text}" })`,
      ),
    ];
  });
}

function settingBlocker(name: string, text: string, remedy: string): Found {
  return {
    code: 'namespace.setting',
    object: `/proc/sys/${name} is ${text}`,
    reason: 'it was set inside the container, whose namespaces are made anew by its host',
    remedy,
  };
}

/** One that is to be as the container was given it. */
export function setBack(name: string, text: string, usual: string): Found {
  const value = /\s/.test(usual) ? `'${usual}'` : usual;
  return settingBlocker(name, text, `set it back: echo ${value} > /proc/sys/${name}`);
}

/** A value without the spaces that the kernel puts around and between its parts. */
export function words(text: string): string {
  return text.trim().split(/\s+/).join(' ');
}

const knownFresh = new Map<'ipc' | 'net', Map<string, Buffer>>();

/** Those of a new namespace; the scan before a freeze has them looked up already. */
function freshSettings(type: 'ipc' | 'net'): Map<string, Buffer> {
  const known = knownFresh.get(type);
  if (known !== undefined) return known;
  const fresh = inFreshNamespace(type, () => readSettings(FOLDERS[type]));
  knownFresh.set(type, fresh);
  return fresh;
}

/** Every setting below folders of /proc/sys, of the namespace that the thread is in. */
export function readSettings(folders: readonly string[]): Map<string, Buffer> {
  const found = new Map<string, Buffer>();
  const visit = (name: string): void => {
    const path = `/proc/sys/${name}`;
    let stat: { isDirectory(): boolean; mode: number };
    try {
      stat = statSync(path);
    } catch {
      return;
    }
    if (stat.isDirectory()) {
      for (const entry of readdirSync(path)) visit(`${name}/${entry}`);
      return;
    }
    if ((stat.mode & 0o600) !== 0o600 || LEFT_OUT.some((pattern) => pattern.test(name))) return;
    try {
      found.set(name, readProcBytes(path));
    } catch {
      // Some can be read only while something else is set.
    }
  };
  for (const folder of folders) visit(folder);
  return found;
}
