import type { FileReference, ProcFile } from '@ferry/image';
import { readLink, tryReadProc } from '@ferry/linux';
import { FILE_SYSTEM, fileSystemOf, isPathOnly, refuse, typeOf } from './common.js';
import type { Descriptor, FileContext, FileOwnerProcess } from './context.js';
import { mountPrefix } from './mount-prefix.js';
import { lstatPath } from './read-descriptors.js';

const PATH = /^\/proc\/(\d+)(?:\/task\/(\d+))?(?:\/.*)?$/s;
const DELETED = / \(deleted\)$/;

/** A file or folder of one process below /proc. */
export interface OfProcess {
  readonly file: FileReference;
  readonly process: ProcFile;
}

/** What such a file belongs to: a process of the tree, or one that has ended. 'other' when it is no such file;
 *  undefined after a blocker. */
export function ofProcess(
  descriptor: Descriptor,
  ctx: FileContext,
): OfProcess | 'other' | undefined {
  const path = descriptor.link.replace(DELETED, '');
  const match = PATH.exec(path);
  if (match === null || (isPathOnly(descriptor) && typeOf(descriptor) !== 'directory'))
    return 'other';
  if (fileSystemOf(descriptor, ctx) !== FILE_SYSTEM.proc) return 'other';
  const pid = Number(match[1]);
  const tid = Number(match[2] ?? 0);
  const prefix = mountPrefix(descriptor, ctx);
  const space = spaceOf(`${prefix}/proc`, ctx);
  const found = ctx.processes.find((process) => numberIn(space, process, ctx) === pid);
  const isInside = found !== undefined || isZombieChild(`${prefix}/proc/${pid}`, space, ctx);
  const isThere = lstatPath(`${prefix}/proc/${pid}`) !== undefined;
  const isThread = tid !== 0 && tid !== pid;
  if (isThread || (isThere && !isInside)) {
    return refuse(descriptor, ctx, {
      code: 'file.procOfProcess',
      reason: isThread
        ? 'it belongs to a thread, which does not exist yet when it is opened again'
        : `it belongs to process ${pid}, which is outside the tree`,
      remedy: 'close it; a process may keep files of processes of its tree open',
    });
  }
  if (!isInside && space !== undefined) {
    return refuse(descriptor, ctx, {
      code: 'file.procOfProcess',
      reason: `it belongs to process ${pid} of a nested PID namespace, which has ended`,
      remedy: 'close it; a process may keep files of processes of its tree open',
    });
  }
  const { device, inode, size, mtimeNs, mode } = descriptor.stat;
  return {
    file: { path, device, inode, size, mtimeNs, mode, deleted: false },
    process: { pid: found?.pid ?? pid, ended: !isThere },
  };
}

/** Whether a process has ended and one of the tree (in the PID namespace of its root) has not waited for it yet. */
function isZombieChild(folder: string, space: string | undefined, ctx: FileContext): boolean {
  const status = space === undefined ? tryReadProc(`${folder}/status`) : undefined;
  if (status === undefined || !/^State:\tZ/m.test(status)) return false;
  const parent = Number(/^PPid:\t(\d+)/m.exec(status)?.[1]);
  return ctx.processes.some(({ pid }) => pid === parent);
}

/** The nested PID namespace that a mounted /proc shows; undefined: that of the tree's root. */
function spaceOf(proc: string, ctx: FileContext): string | undefined {
  try {
    const shown = readLink(`${proc}/1/ns/pid`);
    return shown === readLink(`/proc/${ctx.processes[0]!.hostPid}/ns/pid`) ? undefined : shown;
  } catch {
    return undefined;
  }
}

function numberIn(
  space: string | undefined,
  { pid, hostPid }: FileOwnerProcess,
  ctx: FileContext,
): number | undefined {
  if (space === undefined) return pid;
  const isThere = ctx.shared(`PID namespace of ${hostPid}`, () =>
    readLink(`/proc/${hostPid}/ns/pid`),
  );
  return isThere === space ? ctx.pids.inner(hostPid).at(-1) : undefined;
}
