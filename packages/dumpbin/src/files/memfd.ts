import type { FileObject } from '@ferry/image';
import { isExecutable } from '../memory-steps.js';
import type { ProgramBuilder } from '../program.js';
import { CHANGEABLE, emitPosition, emitReopen, F_SETFL, O_ACCMODE } from './common.js';
import type { EmitContext, FileEmitter } from './emit.js';

const O_RDWR = 2;

/** A description of a shared memory object, which stands already: opened through /proc, so that access mode, flags and
 *  position are its own. */
export const memfdEmitter: FileEmitter = {
  create(b, file, ctx) {
    if (file.kind?.$case !== 'memfd') return;
    const { sharedMemoryId } = file.kind.value;
    const name = `memory object ${sharedMemoryId}`;
    if (isFirstOfProgram(file, sharedMemoryId, ctx)) emitFirst(b, file, sharedMemoryId, ctx);
    else emitReopen(b, file, ctx.sharedMemoryFd(sharedMemoryId), { name, ctx });
    emitPosition(b, file, name, ctx);
  },
};

/** What is executed nobody may have opened for writing; the description that came with the memfd does not count as that
 *  (mm/memfd.c makes it without opening anything), so that it is given to the one that can write. */
function isFirstOfProgram({ flags }: FileObject, objectId: number, ctx: EmitContext): boolean {
  const object = ctx.image.sharedMemory.find(({ id }) => id === objectId);
  return (
    object !== undefined &&
    isExecutable(ctx.image, object) &&
    (flags & O_ACCMODE) === O_RDWR &&
    ctx.once(`first of memory ${objectId}`)
  );
}

function emitFirst(b: ProgramBuilder, file: FileObject, objectId: number, ctx: EmitContext): void {
  const to = ctx.fdOf(file.id);
  const step = `memory object ${objectId}: as it was made`;
  b.sys('dup3', [ctx.sharedMemoryFd(objectId), to, 0], step);
  const flags = file.flags & CHANGEABLE;
  if (flags !== 0) b.sys('fcntl', [to, F_SETFL, flags], `${step}: flags`);
}
