import { FerryError } from '@ferry/core';
import type { FileObject, Process, Vma } from '@ferry/image';
import { emitControlGroups, emitThreadGroups, emitThreadJoin } from './cgroup-steps.js';
import { BARRIER, type CompileContext } from './compile-context.js';
import type { Draft } from './draft.js';
import { emitCloseCovered } from './files/covered.js';
import type { FileEmitter } from './files/emit.js';
import { emitProcessLocks, emitQueueNotices, fileEmitters } from './files/registry.js';
import { emitSemaphoreUndo } from './ipc-steps.js';
import { emitContext, emitKeepProcForLabels, emitLabels } from './label-steps.js';
import {
  emitForkAdvice,
  emitFutureLocks,
  emitGuards,
  emitInheritable,
  emitLayout,
  emitMemory,
  emitNotInheritable,
  emitProtections,
} from './memory-steps.js';
import { emitEnterOwn, inSpacesOf } from './namespaces/nested.js';
import { emitPidSpaceForChildren } from './namespaces/pid-spaces.js';
import { emitAwaitProcMounts } from './namespaces/proc-mounts.js';
import { emitEnterUser, userSpaceOf } from './namespaces/user-space.js';
import { numberArguments } from './pid-numbers.js';
import {
  emitActions,
  emitArmTimers,
  emitDescriptors,
  emitLimits,
  emitMemoryDeny,
  emitPending,
  emitProcessAttributes,
  emitStop,
  emitTimers,
} from './process-steps.js';
import { type DataRef, type ProgramBuilder, REGION_LENGTH, REGION_START } from './program.js';
import { emitSeals } from './shared-memory-steps.js';
import { emitAwaitStopped, emitNoStopSignal } from './stop-steps.js';
import {
  emitEndedAttributes,
  emitFrame,
  emitLastPrivileges,
  emitLocalFrame,
  emitStopFrame,
  emitThreadAttributes,
  type FramePlace,
  mainThread,
  placeFrame,
  placeStopFrame,
} from './thread-steps.js';
import { emitAwaitZombies } from './tree-steps.js';

const SYS_MUNMAP = 11;
const FUTEX_WAIT = 0;
const SYS_WRITE = 1;
const EFD_SEMAPHORE = 1;
const WAIT_CLONE = 0x40000000;
const STACK = 8192;
const SLOTS = 2048;

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

/** The descriptions that a process creates: the root's for all, any other's for itself. */
export function createFiles(b: ProgramBuilder, ctx: CompileContext, pid: number): void {
  // What has an address that others are bound to comes first.
  const isDevice = ({ kind }: FileObject): number => (kind?.$case === 'tun' ? 0 : 1);
  const files = ctx
    .filesCreatedBy(pid)
    .filter((file) => !ctx.isOpenedOutside(file))
    .toSorted((x, y) => isDevice(x) - isDevice(y));
  const there = { ctx, pid };
  for (const file of files) {
    inSpacesOf(b, file, there, () => emitterOf(file).create(b, file, ctx));
  }
  emitCloseCovered(b, ctx.filesCreatedBy(pid), ctx);
  for (const file of files) {
    const { connect } = emitterOf(file);
    if (connect !== undefined) inSpacesOf(b, file, there, () => connect(b, file, ctx));
  }
}

/** What every process of a tree that is restored in one go does once the tree stands. */
export function emitOwn(draft: Draft, ctx: CompileContext): void {
  const { process, program: b, pages } = draft;
  const isRoot = process.pid === ctx.image.rootPid;
  if (!isRoot) emitControlGroups(b, process.controlGroups);
  emitThreadGroups(b, process, ctx);
  if (!isRoot) emitEnterOwn(b, process, ctx);
  if (!isRoot) emitAwaitProcMounts(b, process, ctx);
  if (!isRoot) createFiles(b, ctx, process.pid);
  emitMemory(b, process, ctx, { pages });
  if (isRoot) emitNotInheritable(b, process);
  if (ctx.pages === 'external') emitWaitForPages(b, ctx, isRoot);
  emitRest(draft, ctx);
}

/** What every process does when its page contents are there: descriptors, attributes, threads, and the way out.
 *  @param options.open  of a skeleton, whose memory stays out of forks until now: mappings without their own protection */
