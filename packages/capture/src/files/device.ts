import { deviceNumbers, externalKind, refuse, standardFdOf, typeOf } from './common.js';
import type { Descriptor, FileCapture, FileContext } from './context.js';
import { mountPrefix } from './path.js';
import { statPath } from './read-descriptors.js';

/** Devices of drivers/char/mem.c and random.c, which keep nothing, by their minor numbers; major 1. */
const STATELESS: ReadonlyMap<number, string> = new Map([
  [3, '/dev/null'],
  [5, '/dev/zero'],
  [7, '/dev/full'],
  [8, '/dev/random'],
  [9, '/dev/urandom'],
]);
const PTMX = { major: 5, minor: 2 };

/** Character devices: /dev/null, zero, full, random, urandom; and the terminal of whoever started the tree. */
export const deviceCapture: FileCapture = {
  matches: (descriptor) => typeOf(descriptor) === 'character' || typeOf(descriptor) === 'block',
  capture(descriptor, ctx) {
    const { major, minor } = deviceNumbers(descriptor.stat.rdev);
    const isMemory = typeOf(descriptor) === 'character' && major === 1;
    const usual = isMemory ? STATELESS.get(minor) : undefined;
    if (usual !== undefined) return stateless(descriptor, usual, ctx);
    if (isTerminal(descriptor, major, minor)) return terminal(descriptor, ctx);
    return refuse(descriptor, ctx, {
      code: 'file.device',
      reason: `device ${major}:${minor} has state in its driver that cannot be carried`,
      remedy: 'close the device, or run the program without it',
    });
  },
};

/** Any node of the device will do: the one that was opened may be of the host's /dev, from before the container had a
 *  root directory of its own. */
function stateless(
  descriptor: Descriptor,
  usual: string,
  ctx: FileContext,
): ReturnType<FileCapture['capture']> {
  const prefix = mountPrefix(descriptor.process, ctx);
  const { rdev } = descriptor.stat;
  for (const path of [descriptor.link, usual]) {
    const there = statPath(prefix + path);
    if (there !== undefined && typeOf({ stat: there }) === 'character' && there.rdev === rdev) {
      return { $case: 'device', value: { path, rdev } };
    }
  }
  return refuse(descriptor, ctx, {
    code: 'file.unreachable',
    reason: 'neither its path nor the usual one leads to this device any more',
    remedy: `make the device again (mknod ${usual}), or close it`,
  });
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
