import { readdirSync } from 'node:fs';
import { call, cString, OwnedFd, readLink, sys } from '@ferry/linux';

export const TYPES = ['user', 'pid', 'time', 'cgroup', 'uts', 'ipc', 'net', 'mnt'] as const;
export type NamespaceType = (typeof TYPES)[number];
const NS_GET_USERNS = 0xb701;
const NS_GET_PARENT = 0xb702;
const NS_GET_OWNER_UID = 0xb704;
const NS_GET_PID_FROM_PIDNS = 0x8004b706;
const ESRCH = 3;

export interface NamespaceProcess {
  readonly hostPid: number;
  readonly command: string;
}

/** What a namespace is called, "net:[4026531840]": '' when this kernel has no such namespaces, or the process is a zombie. */
export function linkOf(hostPid: number | string, name: string): string {
  try {
    return readLink(`/proc/${hostPid}/ns/${name}`);
  } catch {
    return '';
  }
}

/** The user namespace that the one at a path belongs to (ioctl_ns(2)); '' when it is above ours. */
export function userNamespaceOf(path: string): string {
  return relativeOf(path, NS_GET_USERNS);
}

/** The namespace that the one at a path is nested in; '' when it is above ours. */
export function parentOf(path: string): string {
  return relativeOf(path, NS_GET_PARENT);
}

function relativeOf(path: string, which: number): string {
  const opened = sys('open', cString(path), 0o2000000, 0);
  if (opened < 0) return '';
  using fd = new OwnedFd(opened);
  const found = sys('ioctl', fd.number, which, 0);
  if (found < 0) return '';
  using other = new OwnedFd(found);
  return readLink(`/proc/self/fd/${other.number}`);
}

export function ownerUidOf(path: string): number {
  using fd = new OwnedFd(call('open', cString(path), 0o2000000, 0));
  const uid = Buffer.alloc(4);
  return sys('ioctl', fd.number, NS_GET_OWNER_UID, uid) < 0 ? 0 : uid.readUInt32LE(0);
}

/** A PID namespace without processes, in which none can be born any more. */
export function isOver(path: string): boolean {
  using fd = new OwnedFd(call('open', cString(path), 0o2000000, 0));
  return sys('ioctl', fd.number, NS_GET_PID_FROM_PIDNS, 1) === -ESRCH;
}

/** A zombie is in no namespace of most types. */
export function isLiving({ hostPid }: NamespaceProcess): boolean {
  return linkOf(hostPid, 'net') !== '';
}

/** Whether a process sees all of its mount namespace, not confined to a directory. */
export function isWhole(hostPid: number): boolean {
  try {
    return readLink(`/proc/${hostPid}/root`) === '/';
  } catch {
    return false;
  }
}

export function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

export function pathOf(link: string): string {
  try {
    return readLink(link);
  } catch {
    return '';
  }
}
