import { emitPosition, emitReopen } from './common.js';
import type { FileEmitter } from './emit.js';

/** A description of a shared memory object, which stands already: opened through /proc, so that access mode, flags and
 *  position are its own. */
export const memfdEmitter: FileEmitter = {
  create(b, file, ctx) {
    if (file.kind?.$case !== 'memfd') return;
    const { sharedMemoryId } = file.kind.value;
    const name = `memory object ${sharedMemoryId}`;
    emitReopen(b, file, ctx.sharedMemoryFd(sharedMemoryId), { name, ctx });
    emitPosition(b, file, name, ctx);
  },
};
