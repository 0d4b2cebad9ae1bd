import { FerryError } from '@ferry/core';
import type { Process, TreeImage } from '@ferry/image';
import type { CompileContext } from '../compile-context.js';
import { firstHolder } from '../files/deferred.js';
import type { EmitContext } from '../files/emit.js';
import type { ProgramBuilder } from '../program.js';
import { makerOfTime } from './clocks.js';
import { CLONE } from './clone-flags.js';

const WAIT_CLONE = 0x40000000;

/** The nested PID namespace that a process is in; 0: the root's. */
export function pidSpaceOf(image: TreeImage, { innerPids, namespaceIds }: Process): number {
  if (innerPids.length === 0) return 0;
  return (
    image.namespaces.find(({ id, type }) => type === 'pid' && namespaceIds.includes(id))?.id ?? 0
  );
}

/** The first process of a nested PID namespace; undefined when it has none. */
export function initOf(image: TreeImage, space: number): Process | undefined {
  return image.processes.find(
    (process) => process.innerPids.at(-1) === 1 && pidSpaceOf(image, process) === space,
  );
}

/** Numbers that no process has, one for each PID namespace that a maker is in below the root's. */
export class SpareNumbers {
  readonly #next: number[] = [];

  constructor(image: TreeImage) {
    const depth = Math.max(0, ...image.processes.map(({ innerPids }) => innerPids.length));
    for (let level = 0; level < depth; level++) {
      const used = image.processes.flatMap(({ innerPids, innerPgids, innerSids, threads }) => [
        ...[innerPids, innerPgids, innerSids].map((numbers) => numbers[level] ?? 0),
        ...threads.map(({ innerTids }) => innerTids[level] ?? 0),
      ]);
      this.#next.push(Math.max(...used) + 1);
    }
  }

  take(depth: number): number[] {
    return this.#next.slice(0, depth).map((_, level) => this.#next[level]!++);
  }
}

type SpaceContext = Pick<EmitContext, 'image' | 'spaceFd'> & Pick<CompileContext, 'service'>;

const O_PATH_DIRECTORY = 0o10200000;

/** Keeps the /proc of the root's PID namespace, where all of the tree is found: another may soon be mounted over it. */
export function emitKeepProc(b: ProgramBuilder, ctx: SpaceContext): void {
  if (hasKeptProc(ctx.image)) openProc(b, ctx);
}

export function hasKeptProc({ namespaces }: TreeImage): boolean {
  return namespaces.some(({ type }) => type === 'pid' || type === 'time');
}

export function openProc(b: ProgramBuilder, ctx: Pick<SpaceContext, 'service'>): void {
  const slot = b.slotFor('namespace');
  b.sys('open', [b.cstr('/proc'), O_PATH_DIRECTORY, 0], "the root's /proc", { into: slot });
  b.moveFd(slot, ctx.service('proc'), "the root's /proc");
}

/** How the child of a maker comes into its PID namespace. */
export type Birth =
  | { readonly kind: 'here' }
  /** As its first process. */
  | { readonly kind: 'first' }
  /** Its maker goes there to have the child, which `init` must be there for. */
  | { readonly kind: 'away'; readonly init: Process };

export function birthOf(image: TreeImage, makerSpace: number, child: Process): Birth {
  const space = pidSpaceOf(image, child);
  if (space === makerSpace) return { kind: 'here' };
  const init = initOf(image, space);
  const parent = image.namespaces.find(({ id }) => id === space)?.parentId ?? 0;
  const isOfRoot = image.processes[0]!.namespaceIds.includes(parent);
  if (init === child && (isOfRoot ? 0 : parent) === makerSpace) return { kind: 'first' };
  if (init !== undefined && init !== child) return { kind: 'away', init };
  throw new FerryError(
    'dumpbin.pidNamespace',
    `Process ${child.pid} (${child.comm}) is in PID namespace ${space}, where its parent cannot make it`,
    { remedy: 'let the parent of that process make the PID namespace' },
  );
}

/** Opens the nested namespaces that processes of the tree have made and that a process needs later: now the tree stands,
 *  and /proc is still the root's. */
export function emitOpenSpaces(b: ProgramBuilder, process: Process, ctx: SpaceContext): void {
  const { image } = ctx;
  const open = (path: string, space: number): void => {
    const slot = b.slotFor('namespace');
    const args = [ctx.service('proc'), b.cstr(path), 0, 0];
    b.sys('openat', args, `open namespace ${space}`, { into: slot });
    b.moveFd(slot, ctx.spaceFd(space), `namespace ${space}`);
  };
  const held = image.files.flatMap(({ id, kind }) => {
    if (kind?.$case !== 'namespace') return [];
    return firstHolder(image, id) === process ? [kind.value.namespaceId] : [];
  });
  for (const space of new Set([process.childrenPidNamespace, ...process.namespaceIds, ...held])) {
    const path = wayTo(image, space);
    if (path !== undefined) open(path, space);
  }
}

/** Where in /proc a namespace is found that a process of the tree makes; undefined for those that the root makes beforehand. */
export function wayTo(image: TreeImage, space: number): string | undefined {
  if (space === 0) return undefined;
  const init = initOf(image, space);
  if (init !== undefined && init.innerPids.length > 0) return `${init.pid}/ns/pid`;
  const maker = makerOfTime(image, space);
  return maker === undefined ? undefined : `${maker.pid}/ns/time_for_children`;
}

/** The next children of a process are born in another PID namespace: when all processes and threads are made. */
export function emitPidSpaceForChildren(
  b: ProgramBuilder,
  process: Process,
  ctx: SpaceContext,
): void {
  const { image } = ctx;
  const space = process.childrenPidNamespace;
  if (space === 0) return;
  const step = `PID namespace ${space} for the children of ${process.pid}`;
  if (initOf(image, space) !== undefined) {
    b.sys('setns', [ctx.spaceFd(space), CLONE.pid!], step);
    return;
  }
  b.sys('unshare', [CLONE.pid!], step);
  const { inode } = image.namespaces.find(({ id }) => id === space)!;
  // It has no name (and no inode) before its first process; when that has ended no other can be born there.
  if (inode === 0n) return;
  const [first, after] = [b.label(), b.label()];
  const child = b.slotFor('first process');
  b.op('fork', [0, 0, 0], `${step}: its first process`, { target: first, into: child });
  b.op('jump', [0, 0], `${step}: go on`, { target: after });
  b.place(first);
  b.op('exit', [0], `${step}: its first process ends`);
  b.place(after);
  b.sys('wait4', [child, 0, WAIT_CLONE, 0], `${step}: reap its first process`);
}

/** The caller's next children are born in the PID namespace that `path`, below the root's /proc, names. */
export function emitSetPidSpace(
  b: ProgramBuilder,
  ctx: Pick<CompileContext, 'service'>,
  path: string,
  step: string,
): void {
  const slot = b.slotFor('PID namespace');
  const args = [ctx.service('proc'), b.cstr(path), 0, 0];
  b.sys('openat', args, `${step}: open /proc/${path}`, { into: slot });
  b.sys('setns', [slot, CLONE.pid!], step);
  b.sys('close', [slot], step);
}
