import { FerryError } from '@ferry/core';
import type { Process, TreeImage } from '@ferry/image';
import { CompileContext } from './compile-context.js';
import { type Draft, draftLength, finishDraft, link, newDraft, storeOffsets } from './draft.js';
import { PAGE } from './layout.js';
import { isSharedFile } from './layout-difference.js';
import { newIdentity, regionLengthOf } from './link.js';
import {
  emitMemory,
  emitNotInheritable,
  emitUnmapAll,
  skeletonProtection,
} from './memory-steps.js';
import { emitRootNamespaces } from './namespaces/root.js';
import { emitHear, emitSay } from './own-steps.js';
import { emitDefaultActions } from './process-steps.js';
import type { ProgramBuilder } from './program.js';
import { refusing } from './refusing.js';
import { findRoomyRegion, type Region } from './region.js';
import type { Restorer } from './restorer.js';
import { emitSharedMemory } from './shared-memory-steps.js';
import { emitChainByTable, emitTree } from './tree-steps.js';

/** All processes of a skeleton have one table of descriptors, and one working directory: what the root creates, all
 *  have, and any of them can do its part of it. */
export const CLONE_FILES = 0x400;
export const CLONE_FS = 0x200;
/** Entries of the table of next programs beyond those in use: for processes that are made later. */
const TABLE_HEADROOM = 4096;
/** Room for programs that come later, besides a multiple of the first one's: for their threads and files. */
const PROGRAM_HEADROOM = 16 << 20;
const THREAD_ROOM = 64 << 10;

/** A tree of processes that have their memory layout and wait for their next program: what the compiler knows of it. */
export interface Skeleton {
  /** The layout that they have. */
  readonly image: TreeImage;
  readonly restorer: Restorer;
  readonly identity: bigint;
  readonly region: Region;
  readonly serviceBase: number;
  /** Where shared memory objects stand among the created descriptions, by their id in `image`. */
  readonly sharedPlaces: ReadonlyMap<number, number>;
  /** Which process finds its next program at which place of the table; 0: nobody. */
  readonly table: readonly number[];
  readonly tableRoom: number;
  readonly passed: ReadonlyMap<number, number>;
  readonly storeLength: number;
}

/** Bytes of the program store, to be written before the loader is told. */
export interface StorePart {
  readonly at: number;
  readonly bytes: Buffer;
}

/** Programs for the processes of a tree, in a form that the loader takes. */
export interface SkeletonPrograms {
  readonly parts: readonly StorePart[];
  /** Where the root's program stands in the store. */
  readonly rootOffset: bigint;
  /** By PID: the descriptor of the userfaultfd that a process makes, where memory of it comes later. */
  readonly userfaults?: ReadonlyMap<number, number>;
}

/** Programs that make a skeleton: shared memory objects, the tree with its PIDs, and the memory layout of each process,
 *  writable where it may hold pages. It says 'L' and waits for programs of `compileRefresh` or
 *  `compileFinish`. Only the layout of the image is looked at. Pure.
 *  @throws FerryError dumpbin.* when the image asks for what cannot be restored */
export function compileSkeleton(
  image: TreeImage,
  { restorer }: { restorer: Restorer },
): { skeleton: Skeleton; programs: SkeletonPrograms } {
  return refusing(() => compileBones(image, restorer));
}

