import { FerryError } from '@ferry/core';
import type { Process, TreeImage } from '@ferry/image';
import type { CompileContext } from './compile-context.js';
import { SpareNumbers } from './namespaces/pid-spaces.js';
import type { ProgramBuilder } from './program.js';
import type { TreeDifference } from './tree-difference.js';
import { planTree } from './tree-plan.js';
import {
  emitBecome,
  emitForgetSignal,
  emitFork,
  emitGroup,
  emitHelper,
  emitReapHelper,
  groupHelpers,
  type ProgramPlace,
  type TreePlan,
} from './tree-steps.js';

const WAIT_ALL = 0x40000000;
const SIGCHLD = 17;

/** What the programs of a skeleton's processes agree on while they change its tree. */
export interface TreeChange {
  readonly preliminary: TreeImage;
  readonly difference: TreeDifference;
  readonly place: ProgramPlace;
  readonly cloneFlags: number;
}

/** Makes what is new below a process, lets it join its group, and reaps what is gone. For every process that lived in the
 *  skeleton; one that is gone itself ends here, and one that is a zombie now becomes it. */
export function emitTreeChange(
  b: ProgramBuilder,
  ctx: CompileContext,
  pid: number,
  change: TreeChange,
): void {
  const { preliminary, difference } = change;
  const before = preliminary.processes.find((process) => process.pid === pid)!;
  const now = ctx.image.processes.find((process) => process.pid === pid);
  const plan = planOf(b, ctx, change);
  if (now === undefined) emitMeetings(b, ctx, plan.total);
  else emitGrowth(plan, now, { before, difference });
  emitReap(b, pid, change);
  if (now === undefined) b.op('exit', [0], `process ${pid} is gone`);
  else if (now.state === 'zombie') emitBecome(plan, now);
}

function planOf(
  b: ProgramBuilder,
  ctx: CompileContext,
  { preliminary, difference, place, cloneFlags }: TreeChange,
): TreePlan {
  const { kept, fresh, died, gone } = difference;
  const living = new Set(
    preliminary.processes.filter(({ state }) => state !== 'zombie').map(({ pid }) => pid),
  );
  const helpers = newHelpers(ctx, preliminary);
  const helperCount = [...helpers.values()].reduce((sum, list) => sum + list.length, 0);
  const leaving = gone.filter((pid) => living.has(pid)).length;
  const total = kept.length + fresh.length + died.length + leaving + helperCount;
  const making = planTree(ctx.image);
  const standIns = fresh.reduce((sum, { pid }) => sum + making.standInsOf(pid).length, 0);
  const spares = new SpareNumbers(ctx.image);
  return { b, ctx, place, making, total: total + standIns, helpers, cloneFlags, spares };
}

/** Groups that have no leader, and that no process of the skeleton is in. */
function newHelpers(ctx: CompileContext, preliminary: TreeImage): Map<number, number[]> {
  const there = new Set(preliminary.processes.map((process) => process.pgid));
  const helpers = new Map<number, number[]>();
  for (const [parent, groups] of groupHelpers(ctx)) {
    const missing = groups.filter((pgid) => !there.has(pgid));
    if (missing.length > 0) helpers.set(parent, missing);
  }
  return helpers;
}

function emitMeetings(b: ProgramBuilder, ctx: CompileContext, total: number): void {
  b.op('barrier', ctx.meeting('tree', total), 'wait until every process stands');
  b.op('barrier', ctx.meeting('groups', total), 'wait until every group has its members');
}

function emitGrowth(
  plan: TreePlan,
  process: Process,
  { before, difference }: { before: Process; difference: TreeDifference },
): void {
  const { b, helpers } = plan;
  if (process.sid !== before.sid) b.sys('setsid', [], `session ${process.pid}`);
  for (const child of difference.fresh) {
    if (child.ppid !== process.pid) continue;
    if (plan.making.makingOf(child.pid).kind !== 'child') throw lateOrphan(child);
    emitFork(plan, process, child);
  }
  for (const pgid of helpers.get(process.pid) ?? []) emitHelper(plan, process, pgid);
  emitGroup(plan, process, before);
  for (const pgid of helpers.get(process.pid) ?? []) emitReapHelper(b, process, pgid);
}

function lateOrphan({ pid, comm, sid }: Process): FerryError {
  return new FerryError(
    'dumpbin.skeleton',
    `Process ${pid} (${comm}) in session ${sid} has lost its parent since the migration began`,
    { remedy: 'migrate it again' },
  );
}

/** Reaps children that are gone, and takes back the signals that told of their end. */
function emitReap(b: ProgramBuilder, pid: number, { preliminary, difference }: TreeChange): void {
  const gone = new Set(difference.gone);
  const children = preliminary.processes.filter(
    (child) => child.ppid === pid && child.pid !== pid && gone.has(child.pid),
  );
  for (const child of children) {
    b.sys('wait4', [child.pid, 0, WAIT_ALL, 0], `reap process ${child.pid}`);
  }
  const signals = new Set(children.map((child) => child.exitSignal || SIGCHLD));
  for (const signal of signals) {
    emitForgetSignal(b, signal);
  }
}
