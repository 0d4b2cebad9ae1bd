import type { FileObject, FileReference, TreeImage } from '@ferry/image';
import type { DataRef, ProgramBuilder, Slot } from '../program.js';
import type { EmitContext } from './emit.js';

export const O_ACCMODE = 0o3;
export const O_RDWR = 0o2;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
const O_NOCTTY = 0o400;
const O_TRUNC = 0o1000;
export const O_APPEND = 0o2000;
export const O_NONBLOCK = 0o4000;
export const O_ASYNC = 0o20000;
export const O_DIRECT = 0o40000;
export const O_LARGEFILE = 0o100000;
const O_DIRECTORY = 0o200000;
export const O_NOATIME = 0o1000000;
const O_CLOEXEC = 0o2000000;
export const O_PATH = 0o10000000;
const O_TMPFILE_BIT = 0o20000000;
const SEEK_SET = 0;
export const F_SETFL = 4;

/** What F_SETFL may change. */
export const CHANGEABLE = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME;

/** Flags for open(2) that give a description these F_GETFL flags. O_ASYNC comes later, with its owner; a file made with
 *  O_TMPFILE is opened by name. */
export function openFlags(flags: number): number {
  const transient = O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_ASYNC | O_CLOEXEC | O_TMPFILE_BIT;
  const base = flags & ~transient;
  return (flags & O_TMPFILE_BIT) !== 0 ? base & ~O_DIRECTORY : base;
}

/** Opens a path as the description of a file object, with its position where it has one. */
export function emitOpen(
  b: ProgramBuilder,
  file: FileObject,
  path: string,
  ctx: EmitContext,
): void {
  emitOpenAt(b, file, { path, at: b.cstr(path) }, ctx);
}

/** As emitOpen, for a path that stands in the data area already. */
export function emitOpenAt(
  b: ProgramBuilder,
  file: FileObject,
  { path, at }: { path: string; at: DataRef },
  ctx: EmitContext,
): void {
  const slot = b.slotFor('file');
  b.sys('open', [at, openFlags(file.flags), 0], `open ${path}`, { into: slot });
  b.moveFd(slot, ctx.fdOf(file.id), `open ${path}`);
  emitPosition(b, file, path, ctx);
}

export function emitPosition(
  b: ProgramBuilder,
  file: FileObject,
  name: string,
  ctx: EmitContext,
): void {
  const { position } = file;
  if (position === 0n || (file.flags & O_PATH) !== 0) return;
  b.sys('lseek', [ctx.fdOf(file.id), position, SEEK_SET], `position ${position} in ${name}`, {
    expect: { value: position },
  });
}

/** Opens another description of what stands at descriptor `fd`, as /proc/self/fd does. */
export function emitReopen(
  b: ProgramBuilder,
  file: FileObject,
  fd: number,
  options: { name: string; ctx: EmitContext },
): void {
  const slot = b.slotFor('file');
  const at = b.cstr(`/proc/self/fd/${fd}`);
  b.sys('open', [at, openFlags(file.flags), 0], `${options.name}: open again`, { into: slot });
  b.moveFd(slot, options.ctx.fdOf(file.id), options.name);
}

/** pipe2(2) or socketpair(2): the two descriptors, each in a slot. `make` emits the call that fills the pair. */
export function emitPair(
  b: ProgramBuilder,
  name: string,
  make: (pair: DataRef) => void,
): [Slot, Slot] {
  const pair = b.reserve(8);
  make(pair);
  const slots: [Slot, Slot] = [b.slotFor('pair 0'), b.slotFor('pair 1')];
  b.load(pair, 4, slots[0], `${name}: first end`);
  b.load(pair.plus(4), 4, slots[1], `${name}: second end`);
  return slots;
}

/** Which file objects belong together, by a key; worked out once for an image. */
export function grouping(
  keyOf: (file: FileObject) => string | undefined,
): (image: TreeImage, file: FileObject) => readonly FileObject[] {
  const cache = new WeakMap<TreeImage, Map<string, FileObject[]>>();
  return (image, file) => {
    let groups = cache.get(image);
    if (groups === undefined) {
      groups = new Map();
      for (const candidate of image.files) {
        const key = keyOf(candidate);
        if (key === undefined) continue;
        const group = groups.get(key);
        if (group === undefined) groups.set(key, [candidate]);
        else group.push(candidate);
      }
      cache.set(image, groups);
    }
    return groups.get(keyOf(file) ?? '') ?? [];
  };
}

export function inodeKey(file: FileReference | undefined): string {
  return `${file?.device}:${file?.inode}`;
}
