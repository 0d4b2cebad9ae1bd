import { FerryError } from '@ferry/core';
import type { Process, TreeImage } from '@ferry/image';
import type { CompileContext } from './compile-context.js';
import { emitForeground, emitNoTerminal, emitSessionTerminal } from './files/terminal.js';
import { emitTimeForChildren } from './namespaces/clocks.js';
import { CLONE } from './namespaces/clone-flags.js';
import {
  birthOf,
  emitKeepProc,
  emitOpenSpaces,
  emitSetPidSpace,
  pidSpaceOf,
  SpareNumbers,
} from './namespaces/pid-spaces.js';
import { depthOf, numberArguments, numberFor, ownGroup } from './pid-numbers.js';
import type { ProgramBuilder } from './program.js';
import { type Making, planTree, type TreeMaking } from './tree-plan.js';

const EPERM = 1;
const SIGCHLD = 17;
const WAIT_ALL = 0x40000000;
const P_PID = 1;
const WEXITED = 4;
const WNOWAIT = 0x01000000;
const CLONE_FS = 0x200;
const CLONE_FILES = 0x400;
const CLONE_PARENT = 0x8000;
const PR_SET_CHILD_SUBREAPER = 36;

/** How a child finds its own program: the place of its dump file. */
export type ProgramPlace =
  | { readonly kind: 'folder' }
  | { readonly kind: 'store'; readonly offsets: ReadonlyMap<number, number> }
  /** The store's table tells it, at this place. */
  | { readonly kind: 'table'; readonly placeOf: (pid: number) => number };

export interface TreePlan {
  readonly b: ProgramBuilder;
  readonly ctx: CompileContext;
  readonly place: ProgramPlace;
  readonly making: TreeMaking;
  readonly total: number;
  /** Groups whose leader is gone: a helper holds the PID until everybody has joined. */
  readonly helpers: ReadonlyMap<number, readonly number[]>;
  /** Flags of clone(2) for every process that is made. */
  readonly cloneFlags: number;
  readonly spares: SpareNumbers;
}

/** Who makes a process: where it is. */
interface Maker {
  readonly space: number;
  readonly depth: number;
}

/** Makes every other process of the tree, each in its session and group. Runs in the root; returns there, with the
 *  root in its own session and group, when the whole tree stands. */
export function emitTree(
  b: ProgramBuilder,
  ctx: CompileContext,
  place: ProgramPlace,
  cloneFlags = 0,
): void {
  emitKeepProc(b, ctx);
  const root = ctx.process(ctx.image.rootPid);
  const making = planTree(ctx.image);
  const helpers = groupHelpers(ctx);
  const helperCount = [...helpers.values()].reduce((sum, list) => sum + list.length, 0);
  const plan: TreePlan = {
    b,
    ctx,
    place,
    total: ctx.image.processes.length + helperCount + making.standInCount,
    helpers,
    making,
    cloneFlags,
    spares: new SpareNumbers(ctx.image),
  };
  emitProcessSection(plan, root);
}

/** Dead group leaders, by the process whose child stands in for them. */
export function groupHelpers(ctx: CompileContext): Map<number, readonly number[]> {
  const making = planTree(ctx.image);
  return new Map(
    ctx.image.processes
      .map(({ pid }): [number, readonly number[]] => [pid, making.groupsHeldBy(pid)])
      .filter(([, groups]) => groups.length > 0),
  );
}

