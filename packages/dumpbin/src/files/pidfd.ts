import { O_NONBLOCK } from './common.js';
import type { FileEmitter } from './emit.js';

const PIDFD_THREAD = 0o200;

/** pidfd_open(2). */
export const pidfdEmitter: FileEmitter = {
  create(b, file, ctx) {
    if (file.kind?.$case !== 'pidfd') return;
    const { pid, thread } = file.kind.value;
    const slot = b.slotFor('file');
    const flags = (file.flags & O_NONBLOCK) | (thread ? PIDFD_THREAD : 0);
    b.sys('pidfd_open', [pid, flags], `pidfd of process ${pid}`, { into: slot });
    b.moveFd(slot, ctx.fdOf(file.id), `pidfd of process ${pid}`);
  },
};
