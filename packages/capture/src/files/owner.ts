import type { FileOwner } from '@ferry/image';
import { call, procStatus } from '@ferry/linux';
import { isPathOnly, O_ASYNC, refuse, typeOf } from './common.js';
import type { Descriptor, FileContext } from './context.js';

const F_GETSIG = 11;
const F_GETOWN_EX = 16;
const F_GETOWNER_UIDS = 17;
const F_OWNER_PGRP = 2;

/** Who gets signals about a description (F_SETOWN_EX, F_SETSIG). Of anonymous files, which
 *  there may be many of, only those are asked that have O_ASYNC. */
export function ownerOf(descriptor: Descriptor, ctx: FileContext): FileOwner | undefined {
  if (isPathOnly(descriptor)) return undefined;
  const type = typeOf(descriptor);
  if (ctx.scanning && type !== 'directory') return undefined;
  if (type === undefined && (descriptor.flags & O_ASYNC) === 0) return undefined;
  const fd = descriptor.dup().number;
  const raw = Buffer.alloc(8);
  call('fcntl', fd, F_GETOWN_EX, raw);
  const kind = raw.readInt32LE(0);
  const hostPid = raw.readInt32LE(4);
  if (type === 'directory' && hostPid !== 0) return refuseWatch(descriptor, ctx);
  const signal = call('fcntl', fd, F_GETSIG);
  if (hostPid === 0) {
    return signal === 0 ? undefined : { pid: 0, type: kind, signal, uid: 0, euid: 0 };
  }
  const pid = innerPid(hostPid, kind, ctx);
  if (pid !== undefined) return { pid, type: kind, signal, ...setterOf(fd) };
  return refuse(descriptor, ctx, {
    code: 'file.ownerOutside',
    reason: `its signals go to process ${hostPid}, which is outside the tree`,
    remedy: 'dump that process too (start at a common ancestor), or take F_SETOWN back',
  });
}

/** Who has set the owner: fcntl(2) F_GETOWNER_UIDS, which kernels with CONFIG_CHECKPOINT_RESTORE have. */
function setterOf(fd: number): { uid: number; euid: number } {
  const raw = Buffer.alloc(8);
  try {
    call('fcntl', fd, F_GETOWNER_UIDS, raw);
  } catch {
    return { uid: 0, euid: 0 };
  }
  return { uid: raw.readUInt32LE(0), euid: raw.readUInt32LE(4) };
}

/** A folder has an owner when it is watched with F_NOTIFY; for what, the kernel does not tell. */
function refuseWatch(descriptor: Descriptor, ctx: FileContext): undefined {
  return refuse(descriptor, ctx, {
    code: 'file.dnotify',
    reason: 'the folder is watched with F_NOTIFY (dnotify), which the kernel does not show',
    remedy: 'use inotify(7) in the program',
  });
}

/** The kernel tells pids as our PID namespace numbers them. */
function innerPid(hostPid: number, kind: number, ctx: FileContext): number | undefined {
  const process = ctx.processes.find((candidate) => candidate.hostPid === hostPid);
  if (process !== undefined) return process.pid;
  try {
    const status = procStatus(`/proc/${hostPid}/status`);
    const group = Number(status.get('Tgid'));
    const isInside = ctx.processes.some((candidate) => candidate.hostPid === group);
    if (isInside) return ctx.pids.outer(hostPid);
  } catch {
    // A group without a leader has no /proc entry.
  }
  if (kind !== F_OWNER_PGRP) return undefined;
  return innerGroup(hostPid, ctx);
}

/** A process group of ours as the tree's PID namespace numbers it; undefined when no process of the tree is in it. */
export function innerGroup(
  hostGroup: number,
  ctx: Pick<FileContext, 'processes' | 'pids'>,
): number | undefined {
  for (const { hostPid } of ctx.processes) {
    const groups = procStatus(`/proc/${hostPid}/status`).get('NSpgid')?.split('\t').map(Number);
    if (groups?.[0] === hostGroup) return ctx.pids.outer(hostPid, 'NSpgid');
  }
  return undefined;
}
