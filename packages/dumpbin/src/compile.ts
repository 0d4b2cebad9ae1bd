import { FerryError } from '@ferry/core';
import type { TreeImage } from '@ferry/image';
import { CompileContext, type PageOrigin } from './compile-context.js';
import {
  type CompiledDump,
  type Draft,
  draftLength,
  finishDraft,
  link,
  newDraft,
  storeOffsets,
} from './draft.js';
import { emitIpc } from './ipc-steps.js';
import { newIdentity, regionLengthOf } from './link.js';
import { emitUnmapAll } from './memory-steps.js';
import { emitProcMounts } from './namespaces/proc-mounts.js';
import { emitRootNamespaces } from './namespaces/root.js';
import { createFiles, emitOwn } from './own-steps.js';
import { emitDefaultActions } from './process-steps.js';
import { refusing } from './refusing.js';
import { findRegion } from './region.js';
import type { Restorer } from './restorer.js';
import { emitSharedMemory } from './shared-memory-steps.js';
import { emitTree, type ProgramPlace } from './tree-steps.js';

export interface CompileOptions {
  readonly pages: PageOrigin;
  readonly restorer: Restorer;
}

export interface CompiledTree {
  readonly rootPid: number;
  /** The root last: its program depends on the others. */
  readonly dumps: CompiledDump[];
  readonly identity: bigint;
}

/** Programs and dump files for a whole tree. A pure function of the image; all policy of restoring is below here.
 *  @throws FerryError dumpbin.*, image.* when the image asks for what cannot be restored */
export function compileTree(image: TreeImage, options: CompileOptions): CompiledTree {
  return refusing(() => compileAll(image, options));
}

function compileAll(image: TreeImage, options: CompileOptions): CompiledTree {
  const { restorer, pages } = options;
  const identity = newIdentity();
  const ctx = new CompileContext(image, pages);
  const drafts = ctx.living.map((process) => newDraft(process));
  const root = drafts.find((draft) => draft.process.pid === image.rootPid);
  if (root === undefined)
    throw new FerryError('image.root', `The image has no root process ${image.rootPid}`);
  const others = drafts.filter((draft) => draft !== root);
  for (const draft of others) emitOwn(draft, ctx);
  for (const draft of others) finishDraft(draft, ctx);
  // The root's length depends on the region's, and the region's on the longest program: lay out once with a guess.
  const measured = newDraft(root.process);
  emitRoot(measured, new CompileContext(image, pages), others, restorer, { start: 0n, length: 0 });
  finishDraft(measured, ctx);
  const lengths = [...others, measured].map((draft) => regionLengthOf(draft.program, restorer));
  const length = Math.max(...lengths);
  const region = { start: findRegion(image, length * 2), length };
  emitRoot(root, ctx, others, restorer, region);
  finishDraft(root, ctx);
  const dumps = [...others, root].map((draft) =>
    link(draft, { ctx, restorer, region, identity, rootPid: image.rootPid }),
  );
  return { rootPid: image.rootPid, dumps, identity };
}

/** The root's program: everything shared, the tree, then what every process does. */
function emitRoot(
  draft: Draft,
  ctx: CompileContext,
  others: readonly Draft[],
  restorer: Restorer,
  region: { start: bigint; length: number },
): void {
  const b = draft.program;
  draft.namespaces = emitRootNamespaces(b, ctx);
  b.sys('close_range', [0, ctx.serviceBase - 1, 0], 'close foreign descriptors');
  emitUnmapAll(b, region);
  emitDefaultActions(b);
  for (const object of ctx.image.sharedMemory) {
    emitSharedMemory(b, object, ctx, { pages: draft.pages });
  }
  emitIpc(b, ctx.image.ipc);
  createFiles(b, ctx, draft.process.pid);
  emitTree(b, ctx, programPlace(ctx, others, restorer));
  emitProcMounts(b, ctx);
  emitOwn(draft, ctx);
}

function programPlace(
  ctx: CompileContext,
  others: readonly Draft[],
  restorer: Restorer,
): ProgramPlace {
  if (ctx.pages === 'embedded') return { kind: 'folder' };
  const sizes = others.map((draft) => ({
    pid: draft.process.pid,
    pagesOffset: draftLength(draft, restorer),
  }));
  return { kind: 'store', offsets: storeOffsets(sizes) };
}
