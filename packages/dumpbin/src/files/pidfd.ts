import { O_NONBLOCK } from './common.js';
import type { FileEmitter } from './emit.js';

const PIDFD_THREAD = 0o200;
const O_CLOEXEC = 0o2000000;

/** pidfd_open(2) of any process of the tree, not all of which exist when files are created: until they do, a pidfd of the
 *  creator's own stands in. It is the descriptor of one process, which takes the right one when it installs its own. */
export const pidfdEmitter: FileEmitter = {
  create(b, file, ctx) {
    if (file.kind?.$case !== 'pidfd') return;
    const slot = b.slotFor('file');
    b.sys('getpid', [], `pidfd of process ${file.kind.value.pid}: a stand-in`, { into: slot });
    b.sys('pidfd_open', [slot, 0], `pidfd of process ${file.kind.value.pid}: a stand-in`, {
      into: slot,
    });
    b.moveFd(slot, ctx.fdOf(file.id), `pidfd of process ${file.kind.value.pid}`);
  },
  installed(b, file, _fd, ctx) {
    if (file.kind?.$case !== 'pidfd') return;
    const { pid, thread } = file.kind.value;
    const slot = b.slotFor('file');
    const flags = (file.flags & O_NONBLOCK) | (thread ? PIDFD_THREAD : 0);
    b.sys('pidfd_open', [pid, flags], `pidfd of process ${pid}`, { into: slot });
    for (const { descriptors } of ctx.image.processes) {
      for (const { fd, fileId, closeOnExec } of descriptors) {
        if (fileId !== file.id) continue;
        const mode = closeOnExec ? O_CLOEXEC : 0;
        b.sys('dup3', [slot, fd, mode], `pidfd of process ${pid}: descriptor ${fd}`);
      }
    }
    b.sys('close', [slot], `pidfd of process ${pid}: close temporary descriptor`);
  },
};
