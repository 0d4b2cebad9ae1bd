import { emitOpen, emitOpenAt, inodeKey } from './common.js';
import type { FileEmitter } from './emit.js';
import { emitNameless, lostOf, sameLost } from './nameless.js';

/** Character devices that keep nothing (/dev/null and its kin): opened by path; they have no position. */
export const deviceEmitter: FileEmitter = {
  create(b, file, ctx) {
    if (file.kind?.$case !== 'device') return;
    const lost = lostOf(file);
    if (lost === undefined) {
      emitOpen(b, { ...file, position: 0n }, file.kind.value.path, ctx);
      return;
    }
    if (!ctx.once(`nameless:${inodeKey(lost.reference)}`)) return;
    emitNameless(b, ctx.image, lost, (path, at) => {
      for (const each of sameLost(ctx.image, file)) {
        emitOpenAt(b, { ...each, position: 0n }, { path, at }, ctx);
      }
    });
  },
};
