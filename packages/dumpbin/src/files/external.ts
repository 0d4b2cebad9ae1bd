import { SERVICE } from '../layout.js';
import { emitReopen, O_NONBLOCK } from './common.js';
import type { FileEmitter } from './emit.js';

const FIONBIO = 0x5421;
const ENOTTY = 25;
const STANDARD = [SERVICE.stdin, SERVICE.stdout, SERVICE.stderr];

/** Standard input, output and error of whoever restores. Of the flags only O_NONBLOCK is set: the rest belongs to the
 *  description, which is not ours. */
export const externalEmitter: FileEmitter = {
  create(b, file, ctx) {
    if (file.kind?.$case !== 'external') return;
    const { standardFd, reopened } = file.kind.value;
    const from = ctx.serviceBase + (STANDARD[standardFd] ?? SERVICE.stdout);
    const name = `standard descriptor ${standardFd}`;
    if (reopened) {
      emitReopen(b, file, from, { name, ctx });
      return;
    }
    const to = ctx.fdOf(file.id);
    b.sys('dup3', [from, to, 0], `${name}: take over`);
    const on = b.words((file.flags & O_NONBLOCK) !== 0 ? 1 : 0);
    b.sys('ioctl', [to, FIONBIO, on], `${name}: blocking mode`, { expect: { orErrno: ENOTTY } });
  },
};
