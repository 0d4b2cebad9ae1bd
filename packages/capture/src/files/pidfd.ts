import { O_NONBLOCK, refuse } from './common.js';
import type { FileCapture } from './context.js';

const LINK = /^(anon_inode:\[pidfd\]|pidfd:\[\d+\])$/;
const PIDFD_THREAD = 0o200;

/** pidfd_open(2) of processes that exist whenever descriptors are opened again: the process itself, its children, and
 *  those it descends from. */
export const pidfdCapture: FileCapture = {
  matches: (descriptor) => LINK.test(descriptor.link),
  capture(descriptor, ctx) {
    const hostPid = Number(/^Pid:\t(-?\d+)$/m.exec(descriptor.info)?.[1] ?? -1);
    const target = ctx.processes.find((process) => process.hostPid === hostPid);
    const id = ctx.idOf(descriptor.process.pid, descriptor.fd);
    const holders = id === undefined ? [] : ctx.holdersOf(id);
    const isPrivate = holders.length > 0 && holders.every((h) => h.process === descriptor.process);
    const isSelf = target === descriptor.process;
    if (isSelf && isPrivate && (descriptor.flags & ~(O_NONBLOCK | 2)) === 0) {
      return { $case: 'pidfd', value: { pid: target.pid, thread: false } };
    }
    const what = (descriptor.flags & PIDFD_THREAD) !== 0 ? 'thread' : 'process';
    return refuse(descriptor, ctx, {
      code: 'file.pidfd',
      reason:
        `a pidfd of another ${what} (${hostPid < 0 ? 'which is gone' : hostPid}) ` +
        'cannot be carried yet',
      remedy: 'close the pidfd',
    });
  },
};
