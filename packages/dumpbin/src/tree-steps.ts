import { FerryError } from '@ferry/core';
import type { Process } from '@ferry/image';
import { BARRIER, type CompileContext } from './compile-context.js';
import type { ProgramBuilder } from './program.js';

const EPERM = 1;

/** How a child finds its own program: the place of its dump file. */
export type ProgramPlace =
  | { readonly kind: 'folder' }
  | { readonly kind: 'store'; readonly offsets: ReadonlyMap<number, number> };

interface TreePlan {
  readonly b: ProgramBuilder;
  readonly ctx: CompileContext;
  readonly place: ProgramPlace;
  /** Session that the root finds itself in, when it does not make one: that of whoever restores. */
  readonly outerSession: number;
  readonly total: number;
  /** Groups whose leader is gone: a helper holds the PID until everybody has joined. */
  readonly helpers: ReadonlyMap<number, readonly number[]>;
}

/** Makes every other process of the tree, each in its session and group. Runs in the root; returns there, with the
 *  root in its own session and group, when the whole tree stands. */
export function emitTree(b: ProgramBuilder, ctx: CompileContext, place: ProgramPlace): void {
  const root = ctx.process(ctx.image.rootPid);
  const helpers = groupHelpers(ctx);
  const helperCount = [...helpers.values()].reduce((sum, list) => sum + list.length, 0);
  const plan: TreePlan = {
    b,
    ctx,
    place,
    outerSession: root.sid,
    total: ctx.image.processes.length + helperCount,
    helpers,
  };
  emitProcessSection(plan, root, root.sid === root.pid ? -1 : root.sid);
}

/** Dead group leaders, by the process that stands in for their parent: the parent of the group's first member. */
function groupHelpers(ctx: CompileContext): Map<number, number[]> {
  const pids = new Set(ctx.image.processes.map((process) => process.pid));
  const helpers = new Map<number, number[]>();
  const seen = new Set<number>();
  const root = ctx.process(ctx.image.rootPid);
  for (const process of ctx.image.processes) {
    const { pgid } = process;
    if (pids.has(pgid) || pgid === root.pgid || pgid === 0 || seen.has(pgid)) continue;
    if (pgid === process.sid) continue;
    seen.add(pgid);
    const parent = pids.has(process.ppid) ? process.ppid : root.pid;
    helpers.set(parent, [...(helpers.get(parent) ?? []), pgid]);
  }
  return helpers;
}

/** What one process does until the tree stands: `session` is the one it was born in (-1: does not matter). */
function emitProcessSection(plan: TreePlan, process: Process, session: number): void {
  const { b, ctx, helpers } = plan;
  const leads = process.sid === process.pid;
  const children = ctx.image.processes.filter(
    (child) =>
      child.ppid === process.pid && child.pid !== process.pid && child.pid !== ctx.image.rootPid,
  );
  const before = children.filter(
    (child) => leads && child.sid === session && session !== process.sid,
  );
  for (const child of before) emitFork(plan, process, child, session);
  if (leads) {
    // PID 1 of a container leads its session already: the runtime has made it so.
    const root = process.pid === ctx.image.rootPid;
    b.sys('setsid', [], `session ${process.pid}`, root ? { expect: { orErrno: EPERM } } : {});
  }
  for (const child of children) {
    if (before.includes(child)) continue;
    checkSession(process, child);
    emitFork(plan, process, child, process.sid);
  }
  for (const pgid of helpers.get(process.pid) ?? []) emitHelper(plan, pgid);
  emitGroup(plan, process);
  for (const pgid of helpers.get(process.pid) ?? []) {
    b.sys('wait4', [pgid, 0, 0x40000000, 0], `reap the stand-in for group ${pgid}`);
  }
}

function checkSession(parent: Process, child: Process): void {
  if (child.sid === child.pid || child.sid === parent.sid) return;
  throw new FerryError(
    'dumpbin.session',
    `Process ${child.pid} (${child.comm}) is in session ${child.sid}, which its parent ${parent.pid} is not in`,
    {
      remedy: 'the session leader has exited or is another process; this order is not carried yet',
    },
  );
}

function emitFork(plan: TreePlan, parent: Process, child: Process, session: number): void {
  const { b } = plan;
  const childLabel = b.label();
  const after = b.label();
  b.op(
    'fork',
    [child.pid, 0, child.exitSignal],
    `make process ${child.pid} (${child.comm}), child of ${parent.pid}`,
    {
      target: childLabel,
    },
  );
  b.op('jump', [0, 0], 'go on as the parent', { target: after });
  b.place(childLabel);
  emitProcessSection(plan, child, session);
  emitBecome(plan, child);
  b.place(after);
}

/** A child's last steps in the root's program: it dies as a zombie, or goes on with a program of its own. */
function emitBecome({ b, ctx, place }: TreePlan, child: Process): void {
  if (child.state === 'zombie') {
    b.sys('prctl', [15, b.cstr(child.comm)], `name of the zombie ${child.pid}`);
    b.op('makeDeath', [child.exitStatus], `process ${child.pid} is a zombie`);
    return;
  }
  const self = ctx.service('self');
  if (place.kind === 'store') {
    b.op(
      'chain',
      [self, place.offsets.get(child.pid) ?? 0],
      `load the program of process ${child.pid}`,
    );
    return;
  }
  const slot = b.slotFor('dump file');
  b.sys(
    'openat',
    [ctx.service('folder'), b.cstr(`${child.pid}.dump`), 0, 0],
    `open ${child.pid}.dump`,
    {
      into: slot,
    },
  );
  b.moveFd(slot, self, `${child.pid}.dump`);
  b.op('chain', [self, 0], `load the program of process ${child.pid}`);
}

/** Group leaders first, then everybody else joins: a group must exist, in the same session, to be joined. */
function emitGroup({ b, ctx, total }: TreePlan, process: Process): void {
  const root = ctx.process(ctx.image.rootPid);
  const outer = process.pgid === root.pgid && root.pgid !== root.pid;
  if (process.pgid === process.pid && process.sid !== process.pid) {
    b.sys('setpgid', [0, 0], `group ${process.pid}`);
  }
  b.op('barrier', [BARRIER.tree, total], 'wait until every process stands');
  if (process.pgid !== process.pid && process.pgid !== 0 && !outer) {
    b.sys('setpgid', [0, process.pgid], `join group ${process.pgid}`);
  }
  b.op('barrier', [BARRIER.groups, total], 'wait until every group has its members');
}

function emitHelper({ b, total }: TreePlan, pgid: number): void {
  const helper = b.label();
  const after = b.label();
  b.op('fork', [pgid, 0, 0], `stand-in for the leader of group ${pgid}`, { target: helper });
  b.op('jump', [0, 0], 'go on as the parent', { target: after });
  b.place(helper);
  b.sys('setpgid', [0, 0], `group ${pgid}`);
  b.op('barrier', [BARRIER.tree, total], 'wait until every process stands');
  b.op('barrier', [BARRIER.groups, total], 'wait until every group has its members');
  b.op('exit', [0], 'the stand-in is done');
  b.place(after);
}
