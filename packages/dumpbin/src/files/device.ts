import { emitOpen } from './common.js';
import type { FileEmitter } from './emit.js';

/** Character devices that keep nothing (/dev/null and its kin): opened by path; they have no position. */
export const deviceEmitter: FileEmitter = {
  create(b, file, ctx) {
    if (file.kind?.$case !== 'device') return;
    emitOpen(b, { ...file, position: 0n }, file.kind.value.path, ctx);
  },
};
