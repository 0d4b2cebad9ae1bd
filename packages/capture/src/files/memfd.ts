import type { FileCapture } from './context.js';

const MEMFD = /^\/memfd:(.*) \(deleted\)$/s;

/** memfd_create(2): a description of a shared memory object, whose content and seals are captured with the memory. */
export const memfdCapture: FileCapture = {
  matches: (descriptor) => MEMFD.test(descriptor.link) && descriptor.stat.links === 0,
  capture(descriptor, ctx) {
    const { device, inode } = descriptor.stat;
    const name = MEMFD.exec(descriptor.link)![1]!;
    const sharedMemoryId = ctx.scanning
      ? 0
      : ctx.sharedMemoryId(device, inode, 'memfd', name, descriptor.dup());
    return { $case: 'memfd', value: { sharedMemoryId } };
  },
};
