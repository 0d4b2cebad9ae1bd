import { deviceNumbers, externalKind, refuse, standardFdOf, typeOf } from './common.js';
import type { Descriptor, FileCapture, FileContext } from './context.js';
import { referenceOf } from './path.js';

/** Devices of drivers/char/mem.c and random.c, which keep nothing: major 1. */
const STATELESS_MINORS: readonly number[] = [3, 5, 7, 8, 9];
const PTMX = { major: 5, minor: 2 };

/** Character devices: /dev/null, zero, full, random, urandom; and the terminal of whoever started the tree. */
export const deviceCapture: FileCapture = {
  matches: (descriptor) => typeOf(descriptor) === 'character' || typeOf(descriptor) === 'block',
  capture(descriptor, ctx) {
    const { major, minor } = deviceNumbers(descriptor.stat.rdev);
    const isMemory = typeOf(descriptor) === 'character' && major === 1;
    if (isMemory && STATELESS_MINORS.includes(minor)) return stateless(descriptor, ctx);
    if (isTerminal(descriptor, major, minor)) return terminal(descriptor, ctx);
    return refuse(descriptor, ctx, {
      code: 'file.device',
      reason: `device ${major}:${minor} has state in its driver that cannot be carried`,
      remedy: 'close the device, or run the program without it',
    });
  },
};

function stateless(descriptor: Descriptor, ctx: FileContext): ReturnType<FileCapture['capture']> {
  const file = referenceOf(descriptor, ctx);
  if (file === undefined) return undefined;
  return { $case: 'device', value: { path: file.path, rdev: descriptor.stat.rdev } };
}

/** Pseudo terminals (136 to 143), /dev/tty and /dev/console (5), virtual and serial consoles (4). */
function isTerminal(descriptor: Descriptor, major: number, minor: number): boolean {
  if (typeOf(descriptor) !== 'character') return false;
  if (major === PTMX.major) return minor !== PTMX.minor;
  return major === 4 || (major >= 136 && major <= 143);
}

function terminal(descriptor: Descriptor, ctx: FileContext): ReturnType<FileCapture['capture']> {
  const { device, inode } = descriptor.stat;
  const standardFd = standardFdOf(ctx.idsOfInode(device, inode), ctx);
  if (standardFd !== undefined) return externalKind(descriptor, standardFd, ctx);
  return refuse(descriptor, ctx, {
    code: 'file.terminal',
    reason: 'terminals other than standard input, output and error cannot be carried yet',
    remedy: 'run the program without a terminal (setsid, terminal: false, docker run without -t)',
  });
}
