import { O_NONBLOCK } from './common.js';
import type { FileEmitter } from './emit.js';

const EFD_SEMAPHORE = 1;

/** eventfd(2): its count goes in by a write, which takes 64 bits where eventfd2 takes 32. */
export const eventfdEmitter: FileEmitter = {
  create(b, file, ctx) {
    if (file.kind?.$case !== 'eventfd') return;
    const { count, semaphore } = file.kind.value;
    const slot = b.slotFor('file');
    const flags = (file.flags & O_NONBLOCK) | (semaphore ? EFD_SEMAPHORE : 0);
    const small = count <= 0xffffffffn;
    b.sys('eventfd2', [small ? count : 0, flags], `eventfd ${file.id}`, { into: slot });
    if (!small) {
      b.sys('write', [slot, b.words(count), 8], `eventfd ${file.id}: count`, {
        expect: { value: 8 },
      });
    }
    b.moveFd(slot, ctx.fdOf(file.id), `eventfd ${file.id}`);
  },
};