/** What one process does until the tree stands. */
function emitProcessSection(plan: TreePlan, process: Process): void {
  const { b, ctx, helpers, making } = plan;
  const { pid } = process;
  const made = (kind: Making['kind']): Process[] =>
    childrenOf(ctx.image, process).filter((child) => making.makingOf(child.pid).kind === kind);
  if (process.childrenTimeNamespace !== 0) {
    emitTimeForChildren(b, ctx.image, process.childrenTimeNamespace);
  }
  if (making.hosts.has(pid)) ctx.announces(b, `process ${pid}`);
  const adopts = making.adopters.has(pid);
  if (adopts) b.sys('prctl', [PR_SET_CHILD_SUBREAPER, 1], `process ${pid} takes orphans`);
  for (const child of made('early')) emitFork(plan, process, child);
  if (process.sid === pid) {
    // PID 1 of a container leads its session already: the runtime has made it so.
    const root = pid === ctx.image.rootPid;
    b.sys('setsid', [], `session ${pid}`, root ? { expect: { orErrno: EPERM } } : {});
    // A skeleton has no files yet: see next-programs.ts.
    if (plan.cloneFlags === 0) emitSessionTerminal(b, process, ctx);
  }
  const children = madeLastAway(ctx.image, process, made('child'));
  const inherits = (child: Process) => making.groupIsInherited.has(child.pid);
  for (const child of children.filter((each) => !inherits(each))) emitFork(plan, process, child);
  if (children.some(inherits)) b.sys('setpgid', [0, 0], `group ${pid}`);
  for (const child of children.filter(inherits)) emitFork(plan, process, child);
  const standIns = making.standInsOf(pid);
  for (const sid of standIns) emitStandIn(plan, process, sid);
  for (const other of making.madeBy(pid)) emitForOther(plan, makerOf(ctx.image, process), other);
  for (const pgid of helpers.get(pid) ?? []) emitHelper(plan, process, pgid);
  emitGroup(plan, process);
  emitOpenSpaces(b, process, ctx);
  for (const pgid of helpers.get(pid) ?? []) emitReapHelper(b, process, pgid);
  for (const sid of standIns) {
    const standIn = sessionNumbers(ctx.image, process, sid).at(-1) ?? sid;
    b.sys('wait4', [standIn, 0, WAIT_ALL, 0], `reap the stand-in for session ${sid}`);
  }
  if (standIns.length > 0) emitForgetSignal(b, SIGCHLD);
  if (adopts) b.sys('prctl', [PR_SET_CHILD_SUBREAPER, 0], `process ${pid} takes no more orphans`);
}

/** Waits until the zombies among a process's children are such, and takes back the signals that told of their end: what
 *  was pending when the tree was captured comes with its signals. */
export function emitAwaitZombies(b: ProgramBuilder, ctx: CompileContext, pid: number): void {
  const zombies = ctx.image.processes.filter(
    (child) => child.ppid === pid && child.pid !== pid && child.state === 'zombie',
  );
  for (const zombie of zombies) {
    const number = numberFor(ctx.process(pid), zombie);
    const args = [P_PID, number, 0, WEXITED | WNOWAIT | WAIT_ALL, 0];
    b.sys('waitid', args, `wait until ${zombie.pid} is a zombie`);
  }
  const signals = new Set(zombies.map(({ exitSignal }) => exitSignal));
  for (const signal of signals) if (signal !== 0) emitForgetSignal(b, signal);
}

/** Takes back a signal that told of the end of a child. */
export function emitForgetSignal(b: ProgramBuilder, signal: number): void {
  const set = b.words(1n << BigInt(signal - 1));
  b.sys('rt_sigtimedwait', [set, 0, b.words(0, 0), 8], 'forget that they ended', {
    expect: 'any',
  });
}

/** Makes a child, with everything below it that the image has. */
export function emitFork(plan: TreePlan, parent: Process, child: Process): void {
  const step = `make process ${child.pid} (${child.comm}), child of ${parent.pid}`;
  const shared =
    (child.fsOwnerPid === parent.pid ? CLONE_FS : 0) |
    (child.filesOwnerPid === parent.pid ? CLONE_FILES : 0);
  const flags = plan.cloneFlags | shared;
  emitNew(plan, makerOf(plan.ctx.image, parent), child, { flags, signal: child.exitSignal, step });
}

function emitNew(
  plan: TreePlan,
  maker: Maker,
  child: Process,
  how: { flags: number; signal: number; step: string },
): void {
  const { b, ctx } = plan;
  const { step } = how;
  const childLabel = b.label();
  const after = b.label();
  const birth = birthOf(ctx.image, maker.space, child);
  if (birth.kind === 'away') emitGoTo(plan, birth.init, step);
  const flags = how.flags | (birth.kind === 'first' ? CLONE.pid! : 0);
  const numbers = numberArguments(b, child.pid, child.innerPids);
  b.op('fork', [child.pid, flags, how.signal, ...numbers], step, { target: childLabel });
  if (birth.kind === 'away') {
    emitSetPidSpace(
      b,
      plan.ctx,
      'self/ns/pid',
      `${step}: the maker's next children are born at home`,
    );
  }
  b.op('jump', [0, 0], 'go on as the parent', { target: after });
  b.place(childLabel);
  emitProcessSection(plan, child);
  emitBecome(plan, child);
  b.place(after);
}