export function emitRest(
  draft: Draft,
  ctx: CompileContext,
  options: { open?: ReadonlySet<Vma> } = {},
): void {
  const { process, program: b } = draft;
  const isRoot = process.pid === ctx.image.rootPid;
  const { open } = options;
  emitProtections(b, process, ctx, open && ((vma) => open.has(vma)));
  emitGuards(b, process);
  emitLayout(b, process, ctx);
  const places = process.threads.map((thread) => placeFrame(process, thread));
  const leaves = canLeave(process, places);
  if (leaves) {
    process.threads.forEach((thread, i) => {
      if (!thread.exited) emitFrame(b, process, thread, places[i]!);
    });
    const main = places[process.threads.indexOf(mainThread(process))]!;
    const stop = placeStopFrame(process, main);
    if (stop !== undefined) emitStopFrame(b, process, stop, main);
  }
  emitKeepProcForLabels(b, process, ctx);
  // What opens files for a moment may take any free number: not while a table that it shares is filled.
  if (process.filesOwnerPid !== 0) emitProcessAttributes(b, process, ctx);
  emitTableMeeting(b, ctx, process, 'tableFree');
  emitDescriptors(b, process, ctx);
  for (const file of ctx.image.files) {
    const installer = ctx.installer(file);
    if (installer?.pid === process.pid) emitterOf(file).installed?.(b, file, installer.fd, ctx);
  }
  emitTableMeeting(b, ctx, process, 'tableFilled');
  emitSemaphoreUndo(b, ctx.image.ipc, process.semaphoreAdjustments);
  emitProcessLocks(b, process, ctx);
  emitQueueNotices(b, process, ctx);
  if (process.filesOwnerPid === 0) emitProcessAttributes(b, process, ctx);
  emitActions(b, process);
  emitNoStopSignal(b, ctx.image, process);
  const one = b.words(1);
  b.sys('eventfd2', [0, EFD_SEMAPHORE], 'count threads that leave', { into: b.slotFor('left') });
  b.moveFd(b.slotFor('left'), ctx.ownFd('left', process), 'count threads that leave');
  emitContext(b, process, ctx);
  emitEnterUser(b, process, ctx);
  const entries = process.threads.slice(1).map((thread) => {
    const entry = b.label();
    const stack = b.zeroed(STACK, 16).plus(STACK);
    const args = [
      thread.tid,
      stack,
      b.zeroed(SLOTS, 16),
      ...numberArguments(b, thread.tid, thread.innerTids),
    ];
    b.op('thread', args, `make thread ${thread.tid}`, { target: entry });
    emitThreadJoin(b, thread, ctx);
    return { entry, thread };
  });
  emitTimers(b, process);
  emitFutureLocks(b, process);
  emitMemoryDeny(b, process);
  emitLimits(b, process);
  emitAwaitZombies(b, ctx, process.pid);
  emitPending(b, process);
  b.op(
    'barrier',
    ctx.meeting('installed', ctx.living.length),
    'wait until every process has its descriptors and threads',
  );
  emitLate(b, process, ctx);
  if (isRoot) emitKeeper(b, ctx);
  emitPidSpaceForChildren(b, process, ctx);
  if (isRoot || open !== undefined) emitInheritable(b, process);
  emitForkAdvice(b, process);
  const ended = process.threads[0]!.exited ? emitEnd(draft, ctx) : undefined;
  if (ended === undefined) emitMain(draft, ctx, { leaves, ended });
  entries.forEach(({ entry, thread }) => {
    b.place(entry);
    if (thread === mainThread(process)) emitMain(draft, ctx, { leaves, ended });
    else emitThread(draft, ctx, { thread, leaves, one });
  });
}

/** Where processes with a common table of descriptors wait for each other: until nobody opens anything under a number that
 *  is to be filled, until all are filled, until nobody needs the restorer's, until those are closed. */
function emitTableMeeting(
  b: ProgramBuilder,
  ctx: CompileContext,
  process: Process,
  which: 'tableFree' | 'tableFilled' | 'tableUnused' | 'tableClosed',
): void {
  if (!ctx.sharesTable(process)) return;
  const meeting = ctx.meeting(which, ctx.tableSharerCount);
  b.op('barrier', meeting, 'wait for those with the same table of descriptors');
}

