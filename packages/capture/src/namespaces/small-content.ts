import type { Namespace } from '@ferry/image';
import { inNamespace, readProc, readProcBytes, tryReadProc } from '@ferry/linux';
import { mountQueues } from '../message-queues.js';
import { captureQueues } from '../sysv-ipc.js';
import { ownerUidOf } from './links.js';

type Content = NonNullable<Namespace['content']>;

const NS = 1_000_000_000n;

/** The names of a UTS namespace. */
export function utsContent(path: string): Content {
  const read = (name: string): Buffer => trimmed(readProcBytes(`/proc/sys/kernel/${name}`));
  const value = inNamespace('uts', path, () => ({
    hostname: read('hostname'),
    domainname: read('domainname'),
  }));
  return { $case: 'uts', value };
}

/** How the user namespace of a process translates ids, and whose it is. */
export function userContent(path: string, hostPid: number): Content {
  const value = {
    uidMap: readProcBytes(`/proc/${hostPid}/uid_map`),
    gidMap: readProcBytes(`/proc/${hostPid}/gid_map`),
    denySetgroups: (tryReadProc(`/proc/${hostPid}/setgroups`) ?? '').startsWith('deny'),
    ownerUid: ownerUidOf(path),
  };
  return { $case: 'user', value };
}

/** The offsets of the time namespace that the children of a process are born in: "monotonic -1 500000000\nboottime 0 0\n". */
export function timeContent(hostPid: number): Content {
  const text = readProc(`/proc/${hostPid}/timens_offsets`);
  const offset = (clock: string): bigint => {
    const found = new RegExp(`^${clock}\\s+(-?\\d+)\\s+(\\d+)`, 'm').exec(text);
    return BigInt(found?.[1] ?? 0) * NS + BigInt(found?.[2] ?? 0);
  };
  const value = { monotonicNs: offset('monotonic'), boottimeNs: offset('boottime') };
  return { $case: 'time', value };
}

/** The message queues and semaphores of a nested IPC namespace. */
export function ipcContent(path: string): Content {
  const value = inNamespace('ipc', path, () => {
    using mount = mountQueues();
    return captureQueues(mount);
  });
  return { $case: 'ipc', value };
}

function trimmed(text: Buffer): Buffer {
  return text.at(-1) === 10 ? text.subarray(0, -1) : text;
}
