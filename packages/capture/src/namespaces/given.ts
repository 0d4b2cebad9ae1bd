import { inNamespace, readProc } from '@ferry/linux';
import { fleetingSegments } from '../sysv-ipc.js';
import { addedMounts, type GivenMount } from './added-mounts.js';
import { deviceSettings } from './device-settings.js';
import type { GivenNetwork } from './given-network.js';
import type { NamespaceType } from './links.js';
import { parseMountInfo } from './mountinfo.js';
import { givenNetworkRefusals } from './network.js';
import type { Found } from './refusals.js';
import { addedSettings, changedSettings } from './settings.js';

export interface GivenOptions {
  /** The scan before the freeze: what there are thousands of is read in it alone. */
  readonly scanning: boolean;
  /** The namespaces of the root are made by whoever restores (a container's runtime), and not carried. */
  readonly rootGiven: boolean;
  /** Then: what is mounted by them; undefined: not known, and not checked. */
  readonly givenMounts?: readonly GivenMount[] | undefined;
  /** Likewise what is set below /proc/sys, by path ("net/ipv4/ip_forward"). */
  readonly givenSettings?: Readonly<Record<string, string>> | undefined;
  /** What its host has put into the network; undefined: not known, and not compared with. */
  readonly givenNetwork?: GivenNetwork | undefined;
  /** Names of tun and tap devices that come with descriptors of the tree. */
  readonly tunDevices: ReadonlySet<string>;
}

/** What the tree has added to the namespaces of its root, and would be gone: whoever restores makes them anew.
 *  @param isApart  whether the root has a namespace of this type that whoever captures is not in
 *  @param ends  numbers of the devices of its network that are joined to carried ones */
export function addedToGiven(
  hostPid: number,
  isApart: (type: NamespaceType) => boolean,
  options: GivenOptions & { readonly ends: ReadonlySet<number> },
): Found[] {
  const found: Found[] = [];
  if (options.rootGiven) {
    const network = `/proc/${hostPid}/ns/net`;
    const devices = { tuns: options.tunDevices, ends: options.ends };
    if (isApart('net')) found.push(...givenNetworkRefusals(network, devices, options.givenNetwork));
    if (isApart('mnt')) found.push(...mountsAdded(hostPid, options));
    for (const type of ['net', 'ipc'] as const) {
      if (isApart(type)) found.push(...settingsAdded(hostPid, type, options));
    }
  }
  return found;
}

function mountsAdded(hostPid: number, { givenMounts }: GivenOptions): Found[] {
  if (givenMounts === undefined) return [];
  const lines = parseMountInfo(readProc(`/proc/${hostPid}/mountinfo`));
  return addedMounts(lines, givenMounts).map(({ mountpoint, type }) => ({
    code: 'mount.added',
    object: `mount at ${mountpoint} (${type})`,
    reason: 'it was made inside the container, whose mounts its host makes anew',
    remedy: `unmount it (umount ${mountpoint}), or give it in the container's spec`,
  }));
}

function settingsAdded(
  hostPid: number,
  type: 'net' | 'ipc',
  { scanning, givenSettings, givenNetwork }: GivenOptions,
): Found[] {
  if (!scanning || givenSettings === undefined) return [];
  const path = `/proc/${hostPid}/ns/${type}`;
  return [
    ...addedSettings(changedSettings(type, path), givenSettings),
    ...(type === 'net' && givenNetwork !== undefined
      ? deviceSettings(path, { device: givenNetwork.device, settings: givenSettings })
      : []),
  ];
}

/** Segments of the tree's own IPC namespace are carried with whatever has them attached. To be asked before they are read,
 *  which would be their end. */
export function segmentsUnattached(hostPid: number): Found[] {
  return inNamespace('ipc', `/proc/${hostPid}/ns/ipc`, fleetingSegments).map((id) => ({
    code: 'ipc.fleetingSegment',
    object: `System V segment ${id}`,
    reason: 'nobody has it attached, and with kernel.shm_rmid_forced it would go once it was read',
    remedy: `attach it in the program, remove it (ipcrm -m ${id}), or set kernel.shm_rmid_forced to 0`,
  }));
}
