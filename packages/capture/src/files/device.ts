import { deviceNumbers, refuse, typeOf } from './common.js';
import type { Descriptor, FileCapture, FileContext } from './context.js';
import { mountPrefix } from './mount-prefix.js';
import { namelessOf } from './nameless.js';
import { statPath } from './read-descriptors.js';

/** Devices of drivers/char/mem.c and random.c, which keep nothing, by their minor numbers; major 1. */
const STATELESS: ReadonlyMap<number, string> = new Map([
  [3, '/dev/null'],
  [5, '/dev/zero'],
  [7, '/dev/full'],
  [8, '/dev/random'],
  [9, '/dev/urandom'],
]);

const DELETED = ' (deleted)';
/** FileReference.covered_mount of what no mount of the tree shows. */
const OUTSIDE = 0;

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
  const lost = lostNode(descriptor, ctx);
  if (lost !== undefined) return lost;
  for (const path of [descriptor.link, usual]) {
    const there = statPath(prefix + path);
    if (there !== undefined && typeOf({ stat: there }) === 'character' && there.rdev === rdev) {
      return { $case: 'device', value: { path, rdev, file: undefined, nameless: undefined } };
    }
  }
  if (prefix !== '') return ofOutside(descriptor, usual);
  return refuse(descriptor, ctx, {
    code: 'file.unreachable',
    reason: 'neither its path nor the usual one leads to this device any more',
    remedy: `make the device again (mknod ${usual}), or close it`,
  });
}

/** In a root directory without the device, whoever restores it opens the one that it has itself. */
function ofOutside({ stat }: Descriptor, path: string): ReturnType<FileCapture['capture']> {
  const { device, inode, size, mtimeNs, mode, rdev } = stat;
  const file = { path, device, inode, size, mtimeNs, mode, deleted: false, coveredMount: OUTSIDE };
  return { $case: 'device', value: { path, rdev, file, nameless: undefined } };
}

/** A node that was removed since it was opened is made anew: it has a mode and an owner of its own. */
function lostNode(
  descriptor: Descriptor,
  ctx: FileContext,
): ReturnType<FileCapture['capture']> | undefined {
  if (!descriptor.link.endsWith(DELETED) || descriptor.stat.links > 0) return undefined;
  const path = descriptor.link.slice(0, -DELETED.length);
  const { device, inode, size, mtimeNs, mode, rdev } = descriptor.stat;
  const nameless = namelessOf(descriptor, path, ctx);
  const file = { path, device, inode, size, mtimeNs, mode, deleted: true };
  return nameless && { $case: 'device', value: { path, rdev, file, nameless } };
}
