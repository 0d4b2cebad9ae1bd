import type { FileObject, ProcFile, TreeImage } from '@ferry/image';
import { emitOpen, grouping, openFlags } from './common.js';
import {
  emitReplace,
  emitStandIn,
  emitTakeOver,
  emitWhileLiving,
  firstHolder,
} from './deferred.js';
import type { FileEmitter } from './emit.js';

const SEEK_SET = 0;

/** What a file of /proc/PID says of its process; undefined for every other file. */
export function procOf({ kind }: FileObject): (ProcFile & { path: string }) | undefined {
  if (kind?.$case !== 'regular' && kind?.$case !== 'directory') return undefined;
  const { process, file } = kind.value;
  return process === undefined || file === undefined ? undefined : { ...process, path: file.path };
}

/** Whether it must wait for its process: it is another one than the only one that has it open. */
export function isDeferred(file: FileObject, image: TreeImage): boolean {
  const proc = procOf(file);
  if (proc === undefined || proc.ended) return false;
  return image.processes.some(
    ({ pid, descriptors }) =>
      pid !== proc.pid && descriptors.some(({ fileId }) => fileId === file.id),
  );
}

/** Whether such a file is made here: a process opens those of its own by itself. */
export function isProc(file: FileObject, image: TreeImage): boolean {
  return procOf(file)?.ended === true || isDeferred(file, image);
}

const sameEnded = grouping((file) => {
  const proc = procOf(file);
  return proc?.ended ? `${proc.pid}` : undefined;
});

/** Files and folders of /proc/PID, for `isDeferred` ones and those of processes that have ended: they are opened while a
 *  process of that PID lives. */
export const procFileEmitter: Required<Pick<FileEmitter, 'create' | 'installed' | 'late'>> = {
  create(b, file, ctx) {
    const proc = procOf(file)!;
    if (!proc.ended) {
      emitStandIn(b, file, ctx);
      return;
    }
    if (!ctx.once(`ended /proc/${proc.pid}`)) return;
    emitWhileLiving(b, { pid: proc.pid, name: `/proc/${proc.pid}` }, () => {
      for (const each of sameEnded(ctx.image, file)) emitOpen(b, each, procOf(each)!.path, ctx);
    });
  },
  installed(b, file, _fd, ctx) {
    const proc = procOf(file)!;
    const holder = firstHolder(ctx.image, file.id);
    if (proc.ended || holder === undefined) return;
    const slot = b.slotFor('file');
    const name = `open ${proc.path}`;
    b.sys('open', [b.cstr(proc.path), openFlags(file.flags), 0], name, { into: slot });
    if (file.position !== 0n) {
      b.sys('lseek', [slot, file.position, SEEK_SET], `position in ${proc.path}`, {
        expect: { value: file.position },
      });
    }
    emitReplace(b, slot, file, { holder, name });
  },
  late(b, file, holder, ctx) {
    const proc = procOf(file)!;
    if (!proc.ended) emitTakeOver(b, file, holder, `open ${proc.path}`, ctx.image);
  },
};
