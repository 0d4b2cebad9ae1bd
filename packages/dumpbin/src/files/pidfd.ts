import type { FileObject, PidFd } from '@ferry/image';
import { translate } from '../pid-numbers.js';
import { grouping, O_NONBLOCK } from './common.js';
import {
  emitReplace,
  emitStandIn,
  emitTakeOver,
  emitWhileLiving,
  firstHolder,
} from './deferred.js';
import type { FileEmitter } from './emit.js';

const PIDFD_THREAD = 0o200;

/** pidfd_open(2). Of a process of the tree it is made when that exists; of one that has ended, of a process that ends at
 *  once: those of one process are told apart from others by their inode, so they are made together. */
export const pidfdEmitter: FileEmitter = {
  create(b, file, ctx) {
    const { ended, inode } = partOf(file);
    if (!ended) {
      emitStandIn(b, file, ctx);
      return;
    }
    if (!ctx.once(`ended process ${inode}`)) return;
    const name = 'pidfd of a process that has ended';
    emitWhileLiving(b, { pid: 0, name }, (child) => {
      for (const each of sameEnded(ctx.image, file)) {
        const slot = b.slotFor('file');
        b.sys('pidfd_open', [child, each.flags & O_NONBLOCK], name, { into: slot });
        b.moveFd(slot, ctx.fdOf(each.id), name);
      }
    });
  },
  installed(b, file, _fd, ctx) {
    const { pid, thread, ended } = partOf(file);
    const holder = firstHolder(ctx.image, file.id);
    if (ended || thread || holder === undefined) return;
    const name = `pidfd of process ${pid}`;
    const slot = b.slotFor('file');
    const number = translate(ctx.image, holder, pid);
    b.sys('pidfd_open', [number, file.flags & O_NONBLOCK], name, { into: slot });
    emitReplace(b, slot, file, { holder, name });
  },
  late(b, file, holder, ctx) {
    const { pid, thread, ended } = partOf(file);
    const name = `pidfd of ${thread ? 'thread' : 'process'} ${pid}`;
    if (ended) return;
    if (!thread) {
      emitTakeOver(b, file, holder, name, ctx.image);
      return;
    }
    // Threads exist by now, and each holder can open one for itself.
    const slot = b.slotFor('file');
    const flags = (file.flags & O_NONBLOCK) | PIDFD_THREAD;
    b.sys('pidfd_open', [translate(ctx.image, holder, pid), flags], name, { into: slot });
    emitReplace(b, slot, file, { holder, name });
  },
};

function partOf(file: FileObject): PidFd {
  if (file.kind?.$case !== 'pidfd') throw new TypeError(`File ${file.id} is no pidfd`);
  return file.kind.value;
}

const sameEnded = grouping(({ kind }) =>
  kind?.$case === 'pidfd' && kind.value.ended ? `${kind.value.inode}` : undefined,
);