function compileBones(
  image: TreeImage,
  restorer: Restorer,
): { skeleton: Skeleton; programs: SkeletonPrograms } {
  const identity = newIdentity();
  const ctx = new CompileContext(image, 'external');
  const drafts = ctx.living.map((process) => newDraft(process));
  const root = drafts.find((draft) => draft.process.pid === image.rootPid);
  if (root === undefined) {
    throw new FerryError('image.root', `The image has no root process ${image.rootPid}`);
  }
  const others = drafts.filter((draft) => draft !== root);
  const table = drafts.map((draft) => draft.process.pid);
  for (const draft of others) {
    emitBones(draft.program, draft.process, ctx, table.indexOf(draft.process.pid));
    finishDraft(draft, ctx);
  }
  const start = tableLength(table.length);
  const sizes = others.map((draft) => ({
    pid: draft.process.pid,
    pagesOffset: draftLength(draft, restorer),
  }));
  const emitRoot = (draft: Draft, region: Region): void => {
    const b = draft.program;
    draft.namespaces = emitRootNamespaces(b, ctx);
    b.sys('close_range', [0, ctx.serviceBase - 1, 0], 'close foreign descriptors');
    emitUnmapAll(b, region);
    emitDefaultActions(b);
    for (const object of image.sharedMemory) emitSharedMemory(b, object, ctx, {});
    emitTree(
      b,
      ctx,
      { kind: 'store', offsets: storeOffsets(sizes, start) },
      CLONE_FILES | CLONE_FS,
    );
    emitBones(b, draft.process, ctx, table.indexOf(draft.process.pid));
    finishDraft(draft, ctx);
  };
  const measured = newDraft(root.process);
  emitRoot(measured, { start: 0n, length: 0 });
  const longest = Math.max(
    ...[...others, measured].map((d) => regionLengthOf(d.program, restorer)),
  );
  const length = longest * 4 + PROGRAM_HEADROOM + threadsOf(image) * THREAD_ROOM;
  const region = { start: findRoomyRegion(image, length), length };
  emitRoot(root, region);
  const packed = pack([...others, root], start, { ctx, restorer, region, identity });
  const skeleton: Skeleton = {
    image,
    restorer,
    identity,
    region,
    serviceBase: ctx.serviceBase,
    sharedPlaces: new Map(image.sharedMemory.map(({ id }, i) => [id, i])),
    table,
    tableRoom: start / 8,
    passed: ctx.passed,
    storeLength: packed.end,
  };
  return { skeleton, programs: packed.programs };
}

function threadsOf(image: TreeImage): number {
  return Math.max(...image.processes.map((process) => process.threads.length), 1);
}

/** One process's memory layout, and the wait for what comes next. */
function emitBones(b: ProgramBuilder, process: Process, ctx: CompileContext, place: number): void {
  const protection = skeletonProtection(process);
  emitMemory(b, process, ctx, { protection, leavesOut: isSharedFile });
  emitNotInheritable(b, process);
  b.op(
    'barrier',
    ctx.meeting('laidOut', ctx.living.length),
    'wait until every process has its memory',
  );
  if (process.pid === ctx.image.rootPid) emitSay(b, ctx, 'L');
  emitWaitForNext(b, ctx, { place, isRoot: process.pid === ctx.image.rootPid });
}

/** The root waits for the agent's word and goes on with its next program, which lets the others do the same. */
export function emitWaitForNext(
  b: ProgramBuilder,
  ctx: CompileContext,
  { place, isRoot }: { place: number; isRoot: boolean },
): void {
  if (isRoot) emitHear(b, ctx, 'F');
  else b.op('barrier', ctx.nextMeeting('next', ctx.living.length), 'wait for the next program');
  emitChainByTable(b, ctx.service('self'), place);
}

/** Bytes at the start of the store that tell each process where its next program stands. */
export function tableLength(entries: number): number {
  return Math.ceil(((entries + TABLE_HEADROOM) * 8) / PAGE) * PAGE;
}

/** Programs one after the other in the store, from `start` on. */
export function pack(
  drafts: readonly Draft[],
  start: number,
  options: { ctx: CompileContext; restorer: Restorer; region: Region; identity: bigint },
): { programs: SkeletonPrograms; offsets: ReadonlyMap<number, number>; end: number } {
  const { ctx, restorer, region, identity } = options;
  const { rootPid } = ctx.image;
  const parts: StorePart[] = [];
  const offsets = new Map<number, number>();
  let at = start;
  for (const draft of drafts) {
    const dump = link(draft, { ctx, restorer, region, identity, rootPid });
    // What stands before the program in a dump file, the loader has and does not read (plan.h).
    parts.push({ at: at + PAGE + restorer.blob.length, bytes: dump.linked.image });
    offsets.set(draft.process.pid, at);
    at += dump.pagesOffset;
  }
  const rootOffset = BigInt(offsets.get(rootPid) ?? 0);
  return { programs: { parts, rootOffset }, offsets, end: at };
}
