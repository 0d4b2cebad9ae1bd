import { FerryError } from '@ferry/core';
import type { FileObject, Process, TreeImage } from '@ferry/image';
import { BARRIER, CompileContext, type PageOrigin } from './compile-context.js';
import type { FileEmitter } from './files/emit.js';
import { emitProcessLocks, fileEmitters } from './files/registry.js';
import { infoText } from './info.js';
import { CHUNK, FLAG } from './layout.js';
import {
  elfHeader,
  type LinkedProgram,
  linkProgram,
  newIdentity,
  pagesOffsetOf,
  regionLengthOf,
} from './link.js';
import {
  emitFutureLocks,
  emitLayout,
  emitMemory,
  emitProtections,
  emitSharedMemory,
  emitUnmapAll,
  PageCursor,
  type PageRead,
} from './memory-steps.js';
import {
  emitActions,
  emitArmTimers,
  emitDefaultActions,
  emitDescriptors,
  emitLimits,
  emitPending,
  emitProcessAttributes,
  emitTimers,
} from './process-steps.js';
import { type DataRef, ProgramBuilder, REGION_LENGTH, REGION_START } from './program.js';
import type { Restorer } from './restorer.js';
import {
  emitFrame,
  emitLastPrivileges,
  emitLocalFrame,
  emitThreadAttributes,
  type FramePlace,
  placeFrame,
} from './thread-steps.js';
import { emitTree, type ProgramPlace } from './tree-steps.js';

const SYS_MUNMAP = 11;
const SYS_WRITE = 1;
const EFD_SEMAPHORE = 1;
const WAIT_CLONE = 0x40000000;
const STACK = 8192;
const SLOTS = 2048;

export interface CompileOptions {
  readonly pages: PageOrigin;
  readonly restorer: Restorer;
}

/** One process's dump file, complete but for its page contents. */
export interface CompiledDump {
  readonly pid: number;
  readonly linked: LinkedProgram;
  readonly elfHeader: Buffer;
  /** Bytes of page contents that follow, from `pagesOffset` on. */
  readonly pagesLength: number;
  readonly pageReads: readonly PageRead[];
  readonly pagesOffset: number;
  /** Where the chunk hashes, and the root's table of the other files, stand in `linked.image`. */
  readonly chunkHashesAt: number;
  readonly childrenAt: number | undefined;
}

export interface CompiledTree {
  readonly rootPid: number;
  /** The root last: its program depends on the others. */
  readonly dumps: CompiledDump[];
  readonly identity: bigint;
}

interface Draft {
  readonly process: Process;
  readonly program: ProgramBuilder;
  readonly pages: PageCursor;
  chunkHashes: DataRef | undefined;
  info: { at: DataRef; length: number } | undefined;
  children: { at: DataRef; count: number } | undefined;
}

/** Programs and dump files for a whole tree. A pure function of the image; all policy of restoring is below here.
 *  @throws FerryError dumpbin.* when the image asks for what cannot be restored */
