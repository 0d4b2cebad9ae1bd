import { SysError } from '@ferry/core';
import type { CollectedDescriptors } from '../files/descriptors.js';
import { socketKind } from '../files/socket-table.js';
import { isTun, tunDeviceOf } from '../files/tun.js';
import type { NamespaceType } from './links.js';
import type { HeldNamespace } from './namespaces.js';

const LINK = /^(cgroup|ipc|mnt|net|pid|time|user|uts):\[\d+\]$/;

/** Namespaces that descriptors of the tree keep: files of /proc/PID/ns, and the network namespaces of sockets. What is
 *  closed meanwhile is left out. */
export function heldNamespaces({
  descriptions,
  networks,
}: Pick<CollectedDescriptors, 'descriptions' | 'networks'>): HeldNamespace[] {
  const found = new Map<string, HeldNamespace>();
  for (const { descriptor } of descriptions) {
    const { link, process, fd } = descriptor;
    const type = LINK.exec(link)?.[1] as NamespaceType | undefined;
    const object = `descriptor ${fd} -> ${link}`;
    if (type !== undefined) {
      found.set(link, { type, link, path: `/proc/${process.hostPid}/fd/${fd}`, process, object });
      continue;
    }
    try {
      const isOfNetwork = socketKind(descriptor) !== undefined || isTun(descriptor);
      const network = isOfNetwork ? networks.of(descriptor) : undefined;
      if (network === undefined || found.has(network.link)) continue;
      found.set(network.link, { type: 'net', ...network, process, object });
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
    }
  }
  return [...found.values()];
}

/** Names of tun and tap devices that descriptors of the tree carry. */
export function heldTunDevices({
  descriptions,
}: Pick<CollectedDescriptors, 'descriptions'>): ReadonlySet<string> {
  const tuns = descriptions.filter(({ descriptor }) => isTun(descriptor));
  return new Set(tuns.map(({ descriptor }) => tunDeviceOf(descriptor)));
}
