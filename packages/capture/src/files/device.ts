import { deviceNumbers, refuse, typeOf } from './common.js';
import type { Descriptor, FileCapture, FileContext } from './context.js';
import { mountPrefix } from './mount-prefix.js';
import { statPath } from './read-descriptors.js';

/** Devices of drivers/char/mem.c and random.c, which keep nothing, by their minor numbers; major 1. */
const STATELESS: ReadonlyMap<number, string> = new Map([
  [3, '/dev/null'],
  [5, '/dev/zero'],
  [7, '/dev/full'],
  [8, '/dev/random'],
  [9, '/dev/urandom'],
]);

/** Character devices that keep nothing: /dev/null, zero, full, random, urandom. */
export const deviceCapture: FileCapture = {
  matches: (descriptor) => typeOf(descriptor) === 'character' || typeOf(descriptor) === 'block',
  capture(descriptor, ctx) {
    const { major, minor } = deviceNumbers(descriptor.stat.rdev);
    const isMemory = typeOf(descriptor) === 'character' && major === 1;
    const usual = isMemory ? STATELESS.get(minor) : undefined;
    if (usual !== undefined) return stateless(descriptor, usual, ctx);
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
  const prefix = mountPrefix(descriptor, ctx);
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
