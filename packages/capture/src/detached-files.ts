import { SysError } from '@ferry/core';
import type { FileReference } from '@ferry/image';
import { call, cString, type Mapping, OwnedFd, readLink, readProc, sys } from '@ferry/linux';
import { mapFilesPath } from './memory.js';

const O_PATH_CLOEXEC = 0o12000000;

/** Whether a mapped file, which has its name, is on a mount that the process's namespace no longer has (umount2(2) MNT_DETACH,
 *  after pivot_root(2) mostly), and its path leads elsewhere by now: it could not be opened again. */
export function isDetached(hostPid: number, mapping: Mapping, file: FileReference): boolean {
  if (file.deleted || mapping.name.includes('\\')) return false;
  try {
    // Seen from a changed root neither the path nor the mounts are all.
    if (readLink(`/proc/${hostPid}/root`) !== '/') return false;
    return !isAt(`/proc/${hostPid}/root${mapping.name}`, file) && !hasMount(hostPid, mapping);
  } catch (error) {
    if (error instanceof SysError) return false;
    throw error;
  }
}

function isAt(path: string, { device, inode }: FileReference): boolean {
  const stat = Buffer.alloc(144);
  if (sys('lstat', cString(path), stat) < 0) return false;
  return stat.readBigUInt64LE(0) === device && stat.readBigUInt64LE(8) === inode;
}

function hasMount(hostPid: number, mapping: Mapping): boolean {
  using file = new OwnedFd(
    call('open', cString(mapFilesPath(hostPid, mapping)), O_PATH_CLOEXEC, 0),
  );
  const id = /^mnt_id:\s*(\d+)/m.exec(readProc(`/proc/self/fdinfo/${file.number}`))?.[1];
  return new RegExp(`^${id} `, 'm').test(readProc(`/proc/${hostPid}/mountinfo`));
}
