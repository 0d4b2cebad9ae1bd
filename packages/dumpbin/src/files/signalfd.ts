import { O_NONBLOCK } from './common.js';
import type { FileEmitter } from './emit.js';

const SIGSET_BYTES = 8;

/** signalfd(2): whoever reads sees their own pending signals. */
export const signalfdEmitter: FileEmitter = {
  create(b, file, ctx) {
    if (file.kind?.$case !== 'signalfd') return;
    const slot = b.slotFor('file');
    const mask = b.words(file.kind.value.mask);
    const flags = file.flags & O_NONBLOCK;
    b.sys('signalfd4', [-1, mask, SIGSET_BYTES, flags], `signalfd ${file.id}`, { into: slot });
    b.moveFd(slot, ctx.fdOf(file.id), `signalfd ${file.id}`);
  },
};
