import { tryReadProc } from '@ferry/linux';
import { refuse } from './common.js';
import type { FileCapture, FileContext } from './context.js';

const LINK = /^(anon_inode:\[pidfd\]|pidfd:\[\d+\])$/;
const PIDFD_THREAD = 0o200;

/** pidfd_open(2) of a process or thread of the tree, or of one that has ended. */
export const pidfdCapture: FileCapture = {
  matches: (descriptor) => LINK.test(descriptor.link),
  capture(descriptor, ctx) {
    const hostPid = Number(/^Pid:\t(-?\d+)$/m.exec(descriptor.info)?.[1] ?? -1);
    const { inode } = descriptor.stat;
    const thread = (descriptor.flags & PIDFD_THREAD) !== 0;
    if (hostPid < 0) {
      return { $case: 'pidfd', value: { pid: 0, thread: false, ended: true, inode } };
    }
    const pid = innerPid(hostPid, ctx);
    if (pid !== undefined) return { $case: 'pidfd', value: { pid, thread, ended: false, inode } };
    return refuse(descriptor, ctx, {
      code: 'file.pidfd',
      reason: `it stands for process ${hostPid}, which is outside the tree`,
      remedy: 'close the pidfd, or dump at a common ancestor of both processes',
    });
  },
};

/** A process or thread of the tree, or a child of one that waits to be reaped. */
function innerPid(hostPid: number, ctx: FileContext): number | undefined {
  const status = tryReadProc(`/proc/${hostPid}/status`) ?? '';
  const number = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+)$`, 'm').exec(status)?.[1] ?? 0);
  const isInside = (pid: number) => ctx.processes.some((process) => process.hostPid === pid);
  const isZombie = /^State:\s+Z/m.test(status) && isInside(number('PPid'));
  if (!isInside(number('Tgid')) && !isZombie) return undefined;
  return ctx.pids.outer(hostPid);
}