/** Descriptions that could not be made before every process had its own. */
function emitLate(b: ProgramBuilder, process: Process, ctx: CompileContext): void {
  const held = new Set(process.descriptors.map(({ fileId }) => fileId));
  for (const file of ctx.image.files) {
    if (held.has(file.id)) emitterOf(file).late?.(b, file, process, ctx);
  }
}

/** Every task can leave the region when each has a place for its frame and the program's code has what it takes. */
function canLeave(process: Process, places: readonly (FramePlace | undefined)[]): boolean {
  const { syscallReturnAddress, sigreturnAddress } = process.mm!;
  const strict = process.threads.some((thread) => thread.seccompMode === 1);
  return (
    syscallReturnAddress !== 0n &&
    sigreturnAddress !== 0n &&
    !strict &&
    process.threads.every(({ exited }, i) => exited || places[i] !== undefined)
  );
}

/** Live migration: pages are written into the skeletons from outside between two barriers. */
function emitWaitForPages(b: ProgramBuilder, ctx: CompileContext, isRoot: boolean): void {
  b.op(
    'barrier',
    ctx.meeting('laidOut', ctx.living.length),
    'wait until every process has its memory',
  );
  if (isRoot) {
    emitSay(b, ctx, 'L');
    emitHear(b, ctx, 'P');
  }
  b.op('barrier', ctx.meeting('pages', ctx.living.length), 'wait for the page contents');
}

/** Tells the agent one letter. */
export function emitSay(b: ProgramBuilder, ctx: CompileContext, letter: string): void {
  const args = [ctx.service('control'), b.bytes(Buffer.from(letter)), 1];
  b.sys('write', args, `tell the agent ${letter}`, { expect: { value: 1 } });
}

/** Waits until the agent has said one letter. */
export function emitHear(b: ProgramBuilder, ctx: CompileContext, letter: string): void {
  const args = [ctx.service('control'), b.reserve(8), 1];
  b.sys('read', args, `wait for the agent's ${letter}`, { expect: { value: 1 } });
}

/** The meeting after which the tree runs. Nobody comes there before the agent has given the right to run: so that a task
 *  that is killed while it waits for that is missed, and nothing runs. */
function emitGo(b: ProgramBuilder, ctx: CompileContext, isKeeper = false): void {
  if (ctx.pages === 'external') {
    const meeting = isKeeper ? [BARRIER.granted, 1] : [BARRIER.granted, 1, 1];
    b.op('barrier', meeting, 'wait for the right to run');
  }
  b.op('barrier', [...ctx.meeting('go', ctx.taskCount), 0, 1], 'go');
}

/** The keeper is a short-lived child of the root that keeps every description and privilege until the tree may go. */
function emitKeeper(b: ProgramBuilder, ctx: CompileContext): void {
  const keeper = b.label();
  const after = b.label();
  b.op('fork', [0, 0, 0], 'make the keeper', { target: keeper, into: b.slotFor('keeper') });
  b.op('jump', [0, 0], 'go on as the root', { target: after });
  b.place(keeper);
  b.op('barrier', ctx.meeting('ready', ctx.taskCount), 'wait until everything is restored');
  for (const object of ctx.image.sharedMemory) emitSeals(b, object, ctx);
  if (ctx.pages === 'external') {
    emitSay(b, ctx, 'R');
    emitHear(b, ctx, 'G');
  }
  for (const file of ctx.filesCreatedBy(ctx.image.rootPid)) emitterOf(file).resume?.(b, file, ctx);
  emitGo(b, ctx, true);
  b.op('exit', [0], 'the keeper is done');
  b.place(after);
}

/** A first thread that had ended ends again, when all that it alone could do is done. The kernel sets the word to 0 then
 *  (set_tid_address(2)); nothing of the thread runs after it. */
interface EndedThread {
  readonly word: DataRef;
  readonly keeper: DataRef;
}

