import type { FileObject, FileReference, Mount } from '@ferry/image';
import type { CompileContext } from '../compile-context.js';
import type { ProgramBuilder } from '../program.js';
import type { EmitContext } from './emit.js';

const O_PATH_NOFOLLOW = 0o10400000;
/** No mount has this number. */
const OUTSIDE = 0;

/** Files of a mount that others will cover: each is opened, only to be found again, before that. */
export function emitCoveredFiles(
  b: ProgramBuilder,
  ctx: CompileContext,
  { mount, fd }: { mount: Mount; fd: number },
): void {
  for (const file of ctx.image.files) {
    const reference = referenceOf(file);
    if (reference?.coveredMount !== mount.id) continue;
    const { path } = reference;
    const below =
      mount.mountpoint === '/' ? path.slice(1) : path.slice(mount.mountpoint.length + 1);
    const slot = b.slotFor('covered file');
    const step = `${path}, before it is covered`;
    b.sys('openat', [fd, b.cstr(below === '' ? '.' : below), O_PATH_NOFOLLOW, 0], step, {
      into: slot,
    });
    b.moveFd(slot, ctx.coveredFd(file.id), step);
  }
}

/** Devices that no path of the tree leads to are those of who restores it: opened before its namespaces are entered. */
export function emitOuterDevices(b: ProgramBuilder, ctx: CompileContext): void {
  for (const file of ctx.image.files) {
    const reference = referenceOf(file);
    if (reference?.coveredMount !== OUTSIDE) continue;
    const slot = b.slotFor('device');
    const step = `${reference.path} outside`;
    b.sys('open', [b.cstr(reference.path), O_PATH_NOFOLLOW, 0], step, { into: slot });
    b.moveFd(slot, ctx.coveredFd(file.id), step);
  }
}

/** Where a file is opened: by its path, or by what was opened before mounts covered that. */
export function openingPath(file: FileObject, reference: FileReference, ctx: EmitContext): string {
  if (reference.coveredMount === undefined) return reference.path;
  return `/proc/self/fd/${ctx.coveredFd(file.id)}`;
}

/** What was opened is found no more once all files are made. */
export function emitCloseCovered(
  b: ProgramBuilder,
  files: readonly FileObject[],
  ctx: EmitContext,
): void {
  for (const file of files) {
    const reference = referenceOf(file);
    if (reference?.coveredMount === undefined) continue;
    b.sys('close', [ctx.coveredFd(file.id)], `close ${reference.path}`);
  }
}

export function isCovered(file: FileObject): boolean {
  return referenceOf(file)?.coveredMount !== undefined;
}

function referenceOf({ kind }: FileObject): FileReference | undefined {
  const value = kind?.value as { file?: FileReference } | undefined;
  return value?.file;
}
