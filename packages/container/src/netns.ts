import { closeSync, openSync, statfsSync, writeFileSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { InvariantError } from '@ferry/core';
import { call, cString, ERRNO, sys, sysError } from '@ferry/linux';

const CLONE_NEWNET = 0x40000000;
const MS_BIND = 0x1000;
const MNT_DETACH = 2;
const NSFS_MAGIC = 0x6e736673;
const OWN = '/proc/thread-self/ns/net';

/** Runs `work`, which must be synchronous, with this thread in another network namespace. Sockets
 *  that it opens stay there; child processes that it starts run there. */
export function inNetns<T>(path: string, work: () => T): T {
  const own = openSync(OWN, 'r');
  try {
    const other = openSync(path, 'r');
    try {
      call('setns', other, CLONE_NEWNET);
    } finally {
      closeSync(other);
    }
    try {
      return work();
    } finally {
      goBack(own);
    }
  } finally {
    closeSync(own);
  }
}

/** A new network namespace, kept by a bind mount on the file `path`. */
export async function createNetns(path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  writeFileSync(path, '', { flag: 'wx', mode: 0o600 });
  const own = openSync(OWN, 'r');
  try {
    call('unshare', CLONE_NEWNET);
    try {
      bind(OWN, path);
    } finally {
      goBack(own);
    }
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  } finally {
    closeSync(own);
  }
}

/** Keeps the network namespace of a running process by a bind mount on `path`. */
export async function adoptNetns(path: string, pid: number): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  writeFileSync(path, '', { mode: 0o600 });
  bind(`/proc/${pid}/ns/net`, path);
}

/** Whether `path` keeps a namespace (in this process's mount namespace). */
export function isNetns(path: string): boolean {
  try {
    return statfsSync(path).type === NSFS_MAGIC;
  } catch {
    return false;
  }
}

/** Lets go of a namespace; the kernel removes it, with its devices, when no process is in it. */
export async function releaseNetns(path: string): Promise<void> {
  const result = sys('umount2', cString(path), MNT_DETACH);
  if (result < 0 && result !== -ERRNO.EINVAL && result !== -ERRNO.ENOENT) {
    throw sysError('umount2', -result, path);
  }
  await rm(path, { force: true });
}

function bind(source: string, target: string): void {
  const result = sys('mount', cString(source), cString(target), cString('none'), MS_BIND, null);
  if (result < 0) throw sysError('mount', -result, target);
}

/** A thread that stays in a container's namespace must not go on. */
function goBack(own: number): void {
  const result = sys('setns', own, CLONE_NEWNET);
  if (result < 0)
    throw new InvariantError(`The agent could not return to its network namespace (${result})`);
}
