import { emitOpen, emitOpenAt, inodeKey } from './common.js';
import { openingPath } from './covered.js';
import type { FileEmitter } from './emit.js';
import { emitNameless, lostOf, sameLost } from './nameless.js';
import { isProc, procFileEmitter } from './proc-file.js';

/** Directories: opened by path; the position is the one that getdents(2) goes on from. */
export const directoryEmitter: FileEmitter = {
  create(b, file, ctx) {
    if (isProc(file, ctx.image)) {
      procFileEmitter.create(b, file, ctx);
      return;
    }
    if (file.kind?.$case !== 'directory' || file.kind.value.file === undefined) return;
    const { file: reference } = file.kind.value;
    const lost = lostOf(file);
    if (lost === undefined) {
      emitOpen(b, file, openingPath(file, reference, ctx), ctx);
      return;
    }
    if (!ctx.once(`nameless:${inodeKey(reference)}`)) return;
    emitNameless(b, ctx.image, lost, (path, at) => {
      for (const each of sameLost(ctx.image, file)) {
        // Nothing is left in it to go on from.
        emitOpenAt(b, { ...each, position: 0n }, { path, at }, ctx);
      }
    });
  },
  installed(b, file, fd, ctx) {
    if (isProc(file, ctx.image)) procFileEmitter.installed(b, file, fd, ctx);
  },
  late(b, file, holder, ctx) {
    if (isProc(file, ctx.image)) procFileEmitter.late(b, file, holder, ctx);
  },
};