function emitEnd({ process, program: b }: Draft, ctx: CompileContext): EndedThread {
  const thread = process.threads[0]!;
  const ended = { word: b.words(1), keeper: b.reserve(8) };
  emitEndedAttributes(b, process, thread, { entered: userSpaceOf(ctx.image, process) !== 0 });
  if (process.pid === ctx.image.rootPid) {
    b.store(b.slotFor('keeper'), ended.keeper, 8, 'who reaps the keeper');
  }
  b.op('barrier', ctx.meeting('ready', ctx.taskCount), 'wait until everything is restored');
  emitGo(b, ctx);
  emitLastPrivileges(b, thread);
  b.sys('set_tid_address', [ended.word], `thread ${thread.tid}: tell of the end`);
  b.sys('exit', [(thread.exitStatus >> 8) & 0xff], `thread ${thread.tid} ends`);
  return ended;
}

function emitAwaitEnd(b: ProgramBuilder, { word, keeper }: EndedThread): void {
  const step = 'wait until the first thread has ended';
  const [again, over] = [b.label(), b.label()];
  const value = b.slotFor('first thread');
  b.place(again);
  b.load(word, 4, value, step);
  b.op('jump', [value, 0], step, { target: over });
  b.sys('futex', [word, FUTEX_WAIT, value, 0, 0, 0], step, { expect: 'any' });
  b.op('jump', [0, 0], step, { target: again });
  b.place(over);
  b.load(keeper, 8, b.slotFor('keeper'), 'who reaps the keeper');
}

/** What the process's main thread does to the end. */
function emitMain(
  draft: Draft,
  ctx: CompileContext,
  { leaves, ended }: { leaves: boolean; ended: EndedThread | undefined },
): void {
  const { process, program: b } = draft;
  const leader = mainThread(process);
  const isRoot = process.pid === ctx.image.rootPid;
  emitThreadAttributes(b, process, leader, { entered: userSpaceOf(ctx.image, process) !== 0 });
  emitLabels(b, leader, ctx);
  b.op('barrier', ctx.meeting('ready', ctx.taskCount), 'wait until everything is restored');
  emitGo(b, ctx);
  if (ended !== undefined) emitAwaitEnd(b, ended);
  if (isRoot) b.sys('wait4', [b.slotFor('keeper'), 0, WAIT_CLONE, 0], 'reap the keeper');
  else {
    for (const file of ctx.filesCreatedBy(process.pid)) emitterOf(file).resume?.(b, file, ctx);
  }
  const others = process.threads.filter(({ exited }) => !exited).length - 1;
  const count = b.reserve(8);
  if (leaves) {
    for (let i = 0; i < others; i++) {
      b.sys('read', [ctx.ownFd('left', process), count, 8], 'wait until the threads have left');
    }
  }
  emitTableMeeting(b, ctx, process, 'tableUnused');
  if (process.filesOwnerPid === 0) {
    b.sys('close_range', [ctx.serviceBase, 0xffffffff, 0], "close the restorer's descriptors");
  }
  emitTableMeeting(b, ctx, process, 'tableClosed');
  emitArmTimers(b, process);
  if (isRoot) b.op('resumed', [], 'the tree runs');
  emitAwaitStopped(b, ctx.image, process);
  const own = leaves ? placeFrame(process, leader) : undefined;
  const stop = own && placeStopFrame(process, own);
  if (process.state === 'stopped' && stop === undefined) emitStop(b, process);
  emitLastPrivileges(b, leader);
  if (own === undefined) {
    b.op('return', [emitLocalFrame(b, process, leader)], 'return to the saved registers');
    return;
  }
  const place = stop ?? own;
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
  emitThreadAttributes(b, process, thread, { entered: userSpaceOf(ctx.image, process) !== 0 });
  emitLabels(b, thread, ctx);
  b.op('barrier', ctx.meeting('ready', ctx.taskCount), 'wait until everything is restored');
  emitGo(b, ctx);
  emitLastPrivileges(b, thread);
  if (!leaves) {
    b.op('return', [emitLocalFrame(b, process, thread)], 'return to the saved registers');
    return;
  }
  const place = placeFrame(process, thread)!;
  const mm = process.mm!;
  const left = ctx.ownFd('left', process);
  b.op(
    'leave',
    [place.address, mm.syscallReturnAddress, mm.sigreturnAddress, SYS_WRITE, left, one],
    'leave',
    { value: 8 },
  );
}
