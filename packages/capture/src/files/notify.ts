import type { FanotifyMark, FileObject, InotifyWatch } from '@ferry/image';
import { deviceNumbers, ioctlInt, refuse } from './common.js';
import type { Descriptor, FileCapture, FileContext } from './context.js';
import { mountNamespaceOf } from './mount-prefix.js';
import {
  hasOtherMounts,
  isOfRoot,
  mountsOf,
  parseWatchedFile,
  pathByHandle,
  searchPath,
  type WatchedFile,
} from './watch-path.js';

const FIONREAD = 0x541b;
/** FAN_CLOEXEC and FAN_NONBLOCK, which are flags of the descriptor. */
const FAN_DESCRIPTOR_FLAGS = 3;

/** inotify(7): its watches under their numbers. In place of events that were not read yet it tells afterwards that some
 *  were lost. */
export const inotifyCapture: FileCapture = {
  matches: ({ link }) => /^anon_inode:\[?inotify\]?$/.test(link),
  capture(descriptor, ctx) {
    const watches: InotifyWatch[] = [];
    const lines = /^inotify wd:([0-9a-f]+) (.*) mask:([0-9a-f]+) ignored_mask:.*$/gm;
    for (const [line, wd, , mask] of descriptor.info.matchAll(lines)) {
      const place = placeOf(parseWatchedFile(line), descriptor, ctx);
      if (place === undefined) continue;
      const number = Number.parseInt(wd!, 16);
      watches.push({ wd: number, mask: Number.parseInt(mask!, 16), ...place });
    }
    loseUnread(descriptor, ctx);
    return { $case: 'inotify', value: { watches } };
  },
};

/** An event queue may overflow, so that no program can rely on events. */
function loseUnread(descriptor: Descriptor, ctx: FileContext): void {
  if (ctx.scanning) return;
  const bytes = ioctlInt(descriptor.dup(), FIONREAD);
  if (bytes > 0) ctx.lose(`${bytes} bytes of events`, descriptor);
}

type Place = Pick<InotifyWatch, 'path' | 'fileId'>;

/** A watched file's path, or the file object of one that is open in the tree and has none. undefined after a blocker. */
function placeOf(
  file: WatchedFile | undefined,
  descriptor: Descriptor,
  ctx: FileContext,
): Place | undefined {
  const isApart = file !== undefined && hasOtherMounts(descriptor.process, ctx);
  if (ctx.scanning && !isApart) return { path: '', fileId: 0 };
  if (file === undefined) return undefined;
  const path = pathByHandle(file, descriptor.process, ctx);
  const isReachable = path === undefined || !isApart || isOfRoot(path, descriptor.process, ctx);
  if (ctx.scanning && path === undefined) return { path: '', fileId: 0 };
  if (path !== undefined && isReachable) return { path, fileId: 0 };
  const open = ctx.descriptions.find((other) => {
    const { major, minor } = deviceNumbers(other.descriptor.stat.device);
    return other.descriptor.stat.inode === file.inode && ((major << 20) | minor) === file.device;
  });
  if (open !== undefined) return { path: '', fileId: open.id };
  if (!isReachable) {
    return refuse(descriptor, ctx, {
      code: 'file.watchedNested',
      reason: `it watches a file (${path}) that is only in a nested mount namespace`,
      remedy: 'let the program keep that file open, or turn off file watching in it',
    });
  }
  const found = searchPath(file, descriptor.process, ctx);
  if (found !== undefined) return { path: found, fileId: 0 };
  return refuse(descriptor, ctx, {
    code: 'file.watched',
    reason: `it watches a file (inode ${file.inode}) whose path cannot be found`,
    remedy: 'turn off file watching or live reload in the program',
  });
}

/** fanotify(7): its marks on files, mounts and file systems. */
export const fanotifyCapture: FileCapture = {
  matches: ({ link }) => /^anon_inode:\[?fanotify\]?$/.test(link),
  capture(descriptor, ctx): FileObject['kind'] {
    const group = /^fanotify flags:([0-9a-f]+) event-flags:([0-9a-f]+)$/m.exec(descriptor.info);
    const flags = Number.parseInt(group?.[1] ?? '0', 16) & ~FAN_DESCRIPTOR_FLAGS;
    const eventFlags = Number.parseInt(group?.[2] ?? '0', 16);
    const marks: FanotifyMark[] = [];
    const lines =
      /^fanotify (.*) mflags:([0-9a-f]+) mask:([0-9a-f]+) ignored_mask:([0-9a-f]+)(.*)$/gm;
    for (const [line, what, markFlags, mask, ignored] of descriptor.info.matchAll(lines)) {
      const target = markTarget(line, what!, descriptor, ctx);
      if (target === undefined) continue;
      marks.push({
        ...target,
        flags: Number.parseInt(markFlags!, 16),
        mask: BigInt(`0x${mask}`),
        ignoredMask: BigInt(`0x${ignored}`),
      });
    }
    loseUnread(descriptor, ctx);
    return { $case: 'fanotify', value: { flags, eventFlags, marks } };
  },
};

type Target = Pick<FanotifyMark, 'on' | 'path' | 'fileId'>;

function markTarget(
  line: string,
  what: string,
  descriptor: Descriptor,
  ctx: FileContext,
): Target | undefined {
  const file = parseWatchedFile(line);
  if (file !== undefined) {
    const place = placeOf(file, descriptor, ctx);
    return place && { on: 'inode', ...place };
  }
  const id = Number.parseInt(/mnt_id:([0-9a-f]+)/.exec(what)?.[1] ?? '-1', 16);
  const device = Number.parseInt(/sdev:([0-9a-f]+)/.exec(what)?.[1] ?? '-1', 16);
  // Marks are set again by a process in the root's mount namespace.
  const [root] = ctx.processes;
  const nested =
    mountNamespaceOf(descriptor, ctx).link !==
    mountNamespaceOf({ process: root!, info: '' }, ctx).link;
  const mounts = mountsOf(nested ? root! : descriptor.process, ctx);
  const mount = mounts.find((each) => each.id === id || each.device === device);
  if (mount !== undefined) {
    return { on: id >= 0 ? 'mount' : 'filesystem', path: mount.path, fileId: 0 };
  }
  return refuse(descriptor, ctx, {
    code: 'file.watched',
    reason: nested
      ? `it watches a mount of a nested mount namespace (${what})`
      : `it watches a mount or file system that the tree does not see (${what})`,
    remedy: nested
      ? "let it watch a mount of its parent's mount namespace, or folders (inotify)"
      : 'run the watcher outside the container',
  });
}
