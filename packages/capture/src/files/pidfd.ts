import { refuse } from './common.js';
import type { FileCapture } from './context.js';

const LINK = /^(anon_inode:\[pidfd\]|pidfd:\[\d+\])$/;
const PIDFD_THREAD = 0o200;

/** pidfd_open(2) of a process of the tree, in the hands of one process. */
export const pidfdCapture: FileCapture = {
  matches: (descriptor) => LINK.test(descriptor.link),
  capture(descriptor, ctx) {
    const hostPid = Number(/^Pid:\t(-?\d+)$/m.exec(descriptor.info)?.[1] ?? -1);
    const target = ctx.processes.find((process) => process.hostPid === hostPid);
    const id = ctx.idOf(descriptor.process.pid, descriptor.fd);
    const holders = id === undefined ? [] : ctx.holdersOf(id);
    const isPrivate = holders.length > 0 && holders.every((h) => h.process === descriptor.process);
    const isThread = (descriptor.flags & PIDFD_THREAD) !== 0;
    if (target !== undefined && isPrivate && !isThread) {
      return { $case: 'pidfd', value: { pid: target.pid, thread: false } };
    }
    return refuse(descriptor, ctx, {
      code: 'file.pidfd',
      reason: isThread
        ? 'a pidfd of a single thread cannot be carried yet'
        : target === undefined
          ? 'a pidfd of a process that has ended, or is outside the tree, cannot be carried yet'
          : 'a pidfd that several processes share cannot be carried yet',
      remedy: 'close the pidfd',
    });
  },
};
