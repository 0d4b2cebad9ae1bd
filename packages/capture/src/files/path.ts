import type { FileReference } from '@ferry/image';
import { readLink } from '@ferry/linux';
import { isAtPath, refuse } from './common.js';
import type { Descriptor, FileContext, FileOwnerProcess } from './context.js';

const DELETED = ' (deleted)';
const ourPid = process.pid;

/** Names the file behind a descriptor so that it can be opened again: a path as seen from the root of the tree's mount
 *  namespace, checked to lead to this very file now. `deleted` is set when no name is left at all; then the path is the
 *  last one. undefined after a blocker. */
export function referenceOf(descriptor: Descriptor, ctx: FileContext): FileReference | undefined {
  const { link, stat } = descriptor;
  if (link.includes('\ufffd')) {
    return refuse(descriptor, ctx, {
      code: 'file.pathEncoding',
      reason: 'its path is not valid UTF-8',
      remedy: 'rename the file',
    });
  }
  const prefix = mountPrefix(descriptor.process, ctx);
  if (isAtPath(prefix + link, descriptor)) return reference(descriptor, link, false);
  if (!link.endsWith(DELETED)) {
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
  if (stat.links === 0) return reference(descriptor, path, true);
  return refuse(descriptor, ctx, {
    code: 'file.hardLinkElsewhere',
    reason:
      'the name it was opened by is gone, but the file still has another name, which the ' +
      'kernel does not tell',
    remedy: 'close the file, or give it its name back (ln OTHER-NAME NAME)',
  });
}

/** Whether a file came into the tree from outside its mount namespace, as standard input or output can: no path inside
 *  leads to it. */
export function isForeign(descriptor: Descriptor, ctx: FileContext): boolean {
  const prefix = mountPrefix(descriptor.process, ctx);
  const { link, stat } = descriptor;
  return prefix !== '' && stat.links > 0 && !isAtPath(prefix + link, descriptor);
}

/** Where the tree's paths start for us: nothing when it shares our mount namespace. /proc gives links relative to the
 *  reader's root there, and relative to the other namespace's root else. */
export function mountPrefix({ hostPid }: FileOwnerProcess, ctx: FileContext): string {
  return ctx.shared(`mountPrefix:${hostPid}`, () => {
    const own = ctx.shared('mountNamespace', () => readLink('/proc/self/ns/mnt'));
    // What was in flight in a socket was taken into this process; its path is one of the tree's.
    const owner = hostPid === ourPid ? ctx.processes[0]!.hostPid : hostPid;
    const isOurs = readLink(`/proc/${owner}/ns/mnt`) === own;
    return isOurs ? '' : `/proc/${ctx.processes[0]!.hostPid}/root`;
  });
}

function reference(descriptor: Descriptor, path: string, deleted: boolean): FileReference {
  const { device, inode, size, mtimeNs, mode } = descriptor.stat;
  return { path, device, inode, size, mtimeNs, mode, deleted };
}
