import type { FileObject } from '@ferry/image';
import {
  canRead,
  canWrite,
  externalKind,
  isPathOnly,
  POLLERR,
  POLLHUP,
  POLLIN,
  pollNow,
  refuse,
  standardFdOf,
  typeOf,
} from './common.js';
import type { Descriptor, FileCapture, FileContext } from './context.js';
import { namelessOf } from './nameless.js';
import { referenceOf } from './path.js';
import { hasWriter, type PipeContent, pipeCapacity, pipeContent } from './pipe-content.js';

interface Pipe extends PipeContent {
  readonly capacity: number;
  /** Somebody outside the tree holds the end that the tree has not. */
  readonly isOpenOutside: boolean;
}

/** Ends of pipe(2), however they were opened. */
export const pipeCapture: FileCapture = {
  matches: (descriptor) => typeOf(descriptor) === 'fifo' && descriptor.link.startsWith('pipe:['),
  capture(descriptor, ctx) {
    const { inode, mode, uid, gid } = descriptor.stat;
    const pipe = inspect(descriptor, ctx);
    if (pipe.isOpenOutside) return external(descriptor, ctx);
    const { content, packets } = firstTime(descriptor, ctx) ? pipe : NOTHING;
    return {
      $case: 'pipe',
      value: {
        pipeId: inode,
        capacity: pipe.capacity,
        content,
        packets,
        mode,
        uid,
        gid,
      },
    };
  },
};

/** FIFOs, which have a path. */
export const fifoCapture: FileCapture = {
  matches: (descriptor) =>
    typeOf(descriptor) === 'fifo' && descriptor.link.startsWith('/') && !isPathOnly(descriptor),
  capture(descriptor, ctx) {
    const pipe = inspect(descriptor, ctx);
    if (pipe.isOpenOutside) return external(descriptor, ctx);
    const file = referenceOf(descriptor, ctx);
    if (file === undefined) return undefined;
    const nameless = file.deleted ? namelessOf(descriptor, file.path, ctx) : undefined;
    if (file.deleted && nameless === undefined) return undefined;
    const { content, packets } = firstTime(descriptor, ctx) ? pipe : NOTHING;
    const { capacity } = pipe;
    const isReader = canRead(descriptor.flags) && !canWrite(descriptor.flags);
    const hungUp =
      isReader && !ctx.scanning && (pollNow(descriptor.dup().number, POLLIN) & POLLHUP) !== 0;
    const pipeId = descriptor.stat.inode;
    const value = { file, nameless, pipeId, capacity, content, packets, hungUp };
    return { $case: 'fifo', value };
  },
};

const NOTHING: PipeContent = { content: Buffer.alloc(0), packets: [] };

function keyOf({ stat }: Descriptor): string {
  return `${stat.device}:${stat.inode}`;
}

/** Content is carried once, with the description that is captured first. */
function firstTime(descriptor: Descriptor, ctx: FileContext): boolean {
  const seen = ctx.shared('pipesCaptured', () => new Set<string>());
  const key = keyOf(descriptor);
  const isFirst = !seen.has(key);
  seen.add(key);
  return isFirst;
}

function inspect(descriptor: Descriptor, ctx: FileContext): Pipe {
  return ctx.shared(`pipe:${keyOf(descriptor)}`, () => {
    const { device, inode } = descriptor.stat;
    const ends = ctx
      .idsOfInode(device, inode)
      .map((id) => ctx.descriptorOf(id))
      .filter((end) => !isPathOnly(end));
    const isOpenOutside = ctx.externalInodes.includes(inode) || hasOtherEnd(ends);
    const capacity = ctx.scanning ? 0 : pipeCapacity(descriptor);
    if (ctx.scanning || isOpenOutside) return { ...NOTHING, capacity, isOpenOutside };
    return { ...pipeContent(ends), capacity, isOpenOutside };
  });
}

/** poll(2) tells a writer that nobody reads (POLLERR); a reader is told by tee(2). */
function hasOtherEnd(ends: readonly Descriptor[]): boolean {
  if (ends.some((end) => canRead(end.flags)) && ends.some((end) => canWrite(end.flags))) {
    return false;
  }
  const end = ends[0]!;
  if (!canWrite(end.flags)) return hasWriter(end);
  return (pollNow(end.dup().number, 0) & POLLERR) === 0;
}

function external(descriptor: Descriptor, ctx: FileContext): FileObject['kind'] {
  const { device, inode } = descriptor.stat;
  const standardFd = standardFdOf(ctx.idsOfInode(device, inode), ctx);
  if (standardFd !== undefined) return externalKind(descriptor, standardFd, ctx);
  const other = canWrite(descriptor.flags) ? 'reading' : 'writing';
  return refuse(descriptor, ctx, {
    code: 'file.pipeOutside',
    reason: `the ${other} end of this pipe belongs to a process outside the tree`,
    remedy: 'dump at a common ancestor of both, or connect the two by standard input and output',
  });
}
