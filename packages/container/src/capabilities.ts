import { readFileSync } from 'node:fs';
import { FerryError } from '@ferry/core';

/** Capability names by number: include/uapi/linux/capability.h. */
export const CAPABILITIES = [
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_DAC_READ_SEARCH',
  'CAP_FOWNER',
  'CAP_FSETID',
  'CAP_KILL',
  'CAP_SETGID',
  'CAP_SETUID',
  'CAP_SETPCAP',
  'CAP_LINUX_IMMUTABLE',
  'CAP_NET_BIND_SERVICE',
  'CAP_NET_BROADCAST',
  'CAP_NET_ADMIN',
  'CAP_NET_RAW',
  'CAP_IPC_LOCK',
  'CAP_IPC_OWNER',
  'CAP_SYS_MODULE',
  'CAP_SYS_RAWIO',
  'CAP_SYS_CHROOT',
  'CAP_SYS_PTRACE',
  'CAP_SYS_PACCT',
  'CAP_SYS_ADMIN',
  'CAP_SYS_BOOT',
  'CAP_SYS_NICE',
  'CAP_SYS_RESOURCE',
  'CAP_SYS_TIME',
  'CAP_SYS_TTY_CONFIG',
  'CAP_MKNOD',
  'CAP_LEASE',
  'CAP_AUDIT_WRITE',
  'CAP_AUDIT_CONTROL',
  'CAP_SETFCAP',
  'CAP_MAC_OVERRIDE',
  'CAP_MAC_ADMIN',
  'CAP_SYSLOG',
  'CAP_WAKE_ALARM',
  'CAP_BLOCK_SUSPEND',
  'CAP_AUDIT_READ',
  'CAP_PERFMON',
  'CAP_BPF',
  'CAP_CHECKPOINT_RESTORE',
] as const;

/** What a container gets unless its spec says otherwise: the set that container engines agreed
 *  on. */
export const DEFAULT_CAPABILITIES: readonly string[] = [
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_FOWNER',
  'CAP_FSETID',
  'CAP_KILL',
  'CAP_SETGID',
  'CAP_SETUID',
  'CAP_SETPCAP',
  'CAP_NET_BIND_SERVICE',
  'CAP_NET_RAW',
  'CAP_SYS_CHROOT',
  'CAP_MKNOD',
  'CAP_AUDIT_WRITE',
  'CAP_SETFCAP',
];

/** What the restorer may need, beyond the container's own, to build processes that then drop to
 *  what was recorded. */
const RESTORE_CAPABILITIES: readonly string[] = [
  'CAP_CHECKPOINT_RESTORE', // clone3 set_tid, PR_SET_MM_MAP, map_files
  'CAP_SYS_ADMIN', // seccomp filters without no_new_privs, setns, mount ids
  'CAP_NET_ADMIN', // TCP_REPAIR, SO_*BUFFORCE, SO_MARK
  'CAP_NET_RAW',
  'CAP_NET_BIND_SERVICE',
  'CAP_SYS_RESOURCE', // hard limits, oom_score_adj, pipe sizes
  'CAP_SYS_PTRACE',
  'CAP_SYS_NICE',
  'CAP_SYS_TIME', // alarm timers of CLOCK_BOOTTIME_ALARM go with CAP_WAKE_ALARM
  'CAP_WAKE_ALARM',
  'CAP_IPC_LOCK',
  'CAP_IPC_OWNER',
  'CAP_KILL',
  'CAP_SETUID',
  'CAP_SETGID',
  'CAP_SETPCAP',
  'CAP_SETFCAP',
  'CAP_CHOWN',
  'CAP_FOWNER',
  'CAP_FSETID',
  'CAP_DAC_OVERRIDE',
  'CAP_DAC_READ_SEARCH',
  'CAP_SYS_CHROOT',
  'CAP_MKNOD',
  'CAP_LEASE',
];

/** The capabilities this process could give away: its bounding set. */
export function hostCapabilities(status = readFileSync('/proc/self/status', 'utf8')): Set<string> {
  const mask = BigInt(`0x${/^CapBnd:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`);
  return new Set(CAPABILITIES.filter((_, bit) => ((mask >> BigInt(bit)) & 1n) === 1n));
}

/** The capabilities of a container: `base` plus `add` minus `drop`, in the kernel's order.
 *  @throws FerryError container.spec for a name that is no capability */
export function chooseCapabilities(
  base: readonly string[],
  change: { add: readonly string[]; drop: readonly string[] },
): string[] {
  const chosen = new Set(change.drop.includes('ALL') ? [] : base);
  for (const name of change.drop) if (name !== 'ALL') chosen.delete(capability(name));
  for (const name of change.add) chosen.add(capability(name));
  return CAPABILITIES.filter((name) => chosen.has(name));
}

/** The container's own and all that the restorer needs, as far as this host has them. */
export function restoreCapabilities(own: readonly string[], host: ReadonlySet<string>): string[] {
  const wanted = new Set([...own, ...RESTORE_CAPABILITIES]);
  return CAPABILITIES.filter((name) => wanted.has(name) && host.has(name));
}

function capability(name: string): string {
  const full = name.startsWith('CAP_') ? name : `CAP_${name}`;
  if ((CAPABILITIES as readonly string[]).includes(full)) return full;
  throw new FerryError('container.spec', `${name} is not a capability`, {
    remedy: 'use a name from capabilities(7), such as CAP_NET_ADMIN',
  });
}