/** Makes a process in the session of `maker` that is another one's child. */
function emitForOther(plan: TreePlan, maker: Maker, child: Process): void {
  const { b, cloneFlags, making, spares } = plan;
  const how = making.makingOf(child.pid);
  if (child.fsOwnerPid !== 0 || child.filesOwnerPid !== 0) throw sharesFromAfar(child);
  const step = `make process ${child.pid} (${child.comm}), child of ${child.ppid}`;
  if (how.kind === 'sibling') {
    const flags = cloneFlags | CLONE_PARENT;
    emitNew(plan, maker, child, { flags, signal: 0, step: `${step}, beside ${how.maker}` });
    return;
  }
  if (how.kind !== 'orphan') return;
  const between = b.label();
  const after = b.label();
  const numbers = numberArguments(b, how.between, spares.take(maker.depth));
  b.op(
    'fork',
    [how.between, cloneFlags, 0, ...numbers],
    `make a parent that leaves ${child.pid} behind`,
    { target: between, into: b.slotFor('between') },
  );
  b.op('jump', [0, 0], 'go on as its parent', { target: after });
  b.place(between);
  const signal = child.exitSignal;
  emitNew(plan, maker, child, { flags: cloneFlags, signal, step: `${step}, an orphan` });
  b.op('exit', [0], 'leave an orphan behind');
  b.place(after);
  b.sys(
    'wait4',
    [b.slotFor('between'), 0, WAIT_ALL, 0],
    'reap the parent that left an orphan behind',
  );
}

function sharesFromAfar({ pid, comm, ppid, sid }: Process): FerryError {
  return new FerryError(
    'dumpbin.shared',
    `Process ${pid} (${comm}) shares descriptors or its working directory with its parent ${ppid}, and is in session ${sid}, which that one is not in`,
    { remedy: 'let the program make the session before it makes such a process' },
  );
}

/** Stands in for the leader of a session until everybody is in it. */
function emitStandIn(plan: TreePlan, parent: Process, sid: number): void {
  const { b, ctx, cloneFlags, making, total } = plan;
  const numbers = numberArguments(b, sid, sessionNumbers(ctx.image, parent, sid));
  const standIn = b.label();
  const after = b.label();
  b.op(
    'fork',
    [sid, cloneFlags, SIGCHLD, ...numbers],
    `stand-in for the leader of session ${sid}`,
    { target: standIn },
  );
  b.op('jump', [0, 0], 'go on as the parent', { target: after });
  b.place(standIn);
  b.sys('setsid', [], `session ${sid}`);
  const maker = makerOf(ctx.image, parent);
  for (const other of making.madeBy(sid)) emitForOther(plan, maker, other);
  b.op('barrier', ctx.meeting('tree', total), 'wait until every process stands');
  b.op('barrier', ctx.meeting('groups', total), 'wait until every group has its members');
  b.op('exit', [0], 'the stand-in is done');
  b.place(after);
}

/** A child's last steps in the root's program: it dies as a zombie, or goes on with a program of its own. */
export function emitBecome({ b, ctx, place }: TreePlan, child: Process): void {
  if (child.state === 'zombie') {
    b.sys('prctl', [15, b.cstr(child.comm)], `name of the zombie ${child.pid}`);
    b.op('makeDeath', [child.exitStatus], `process ${child.pid} is a zombie`);
    return;
  }
  const self = ctx.ownFd('self', child);
  if (place.kind === 'store') {
    b.op(
      'chain',
      [self, place.offsets.get(child.pid) ?? 0],
      `load the program of process ${child.pid}`,
    );
    return;
  }
  if (place.kind === 'table') {
    emitChainByTable(b, self, place.placeOf(child.pid));
    return;
  }
  if (ctx.opensDumpsEarly) {
    b.sys('dup3', [ctx.dumpFd(child), self, 0], `${child.pid}.dump, which is open`);
  } else emitOpenDump(b, ctx, child, self);
  b.op('chain', [self, 0], `load the program of process ${child.pid}`);
}

/** Opens the dump files of all other processes, each at its `CompileContext.dumpFd`. */
export function emitOpenDumps(b: ProgramBuilder, ctx: CompileContext): void {
  if (!ctx.opensDumpsEarly) return;
  for (const process of ctx.living) {
    if (process.pid !== ctx.image.rootPid) emitOpenDump(b, ctx, process, ctx.dumpFd(process));
  }
}

function emitOpenDump(b: ProgramBuilder, ctx: CompileContext, { pid }: Process, to: number): void {
  const slot = b.slotFor('dump file');
  const step = `${pid}.dump`;
  const args = [ctx.service('folder'), b.cstr(step), 0, 0];
  b.sys('openat', args, `open ${step}`, { into: slot });
  b.moveFd(slot, to, step);
}

