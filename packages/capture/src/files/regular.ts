import type { FileReference } from '@ferry/image';
import { parseMappings, tryReadProc } from '@ferry/linux';
import {
  deviceNumbers,
  externalKind,
  FILE_SYSTEM,
  fileSystemOf,
  isPathOnly,
  isPseudo,
  standardFdOf,
  typeOf,
} from './common.js';
import type { Descriptor, FileCapture, FileContext } from './context.js';
import { captureMessageQueue } from './message-queue.js';
import { namelessOf } from './nameless.js';
import { isForeign, referenceOf } from './path.js';
import { ofProcess } from './proc-file.js';

const named = { nameless: undefined, process: undefined };

/** Regular files by path, and O_PATH descriptors of anything but directories. */
export const regularCapture: FileCapture = {
  matches(descriptor) {
    if (!descriptor.link.startsWith('/')) return false;
    const type = typeOf(descriptor);
    return type === 'regular' || (isPathOnly(descriptor) && type !== 'directory');
  },
  capture(descriptor, ctx) {
    const magic = isPathOnly(descriptor) ? 0 : fileSystemOf(descriptor, ctx);
    if (magic === FILE_SYSTEM.mqueue) return captureMessageQueue(descriptor, ctx);
    const { device, inode } = descriptor.stat;
    if (isForeign(descriptor, ctx)) {
      const standardFd = standardFdOf(ctx.idsOfInode(device, inode), ctx);
      if (standardFd !== undefined) return externalKind(descriptor, standardFd, ctx);
    }
    const proc = ofProcess(descriptor, ctx);
    if (proc === undefined) return undefined;
    if (proc !== 'other') {
      return { $case: 'regular', value: { ...named, ...proc, pseudo: true } };
    }
    const file = referenceOf(descriptor, ctx);
    if (file === undefined) return undefined;
    if (file.deleted) return captureDeleted(descriptor, file, ctx);
    return { $case: 'regular', value: { ...named, file, pseudo: isPseudo(magic) } };
  },
};

function captureDeleted(
  descriptor: Descriptor,
  file: FileReference,
  ctx: FileContext,
): ReturnType<FileCapture['capture']> {
  const { device, inode, links } = descriptor.stat;
  if (links === 0 && isMapped(device, inode, ctx)) {
    const sharedMemoryId = ctx.scanning
      ? 0
      : ctx.sharedMemoryId(device, inode, 'deletedFile', file.path, descriptor.dup());
    return { $case: 'memfd', value: { sharedMemoryId } };
  }
  const nameless = namelessOf(descriptor, file.path, ctx);
  return nameless && { $case: 'regular', value: { ...named, file, nameless, pseudo: false } };
}

/** Whether a process of the tree maps the file: then it is a shared memory object. */
function isMapped(device: bigint, inode: bigint, ctx: FileContext): boolean {
  const mapped = ctx.shared('mappedFiles', () => {
    const keys = new Set<string>();
    for (const { hostPid } of ctx.processes) {
      for (const mapping of parseMappings(tryReadProc(`/proc/${hostPid}/maps`) ?? '')) {
        keys.add(`${mapping.device}:${mapping.inode}`);
      }
    }
    return keys;
  });
  const { major, minor } = deviceNumbers(device);
  const hex = (n: number) => n.toString(16).padStart(2, '0');
  return mapped.has(`${hex(major)}:${hex(minor)}:${inode}`);
}
