import type { FileCapture } from './context.js';
import { wideFieldOf } from './read-descriptors.js';

/** signalfd(2): its mask. What it would read are the pending signals of its readers. */
export const signalfdCapture: FileCapture = {
  matches: (descriptor) => descriptor.link === 'anon_inode:[signalfd]',
  capture: (descriptor) => ({
    $case: 'signalfd',
    value: { mask: wideFieldOf(descriptor.info, 'sigmask:\t', 16) ?? 0n },
  }),
};
