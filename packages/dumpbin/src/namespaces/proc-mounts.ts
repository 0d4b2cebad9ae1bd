import type { Mount, Namespace, Process } from '@ferry/image';
import type { CompileContext } from '../compile-context.js';
import { numberArguments } from '../pid-numbers.js';
import type { ProgramBuilder } from '../program.js';
import { CLONE } from './clone-flags.js';
import {
  contentOf,
  emitAttributes,
  emitNew,
  emitPropagation,
  inOrder,
  relative,
} from './mounts.js';
import { nestedNamespaces } from './nested.js';
import { emitSetPidSpace, initOf, SpareNumbers } from './pid-spaces.js';

const AT_FDCWD = -100;
const AT_EMPTY_PATH = 0x1000;
const OPEN_TREE_CLONE_CLOEXEC = 0o2000001;
const MOVE_FROM_FD = 0x4;
const MOVE_TO_FD = 0x44;
const MNT_DETACH = 2;
const MS_SHARED = 0x100000;
const WAIT_ALL = 0x40000000;

/** Mounts of proc that show the processes of a nested PID namespace. */
function procMounts(namespace: Namespace): Mount[] {
  return contentOf(namespace).mounts.filter(({ pidNamespaceId }) => pidNamespaceId !== 0);
}

/** Puts mounts of proc in the place of those that have stood for them: what a new one shows depends on the PID namespace
 *  of the process that mounts it, and that is only there now that the tree stands. Runs in the root. */
export function emitProcMounts(b: ProgramBuilder, ctx: CompileContext): void {
  const nested = new Set(nestedNamespaces(ctx));
  const spares = new SpareNumbers(ctx.image);
  for (const namespace of ctx.image.namespaces) {
    const mounts = procMounts(namespace);
    for (const mount of mounts) {
      emitInside(b, ctx, { spares, mount, namespace, enters: nested.has(namespace) });
    }
    if (mounts.length > 0) ctx.announces(b, name(namespace));
  }
}

/** In a process that has entered its own namespaces. */
export function emitAwaitProcMounts(
  b: ProgramBuilder,
  process: Process,
  ctx: CompileContext,
): void {
  for (const namespace of ctx.image.namespaces) {
    if (!process.namespaceIds.includes(namespace.id)) continue;
    if (procMounts(namespace).length > 0) ctx.awaits(b, name(namespace));
  }
}

function name({ id }: Namespace): string {
  return `proc in mount namespace ${id}`;
}

/** A child goes where the child of its own is born in the PID namespace, which then mounts. */
function emitInside(
  b: ProgramBuilder,
  ctx: CompileContext,
  options: { spares: SpareNumbers; mount: Mount; namespace: Namespace; enters: boolean },
): void {
  const { spares, mount, namespace, enters } = options;
  const init = initOf(ctx.image, mount.pidNamespaceId)!;
  const step = `proc at ${mount.mountpoint}, as process ${init.pid} sees it`;
  const [outside, inside, after] = [b.label(), b.label(), b.label()];
  const child = b.slotFor('helper');
  b.op('fork', [0, 0, 0], `${step}: helper`, { target: outside, into: child });
  b.op('jump', [0, 0], `${step}: go on as the root`, { target: after });
  b.place(outside);
  emitSetPidSpace(b, ctx, `${init.pid}/ns/pid`, step);
  const numbers = numberArguments(b, 0, spares.take(init.innerPids.length));
  b.op('fork', [0, 0, 0, ...numbers], `${step}: in there`, { target: inside, into: child });
  b.sys('wait4', [child, 0, WAIT_ALL, 0], `${step}: reap the helper in there`);
  b.op('exit', [0], `${step}: done`);
  b.place(inside);
  if (enters) b.sys('setns', [ctx.spaceFd(namespace.id), CLONE.mnt!], `${step}: go there`);
  emitExchange(b, ctx, mount, namespace);
  b.op('exit', [0], `${step}: done`);
  b.place(after);
  b.sys('wait4', [child, 0, WAIT_ALL, 0], `${step}: reap the helper`);
}

/** What stands there is unmounted with all that is mounted on it, of which copies are taken first. */
function emitExchange(
  b: ProgramBuilder,
  ctx: CompileContext,
  proc: Mount,
  namespace: Namespace,
): void {
  const { mounts } = contentOf(namespace);
  const below = inOrder(mounts).filter((mount) => isBelow(mount, proc, mounts));
  const fd = (mount: Mount): number => ctx.mountFd(mount.id);
  const empty = b.cstr('');
  const copy = (of: { from: number; path: string }, mount: Mount): void => {
    const slot = b.slotFor('mount');
    const flags = OPEN_TREE_CLONE_CLOEXEC | (of.path === '' ? AT_EMPTY_PATH : 0);
    const step = `copy for ${mount.mountpoint}`;
    b.sys('open_tree', [of.from, b.cstr(of.path), flags], step, { into: slot });
    b.moveFd(slot, fd(mount), step);
  };
  for (const mount of below) {
    if (mount.device !== proc.device) copy({ from: AT_FDCWD, path: mount.mountpoint }, mount);
  }
  emitNew(b, proc, fd(proc));
  b.sys(
    'umount2',
    [b.cstr(proc.mountpoint), MNT_DETACH],
    `unmount what stood at ${proc.mountpoint}`,
  );
  const at = b.cstr(proc.mountpoint);
  b.sys('move_mount', [fd(proc), empty, AT_FDCWD, at, MOVE_FROM_FD], `mount ${proc.mountpoint}`);
  if (proc.sharedGroup !== 0) emitPropagation(b, fd(proc), MS_SHARED, `${proc.mountpoint} shared`);
  for (const mount of below) {
    const parent = mounts.find(({ id }) => id === mount.parentId)!;
    if (mount.device === proc.device) {
      copy({ from: fd(proc), path: mount.root === '/' ? '' : mount.root.slice(1) }, mount);
      emitAttributes(b, fd(mount), mount);
    }
    const path = relative(parent.mountpoint, mount.mountpoint);
    const flags = path === '' ? MOVE_TO_FD : MOVE_FROM_FD;
    const args = [fd(mount), empty, fd(parent), b.cstr(path), flags];
    b.sys('move_mount', args, `mount ${mount.mountpoint}`);
  }
}

function isBelow(mount: Mount, top: Mount, mounts: readonly Mount[]): boolean {
  const parent = mounts.find(({ id }) => id === mount.parentId);
  return (
    parent !== undefined && parent !== mount && (parent === top || isBelow(parent, top, mounts))
  );
}
