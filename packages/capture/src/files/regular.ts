import type { FileReference } from '@ferry/image';
import { call, cString, OwnedFd, parseMappings, tryReadProc } from '@ferry/linux';
import {
  deviceNumbers,
  externalKind,
  FILE_SYSTEM,
  fileSystemOf,
  isPathOnly,
  isPseudo,
  O_CLOEXEC,
  readWhole,
  refuse,
  standardFdOf,
  typeOf,
} from './common.js';
import type { Descriptor, FileCapture, FileContext } from './context.js';
import { isForeign, referenceOf } from './path.js';

/** Content of a deleted file goes into the image up to this many bytes. */
export const DELETED_BYTES_MAX = 16 * 1024 * 1024;

/** Regular files by path, and O_PATH descriptors of anything but directories. */
export const regularCapture: FileCapture = {
  matches(descriptor) {
    if (!descriptor.link.startsWith('/')) return false;
    const type = typeOf(descriptor);
    return type === 'regular' || (isPathOnly(descriptor) && type !== 'directory');
  },
  capture(descriptor, ctx) {
    const magic = isPathOnly(descriptor) ? 0 : fileSystemOf(descriptor, ctx);
    if (magic === FILE_SYSTEM.mqueue) {
      return refuse(descriptor, ctx, {
        code: 'file.messageQueue',
        reason: 'POSIX message queues cannot be carried yet',
        remedy: 'close the queue (mq_close) before migrating',
      });
    }
    const { device, inode, uid, gid } = descriptor.stat;
    if (isForeign(descriptor, ctx)) {
      const standardFd = standardFdOf(ctx.idsOfInode(device, inode), ctx);
      if (standardFd !== undefined) return externalKind(descriptor, standardFd, ctx);
    }
    const file = referenceOf(descriptor, ctx);
    if (file === undefined) return undefined;
    if (file.deleted) return captureDeleted(descriptor, file, ctx);
    if (magic === FILE_SYSTEM.proc && !isOwnProcFile(descriptor, ctx)) {
      return refuse(descriptor, ctx, {
        code: 'file.procOfProcess',
        reason: 'it belongs to a process or thread that does not exist yet when it is opened again',
        remedy: 'close it; a process may keep files of its own /proc/self open',
      });
    }
    return {
      $case: 'regular',
      value: { file, content: Buffer.alloc(0), pseudo: isPseudo(magic), uid, gid },
    };
  },
};

/** Files below /proc that can be opened again where descriptors are made: those of no process, and those of the only
 *  process that has them open. */
function isOwnProcFile(descriptor: Descriptor, ctx: FileContext): boolean {
  const match = /^\/proc\/(\d+)\/(?:task\/(\d+)\/)?/.exec(descriptor.link);
  if (match === null) return !/^\/proc\/(kmsg|pressure\/)/.test(descriptor.link);
  const [, pid, tid] = match;
  if (tid !== undefined && tid !== pid) return false;
  const id = ctx.idOf(descriptor.process.pid, descriptor.fd);
  const holders = id === undefined ? [] : ctx.holdersOf(id);
  return holders.length > 0 && holders.every(({ process }) => process.pid === Number(pid));
}

function captureDeleted(
  descriptor: Descriptor,
  file: FileReference,
  ctx: FileContext,
): ReturnType<FileCapture['capture']> {
  const { device, inode, uid, gid, size } = descriptor.stat;
  if (isMappedShared(device, inode, ctx)) {
    const sharedMemoryId = ctx.scanning
      ? 0
      : ctx.sharedMemoryId(device, inode, 'deletedFile', file.path, descriptor.dup());
    return { $case: 'memfd', value: { sharedMemoryId } };
  }
  if (size > BigInt(DELETED_BYTES_MAX)) {
    return refuse(descriptor, ctx, {
      code: 'file.deletedTooLarge',
      reason:
        `the file has no name any more and holds ${size} bytes; up to ` +
        `${DELETED_BYTES_MAX} are carried with the image`,
      remedy:
        'close the file, truncate it, or give it a name again ' +
        `(ln -L /proc/${descriptor.process.hostPid}/fd/${descriptor.fd} NAME)`,
    });
  }
  const carried = ctx.shared('deletedFiles', () => new Set<string>());
  const isFirst = !carried.has(`${device}:${inode}`);
  carried.add(`${device}:${inode}`);
  const content = ctx.scanning || !isFirst ? Buffer.alloc(0) : contentOf(descriptor);
  return { $case: 'regular', value: { file, content, pseudo: false, uid, gid } };
}

/** Opened anew: the description itself may be write-only, or in the middle of O_DIRECT. */
function contentOf(descriptor: Descriptor): Buffer {
  const path = `/proc/${descriptor.process.hostPid}/fd/${descriptor.fd}`;
  using reader = new OwnedFd(call('open', cString(path), O_CLOEXEC, 0));
  return readWhole(reader, Number(descriptor.stat.size));
}

/** Whether a process of the tree maps the file MAP_SHARED: then it is a shared memory object. */
function isMappedShared(device: bigint, inode: bigint, ctx: FileContext): boolean {
  const mapped = ctx.shared('sharedMappings', () => {
    const keys = new Set<string>();
    for (const { hostPid } of ctx.processes) {
      for (const mapping of parseMappings(tryReadProc(`/proc/${hostPid}/maps`) ?? '')) {
        if (mapping.shared) keys.add(`${mapping.device}:${mapping.inode}`);
      }
    }
    return keys;
  });
  const { major, minor } = deviceNumbers(device);
  const hex = (n: number) => n.toString(16).padStart(2, '0');
  return mapped.has(`${hex(major)}:${hex(minor)}:${inode}`);
}
