import type { FileObject, RegularFile } from '@ferry/image';
import { emitOpen, emitOpenAt, inodeKey } from './common.js';
import { openingPath } from './covered.js';
import type { FileEmitter } from './emit.js';
import { emitNameless, lostOf, lostWithContent, sameLost } from './nameless.js';
import { isProc, procFileEmitter } from './proc-file.js';

/** Regular files: opened by path. One that has no name any more is made again from the content in the image, opened
 *  once for each description of it, and unlinked. */
export const regularEmitter: FileEmitter = {
  create(b, file, ctx) {
    if (isProc(file, ctx.image)) {
      procFileEmitter.create(b, file, ctx);
      return;
    }
    const { file: reference } = partOf(file);
    if (reference === undefined) return;
    if (lostOf(file) === undefined) {
      emitOpen(b, file, openingPath(file, reference, ctx), ctx);
      return;
    }
    if (!ctx.once(`nameless:${inodeKey(reference)}`)) return;
    const files = sameLost(ctx.image, file);
    emitNameless(b, ctx.image, lostWithContent(files), (path, at) => {
      for (const each of files) emitOpenAt(b, each, { path, at }, ctx);
    });
  },
  installed(b, file, fd, ctx) {
    if (isProc(file, ctx.image)) procFileEmitter.installed(b, file, fd, ctx);
  },
  late(b, file, holder, ctx) {
    if (isProc(file, ctx.image)) procFileEmitter.late(b, file, holder, ctx);
  },
};

function partOf(file: FileObject): RegularFile {
  if (file.kind?.$case !== 'regular') throw new TypeError(`File ${file.id} is no regular file`);
  return file.kind.value;
}