export function compileTree(image: TreeImage, options: CompileOptions): CompiledTree {
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

function newDraft(process: Process): Draft {
  const program = new ProgramBuilder();
  return {
    process,
    program,
    pages: new PageCursor(),
    chunkHashes: undefined,
    info: undefined,
    children: undefined,
  };
}

/** Data that the header points to. */
function finishDraft(draft: Draft, ctx: CompileContext): void {
  const b = draft.program;
  draft.chunkHashes = b.reserve(Math.ceil(draft.pages.length / CHUNK) * 8);
  const text = Buffer.from(infoText(draft.process, ctx.image));
  draft.info = { at: b.bytes(text), length: text.length };
  if (draft.process.pid !== ctx.image.rootPid) return;
  const others = ctx.living.filter((process) => process.pid !== ctx.image.rootPid);
  const table = Buffer.alloc(others.length * 16);
  others.forEach((process, i) => {
    table.writeUInt32LE(process.pid, i * 16);
  });
  draft.children = { at: b.bytes(table), count: others.length };
}

function link(
  draft: Draft,
  options: {
    ctx: CompileContext;
    restorer: Restorer;
    region: { start: bigint; length: number };
    identity: bigint;
    rootPid: number;
  },
): CompiledDump {
  const { ctx, restorer, region, identity, rootPid } = options;
  const { process, program, pages } = draft;
  const linked = linkProgram(program, {
    restorer,
    region: region.start,
    regionLength: region.length,
    pid: process.pid,
    flags: process.pid === rootPid ? FLAG.root : 0,
    serviceBase: ctx.serviceBase,
    identity,
    info: draft.info!,
    ...(draft.children === undefined ? {} : { children: draft.children }),
    pages: { length: pages.length, chunkHashes: draft.chunkHashes! },
  });
  return {
    pid: process.pid,
    linked,
    elfHeader: elfHeader(region.start + BigInt(region.length), linked.imageLength),
    pagesLength: pages.length,
    pageReads: pages.reads,
    pagesOffset: pagesOffsetOf(linked.imageLength),
    chunkHashesAt: linked.dataOffset + draft.chunkHashes!.offset,
    childrenAt:
      draft.children === undefined ? undefined : linked.dataOffset + draft.children.at.offset,
  };
}

/** The lowest gap of `length` bytes that is free in every process of the tree. */
function findRegion(image: TreeImage, length: number): bigint {
  const taken = image.processes
    .flatMap((process) => process.mm?.vmas ?? [])
    .map((vma) => ({ start: vma.start - 0x100000n, end: vma.end }))
    .sort((a, b) => (a.start < b.start ? -1 : 1));
  let at = 0x10000n;
  for (const range of taken) {
    if (range.start >= at + BigInt(length)) break;
    if (range.end > at) at = (range.end + 0xffffn) & ~0xffffn;
  }
  if (at + BigInt(length) > 0x700000000000n) {
    throw new FerryError(
      'dumpbin.noGap',
      `No ${length} free bytes of address space common to all processes`,
    );
  }
  return at;
}

/** Offsets of dump files that stand one after the other in a program store. */
export function storeOffsets(
  dumps: readonly { pid: number; pagesOffset: number }[],
): Map<number, number> {
  const offsets = new Map<number, number>();
  let at = 0;
  for (const dump of dumps) {
    offsets.set(dump.pid, at);
    at += dump.pagesOffset;
  }
  return offsets;
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
  b.sys('close_range', [0, ctx.serviceBase - 1, 0], 'close foreign descriptors');
  emitUnmapAll(b, region);
  emitDefaultActions(b);
  for (const object of ctx.image.sharedMemory) emitSharedMemory(b, object, ctx, draft.pages);
  createFiles(b, ctx, draft.process.pid);
  emitTree(b, ctx, programPlace(ctx, others, restorer));
  emitOwn(draft, ctx);
}

function programPlace(
  ctx: CompileContext,
  others: readonly Draft[],
  restorer: Restorer,
): ProgramPlace {
  if (ctx.pages === 'embedded') return { kind: 'folder' };
  const sizes = others.map((draft) => {
    const { ops, data } = draft.program.sizes;
    const imageLength = restorer.blob.length + Math.ceil((192 + ops) / 64) * 64 + data;
    return { pid: draft.process.pid, pagesOffset: pagesOffsetOf(imageLength) };
  });
  return { kind: 'store', offsets: storeOffsets(sizes) };
}

function emitterOf(file: FileObject): FileEmitter {
  const emitter = fileEmitters[file.kind?.$case ?? ''];
  if (emitter === undefined) {
    throw new FerryError(
      'image.fileKind',
      `File object ${file.id} is of unknown kind "${file.kind?.$case}"`,
    );
  }
  return emitter;
}

function createFiles(b: ProgramBuilder, ctx: CompileContext, pid: number): void {
  const files = ctx.filesCreatedBy(pid);
  for (const file of files) emitterOf(file).create(b, file, ctx);
  for (const file of files) emitterOf(file).connect?.(b, file, ctx);
}

/** What every process does once the tree stands: memory, descriptors, attributes, threads, and the way out. */
function emitOwn(draft: Draft, ctx: CompileContext): void {
  const { process, program: b, pages } = draft;
  const isRoot = process.pid === ctx.image.rootPid;
  if (!isRoot) createFiles(b, ctx, process.pid);
  emitMemory(b, process, ctx, pages);
  if (ctx.pages === 'external') emitWaitForPages(b, ctx, isRoot);
  emitProtections(b, process);
  emitLayout(b, process, ctx);
  const places = process.threads.map((thread) => placeFrame(process, thread));
  const leaves = canLeave(process, places);
  if (leaves) {
    process.threads.forEach((thread, i) => {
      emitFrame(b, process, thread, places[i]!);
    });
  }
  emitDescriptors(b, process, ctx);
  for (const file of ctx.image.files) {
    const installer = ctx.installer(file);
    if (installer?.pid === process.pid) emitterOf(file).installed?.(b, file, installer.fd, ctx);
  }
  emitProcessLocks(b, process, ctx);
  emitProcessAttributes(b, process);
  emitActions(b, process);
  const one = b.words(1);
  b.sys('eventfd2', [0, EFD_SEMAPHORE], 'count threads that leave', { into: b.slotFor('left') });
  b.moveFd(b.slotFor('left'), ctx.service('left'), 'count threads that leave');
  const entries = process.threads.slice(1).map((thread) => {
    const entry = b.label();
    const stack = b.zeroed(STACK, 16).plus(STACK);
    b.op('thread', [thread.tid, stack, b.zeroed(SLOTS, 16)], `make thread ${thread.tid}`, {
      target: entry,
    });
    return { entry, thread };
  });
  emitTimers(b, process);
  emitFutureLocks(b, process);
  emitLimits(b, process);
  emitPending(b, process);
  b.op(
    'barrier',
    [BARRIER.installed, ctx.living.length],
    'wait until every process has its descriptors and threads',
  );
  if (isRoot) emitKeeper(b, ctx);
  emitLeader(draft, ctx, leaves);
  entries.forEach(({ entry, thread }) => {
    b.place(entry);
    emitThread(draft, ctx, { thread, leaves, one });
  });
}

/** Every task can leave the region when each has a place for its frame and the program's code has what it takes. */
function canLeave(process: Process, places: readonly (FramePlace | undefined)[]): boolean {
  const { syscallReturnAddress, sigreturnAddress } = process.mm!;
  const strict = process.threads.some((thread) => thread.seccompMode === 1);
  return (
    syscallReturnAddress !== 0n &&
    sigreturnAddress !== 0n &&
    !strict &&
    places.every((p) => p !== undefined)
  );
}

/** Live migration: pages are written into the skeletons from outside between two barriers. */
function emitWaitForPages(b: ProgramBuilder, ctx: CompileContext, isRoot: boolean): void {
  b.op('barrier', [BARRIER.laidOut, ctx.living.length], 'wait until every process has its memory');
  if (isRoot) emitExchange(b, ctx, { say: 'L', hear: 'P' });
  b.op('barrier', [BARRIER.pages, ctx.living.length], 'wait for the page contents');
}

/** Tells the agent one letter and waits for its answer. */
function emitExchange(
  b: ProgramBuilder,
  ctx: CompileContext,
  words: { say: string; hear: string },
): void {
  const control = ctx.service('control');
  const answer = b.reserve(8);
  b.sys('write', [control, b.bytes(Buffer.from(words.say)), 1], `tell the agent ${words.say}`, {
    expect: { value: 1 },
  });
  b.sys('read', [control, answer, 1], `wait for the agent's ${words.hear}`, {
    expect: { value: 1 },
  });
}

/** The keeper is a short-lived child of the root that keeps every description and privilege until the tree may go. */
function emitKeeper(b: ProgramBuilder, ctx: CompileContext): void {
  const keeper = b.label();
  const after = b.label();
  b.op('fork', [0, 0, 0], 'make the keeper', { target: keeper, into: b.slotFor('keeper') });
  b.op('jump', [0, 0], 'go on as the root', { target: after });
  b.place(keeper);
  b.op('barrier', [BARRIER.ready, ctx.taskCount], 'wait until everything is restored');
  if (ctx.pages === 'external') emitExchange(b, ctx, { say: 'R', hear: 'G' });
  for (const file of ctx.filesCreatedBy(ctx.image.rootPid)) emitterOf(file).resume?.(b, file, ctx);
  b.op('barrier', [BARRIER.go, ctx.taskCount], 'go');
  b.op('exit', [0], 'the keeper is done');
  b.place(after);
}

function emitLeader(draft: Draft, ctx: CompileContext, leaves: boolean): void {
  const { process, program: b } = draft;
  const leader = process.threads[0]!;
  const isRoot = process.pid === ctx.image.rootPid;
  emitThreadAttributes(b, process, leader);
  b.op('barrier', [BARRIER.ready, ctx.taskCount], 'wait until everything is restored');
  b.op('barrier', [BARRIER.go, ctx.taskCount], 'go');
  if (isRoot) b.sys('wait4', [b.slotFor('keeper'), 0, WAIT_CLONE, 0], 'reap the keeper');
  else {
    for (const file of ctx.filesCreatedBy(process.pid)) emitterOf(file).resume?.(b, file, ctx);
  }
  const others = process.threads.length - 1;
  const count = b.reserve(8);
  if (leaves) {
    for (let i = 0; i < others; i++) {
      b.sys('read', [ctx.service('left'), count, 8], 'wait until the threads have left');
    }
  }
  b.sys('close_range', [ctx.serviceBase, 0xffffffff, 0], "close the restorer's descriptors");
  emitArmTimers(b, process);
  if (isRoot) b.op('resumed', [], 'the tree runs');
  if (process.state === 'stopped') b.sys('kill', [process.pid, 19], 'stopped as before');
  emitLastPrivileges(b, leader);
  if (!leaves) {
    b.op('return', [emitLocalFrame(b, process, leader)], 'return to the saved registers');
    return;
  }
  const place = placeFrame(process, leader)!;
  const mm = process.mm!;
  b.op(
    'leave',
    [
      place.address,
      mm.syscallReturnAddress,
      mm.sigreturnAddress,
      SYS_MUNMAP,
      REGION_START,
      REGION_LENGTH,
    ],
    'leave',
  );
}

function emitThread(
  draft: Draft,
  ctx: CompileContext,
  options: { thread: Process['threads'][number]; leaves: boolean; one: DataRef },
): void {
  const { process, program: b } = draft;
  const { thread, leaves, one } = options;
  emitThreadAttributes(b, process, thread);
  b.op('barrier', [BARRIER.ready, ctx.taskCount], 'wait until everything is restored');
  b.op('barrier', [BARRIER.go, ctx.taskCount], 'go');
  emitLastPrivileges(b, thread);
  if (!leaves) {
    b.op('return', [emitLocalFrame(b, process, thread)], 'return to the saved registers');
    return;
  }
  const place = placeFrame(process, thread)!;
  const mm = process.mm!;
  const left = ctx.service('left');
  b.op(
    'leave',
    [place.address, mm.syscallReturnAddress, mm.sigreturnAddress, SYS_WRITE, left, one],
    'leave',
    { value: 8 },
  );
}
