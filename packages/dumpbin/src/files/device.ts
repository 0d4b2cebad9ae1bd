import { emitOpen, emitOpenAt, inodeKey } from './common.js';
import { openingPath } from './covered.js';
import type { FileEmitter } from './emit.js';
import { emitNameless, lostOf, sameLost } from './nameless.js';

/** Character devices that keep nothing (/dev/null and its kin): opened by path; they have no position. */
export const deviceEmitter: FileEmitter = {
  create(b, file, ctx) {
    if (file.kind?.$case !== 'device') return;
    const lost = lostOf(file);
    if (lost === undefined) {
      const { file: reference, path } = file.kind.value;
      const from = reference === undefined ? path : openingPath(file, reference, ctx);
      emitOpen(b, { ...file, position: 0n }, from, ctx);
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
