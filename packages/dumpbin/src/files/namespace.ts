import { emitOpen } from './common.js';
import type { FileEmitter } from './emit.js';

/** /proc/PID/ns/TYPE of the namespace that the tree is in: the restored tree's own. */
export const namespaceEmitter: FileEmitter = {
  create(b, file, ctx) {
    if (file.kind?.$case !== 'namespace') return;
    emitOpen(b, { ...file, position: 0n }, `/proc/self/ns/${file.kind.value.type}`, ctx);
  },
};
