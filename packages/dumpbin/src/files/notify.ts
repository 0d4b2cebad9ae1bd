import type { FanotifyMark, FileObject } from '@ferry/image';
import type { ProgramBuilder } from '../program.js';
import { O_NONBLOCK } from './common.js';
import type { EmitContext, FileEmitter } from './emit.js';
import { emitOverflowed } from './inotify-overflow.js';

const INOTIFY_IOC_SETNEXTWD = 0x40044900;
const IN_DONT_FOLLOW = 0x02000000;
const FAN_NONBLOCK = 2;
const FAN_MARK = { add: 1, dontFollow: 4, mount: 0x10, ignoredMask: 0x20, filesystem: 0x100 };
/** FAN_MARK_IGNORED_SURV_MODIFY, _EVICTABLE, _IGNORE: fanotify_mark(2). */
const KEPT_MARK_FLAGS = 0x640;
const MARK_IGNORE = 0x400;
const AT_FDCWD = -100;

/** Where a watched file is to be found when everything else stands. */
function placeOf(
  b: ProgramBuilder,
  { path, fileId }: { path: string; fileId: number },
  ctx: EmitContext,
) {
  const text = fileId === 0 ? path : `/proc/self/fd/${ctx.fdOf(fileId)}`;
  return { text, at: b.cstr(text), isPath: fileId === 0 };
}

/** inotify(7). Watches are the very last that is set, so that they see nothing of the restore. */
export const inotifyEmitter: FileEmitter = {
  create(b, file, ctx) {
    const slot = b.slotFor('file');
    const flags = file.flags & O_NONBLOCK;
    const name = `inotify ${file.id}`;
    if (file.lost !== '') {
      emitOverflowed(b, ctx.fdOf(file.id), { flags, name });
      return;
    }
    b.sys('inotify_init1', [flags], name, { into: slot });
    b.moveFd(slot, ctx.fdOf(file.id), name);
  },
  connect(b, file, ctx) {
    if (file.kind?.$case !== 'inotify') return;
    for (const watch of file.kind.value.watches) emitExists(b, watch, ctx);
  },
  resume(b, file, ctx) {
    if (file.kind?.$case !== 'inotify') return;
    const fd = ctx.fdOf(file.id);
    for (const watch of file.kind.value.watches) {
      const { at, text, isPath } = placeOf(b, watch, ctx);
      const name = `inotify ${file.id}: watch ${watch.wd} on ${text}`;
      const mask = isPath ? watch.mask | IN_DONT_FOLLOW : watch.mask;
      b.sys('ioctl', [fd, INOTIFY_IOC_SETNEXTWD, watch.wd], name, { expect: 'any' });
      b.sys('inotify_add_watch', [fd, at, mask >>> 0], name, { expect: 'any' });
    }
    // Numbers of removed watches do not come again.
    const next = Math.max(0, ...file.kind.value.watches.map(({ wd }) => wd)) + 1;
    b.sys('ioctl', [fd, INOTIFY_IOC_SETNEXTWD, next], `inotify ${file.id}: next number`, {
      expect: 'any',
    });
  },
};

/** Nothing may fail when the tree is about to run: whether a path leads somewhere is found out before. */
function emitExists(
  b: ProgramBuilder,
  watch: { path: string; fileId: number },
  ctx: EmitContext,
): void {
  if (watch.fileId !== 0) return;
  const { at, text } = placeOf(b, watch, ctx);
  b.sys('lstat', [at, b.reserve(144)], `watched file ${text} exists`);
}

/** fanotify(7), likewise. */
export const fanotifyEmitter: FileEmitter = {
  create(b, file, ctx) {
    if (file.kind?.$case !== 'fanotify') return;
    const { flags, eventFlags } = file.kind.value;
    const slot = b.slotFor('file');
    const all = flags | ((file.flags & O_NONBLOCK) !== 0 ? FAN_NONBLOCK : 0);
    b.sys('fanotify_init', [all, eventFlags], `fanotify ${file.id}`, { into: slot });
    b.moveFd(slot, ctx.fdOf(file.id), `fanotify ${file.id}`);
  },
  connect(b, file, ctx) {
    if (file.kind?.$case !== 'fanotify') return;
    for (const mark of file.kind.value.marks) emitExists(b, mark, ctx);
  },
  resume(b, file, ctx) {
    if (file.kind?.$case !== 'fanotify') return;
    for (const mark of file.kind.value.marks) emitMark(b, file, mark, ctx);
  },
};

function emitMark(b: ProgramBuilder, file: FileObject, mark: FanotifyMark, ctx: EmitContext): void {
  const { at, text, isPath } = placeOf(b, mark, ctx);
  const name = `fanotify ${file.id}: mark ${text}`;
  const on = { inode: 0, mount: FAN_MARK.mount, filesystem: FAN_MARK.filesystem }[mark.on] ?? 0;
  const kept = mark.flags & KEPT_MARK_FLAGS;
  const flags = FAN_MARK.add | on | (isPath ? FAN_MARK.dontFollow : 0);
  const fd = ctx.fdOf(file.id);
  const add = (extra: number, mask: bigint) => {
    if (mask === 0n) return;
    const args = [fd, flags | extra, mask, AT_FDCWD, at];
    b.sys('fanotify_mark', args, name, { expect: 'any' });
  };
  const ignore = (kept & MARK_IGNORE) !== 0 ? kept : kept | FAN_MARK.ignoredMask;
  add(kept & ~(MARK_IGNORE | 0x40), mark.mask);
  add(ignore, mark.ignoredMask);
}
