import { FerryError } from '@ferry/core';
import { call } from '@ferry/linux';
import type { Descriptor, FileCapture } from './context.js';
import { wideFieldOf } from './read-descriptors.js';

const EFD_COUNT_MAX = 0xfffffffffffffffen;

/** eventfd(2), from fdinfo. */
export const eventfdCapture: FileCapture = {
  matches: (descriptor) => descriptor.link === 'anon_inode:[eventfd]',
  capture(descriptor, ctx) {
    const count = wideFieldOf(descriptor.info, 'eventfd-count:', 16) ?? 0n;
    const told = wideFieldOf(descriptor.info, 'eventfd-semaphore:', 10);
    const semaphore =
      told !== undefined ? told !== 0n : !ctx.scanning && probeSemaphore(descriptor, count);
    return { $case: 'eventfd', value: { count, semaphore } };
  },
};

/** Kernels before 6.5 do not tell EFD_SEMAPHORE: a read takes 1 then, or else everything. The count is as before
 *  afterwards; waiters are frozen, and at most look once in vain. */
export function probeSemaphore(descriptor: Descriptor, count: bigint): boolean {
  const fd = descriptor.dup().number;
  const word = Buffer.alloc(8);
  const add = (amount: bigint) => {
    word.writeBigUInt64LE(amount);
    call('write', fd, word, 8);
  };
  // Two at least, so that the two kinds of reads differ. Never so much that a write would block.
  const extra = count < 2n ? 2n : 0n;
  if (extra > 0n) add(extra);
  call('read', fd, word, 8);
  const taken = word.readBigUInt64LE();
  const isSemaphore = taken === 1n;
  if (!isSemaphore) {
    if (taken !== count + extra || taken > EFD_COUNT_MAX) {
      throw new FerryError('capture.eventfd', `An eventfd of ${count} gave ${taken}`);
    }
    if (count > 0n) add(count);
    return false;
  }
  if (extra === 0n) add(1n);
  else call('read', fd, word, 8);
  return true;
}
