import type { FileReference } from '@ferry/image';
import { isAtPath, refuse } from './common.js';
import type { Descriptor, FileContext } from './context.js';
import { coveredMountOf } from './covered-file.js';
import { mountPrefix } from './mount-prefix.js';

const DELETED = ' (deleted)';

/** Names the file behind a descriptor so that it can be opened again: a path as seen from the root of the tree's mount
 *  namespace, checked to lead to this very file now. `deleted` is set when the name is gone: then the path is the last one, and
 *  the file may still have others (hard links). undefined after a blocker. */
export function referenceOf(descriptor: Descriptor, ctx: FileContext): FileReference | undefined {
  const { link } = descriptor;
  if (link.includes('\ufffd')) {
    return refuse(descriptor, ctx, {
      code: 'file.pathEncoding',
      reason: 'its path is not valid UTF-8',
      remedy: 'rename the file',
    });
  }
  const prefix = mountPrefix(descriptor, ctx);
  if (isAtPath(prefix + link, descriptor)) return reference(descriptor, link, false);
  if (!link.endsWith(DELETED)) {
    const coveredMount = coveredMountOf(descriptor, ctx);
    if (coveredMount !== undefined) return { ...reference(descriptor, link, false), coveredMount };
    return refuse(descriptor, ctx, {
      code: 'file.unreachable',
      reason:
        'its path leads to another file or to none: something is mounted over it, or it ' +
        'belongs to another mount namespace',
      remedy: 'unmount what covers it, or close the file',
    });
  }
  const path = link.slice(0, -DELETED.length);
  if (isAtPath(prefix + path, descriptor)) return reference(descriptor, path, false);
  return reference(descriptor, path, true);
}

/** Whether a file came into the tree from outside its mount namespace, as standard input or output can: no path inside
 *  leads to it. */
export function isForeign(descriptor: Descriptor, ctx: FileContext): boolean {
  const prefix = mountPrefix(descriptor, ctx);
  const { link, stat } = descriptor;
  if (prefix === '' || stat.links === 0 || isAtPath(prefix + link, descriptor)) return false;
  return coveredMountOf(descriptor, ctx) === undefined;
}

function reference(descriptor: Descriptor, path: string, deleted: boolean): FileReference {
  const { device, inode, size, mtimeNs, mode } = descriptor.stat;
  return { path, device, inode, size, mtimeNs, mode, deleted };
}