/** Goes on with the program that the store's table names. */
export function emitChainByTable(b: ProgramBuilder, store: number, place: number): void {
  const at = b.reserve(8);
  const slot = b.slotFor('next program');
  b.op('read', [store, at, 8, place * 8], 'find the next program');
  b.load(at, 8, slot, 'find the next program');
  b.op('chain', [store, slot], 'load the next program');
}

/** Group leaders first, then everybody else joins: a group must exist, in the same session, to be joined.
 *  @param is  the process as it was, when it is not new */
export function emitGroup(
  { b, ctx, total, cloneFlags, making }: TreePlan,
  process: Process,
  is?: Process,
): void {
  const root = ctx.process(ctx.image.rootPid);
  // Groups of whoever restores, when the root leads no session.
  const outer =
    (process.pgid === root.pgid && root.pgid !== root.pid) ||
    (process.pgid === root.sid && root.sid !== root.pid);
  const there = is !== undefined && is.pgid === process.pgid;
  // A group that it has left since must be there for the others to join.
  const leads = process.pgid === process.pid || making.left.has(process.pid);
  if (leads && process.sid !== process.pid && !there) {
    b.sys('setpgid', [0, 0], `group ${process.pid}`);
  }
  b.op('barrier', ctx.meeting('tree', total), 'wait until every process stands');
  // One that its PID namespace does not show it is born in: see groupIsInherited.
  const group = ownGroup(process);
  const joins = process.pgid !== process.pid && group !== 0 && !outer && !there;
  const join = (): void => b.sys('setpgid', [0, group], `join group ${process.pgid}`);
  if (joins && !leads) join();
  b.op('barrier', ctx.meeting('groups', total), 'wait until every group has its members');
  if (joins && leads) join();
  if (cloneFlags !== 0) return;
  emitForeground(b, process, ctx);
  emitNoTerminal(b, process, ctx);
}

export function emitHelper(
  { b, ctx, total, cloneFlags }: TreePlan,
  parent: Process,
  pgid: number,
): void {
  const helper = b.label();
  const after = b.label();
  const numbers = numberArguments(b, pgid, parent.innerPgids);
  b.op('fork', [pgid, cloneFlags, 0, ...numbers], `stand-in for the leader of group ${pgid}`, {
    target: helper,
  });
  b.op('jump', [0, 0], 'go on as the parent', { target: after });
  b.place(helper);
  b.sys('setpgid', [0, 0], `group ${pgid}`);
  b.op('barrier', ctx.meeting('tree', total), 'wait until every process stands');
  b.op('barrier', ctx.meeting('groups', total), 'wait until every group has its members');
  b.op('exit', [0], 'the stand-in is done');
  b.place(after);
}

export function emitReapHelper(b: ProgramBuilder, parent: Process, pgid: number): void {
  const args = [ownGroup({ ...parent, pgid }), 0, WAIT_ALL, 0];
  b.sys('wait4', args, `reap the stand-in for group ${pgid}`);
}

function makerOf(image: TreeImage, process: Process): Maker {
  return { space: pidSpaceOf(image, process), depth: depthOf(process) };
}

/** Those that need another child of their parent to be there come last. */
function madeLastAway(image: TreeImage, parent: Process, children: Process[]): Process[] {
  const space = pidSpaceOf(image, parent);
  const isAway = (child: Process) => Number(birthOf(image, space, child).kind === 'away');
  return children.toSorted((a, b) => isAway(a) - isAway(b));
}

function childrenOf(image: TreeImage, { pid }: Process): Process[] {
  return image.processes.filter(
    (child) => child.ppid === pid && child.pid !== pid && child.pid !== image.rootPid,
  );
}

/** What the leader of a session, which is gone, was called in the nested PID namespaces of `parent`. */
function sessionNumbers(image: TreeImage, parent: Process, sid: number): number[] {
  const member = image.processes.find((process) => process.sid === sid);
  return member?.innerSids.slice(0, depthOf(parent)) ?? [];
}

/** The next child is born in the PID namespace of `init`. */
function emitGoTo({ b, ctx }: TreePlan, init: Process, step: string): void {
  ctx.awaits(b, `process ${init.pid}`);
  emitSetPidSpace(b, ctx, `${init.pid}/ns/pid`, step);
}
