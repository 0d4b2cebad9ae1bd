import { emitOpen } from './common.js';
import type { FileEmitter } from './emit.js';

/** Directories: opened by path; the position is the one that getdents(2) goes on from. */
export const directoryEmitter: FileEmitter = {
  create(b, file, ctx) {
    if (file.kind?.$case !== 'directory' || file.kind.value.file === undefined) return;
    emitOpen(b, file, file.kind.value.file.path, ctx);
  },
};
