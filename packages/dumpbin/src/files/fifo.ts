import type { Fifo, FileObject } from '@ferry/image';
import type { DataRef, ProgramBuilder } from '../program.js';
import {
  CHANGEABLE,
  F_SETFL,
  grouping,
  inodeKey,
  O_NONBLOCK,
  O_RDWR,
  openFlags,
} from './common.js';
import { openingPath } from './covered.js';
import type { EmitContext, FileEmitter } from './emit.js';
import { emitNameless, lostOf } from './nameless.js';
import { emitContent } from './pipe.js';

const O_ACCMODE = 0o3;
const F_SETPIPE_SZ = 1031;

/** FIFOs: all descriptions of one are opened when the first is, with a helper open for reading and writing meanwhile, so
 *  that no open waits for the other side and content can be put in. Without writers, content or a hang-up there is no
 *  helper: a reader that never had a writer must not see one go. */
export const fifoEmitter: FileEmitter = {
  create(b, file, ctx) {
    if (!ctx.once(`fifo:${inodeKey(partOf(file).file)}`)) return;
    emitFifo(b, endsOf(ctx.image, file), ctx);
  },
};

const endsOf = grouping(({ kind }) =>
  kind?.$case === 'fifo' ? inodeKey(kind.value.file) : undefined,
);

function partOf(file: FileObject): Fifo {
  if (file.kind?.$case !== 'fifo') throw new TypeError(`File ${file.id} is no FIFO`);
  return file.kind.value;
}

function emitFifo(b: ProgramBuilder, ends: readonly FileObject[], ctx: EmitContext): void {
  const lost = lostOf(ends[0]!);
  const reference = partOf(ends[0]!).file;
  const path = reference === undefined ? '' : openingPath(ends[0]!, reference, ctx);
  if (lost === undefined) emitEnds(b, ends, { path, at: b.cstr(path) }, ctx);
  else emitNameless(b, ctx.image, lost, (name, at) => emitEnds(b, ends, { path: name, at }, ctx));
}

function emitEnds(
  b: ProgramBuilder,
  ends: readonly FileObject[],
  { path, at }: { path: string; at: DataRef },
  ctx: EmitContext,
): void {
  const value = partOf(ends[0]!);
  const helper = b.slotFor('fifo');
  const needsHelper = ends.some(
    (end) => (end.flags & O_ACCMODE) !== 0 || partOf(end).hungUp || partOf(end).content.length > 0,
  );
  if (needsHelper) {
    b.sys('open', [at, O_RDWR | O_NONBLOCK, 0], `open FIFO ${path}`, { into: helper });
    b.sys('fcntl', [helper, F_SETPIPE_SZ, value.capacity], `FIFO ${path}: size`, {
      expect: { value: value.capacity },
    });
    const full = ends.map(partOf).find((end) => end.content.length > 0);
    if (full !== undefined) emitContent(b, helper, full, `FIFO ${path}`);
  }
  for (const end of ends) {
    const slot = b.slotFor('file');
    const flags = openFlags(end.flags);
    b.sys('open', [at, flags | O_NONBLOCK, 0], `open FIFO ${path}`, { into: slot });
    b.moveFd(slot, ctx.fdOf(end.id), `FIFO ${path}`);
    if ((flags & O_NONBLOCK) !== 0) continue;
    b.sys('fcntl', [ctx.fdOf(end.id), F_SETFL, flags & CHANGEABLE], `FIFO ${path}: blocking`);
  }
  if (needsHelper) b.sys('close', [helper], `FIFO ${path}: close the helper`);
}
