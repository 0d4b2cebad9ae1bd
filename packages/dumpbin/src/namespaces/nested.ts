import { FerryError } from '@ferry/core';
import type { FileObject, Namespace, Process } from '@ferry/image';
import { emitControlGroups } from '../cgroup-steps.js';
import { type CompileContext, HOMES } from '../compile-context.js';
import type { ProgramBuilder } from '../program.js';
import { emitTimeForChildren, makerOfTime } from './clocks.js';
import { CLONE } from './clone-flags.js';
import { emitContent } from './content.js';
import { emitCoveredApart, emitMounts, emitOuterMounts, hasCovered } from './mounts.js';
import { emitSocket } from './netlink.js';
import { emitNetworkRest, hasCarriedPeers } from './network.js';

const CLONE_FILES = 0x400;
const WAIT_ALL = 0x40000000;
const ENOENT = 2;

/** Carried namespaces that the root of the tree is not in. */
export function nestedNamespaces(ctx: CompileContext): Namespace[] {
  const ids = new Set(ctx.process(ctx.image.rootPid).namespaceIds);
  return ctx.image.namespaces.filter(({ id }) => !ids.has(id));
}

/** Makes the namespaces that are nested in the tree and leaves a descriptor of each, and of the root's own ones, for those
 *  who enter them. A helper that has the root's table of descriptors makes them, so that the root stays where it is.
 *  Runs in the root, in its own namespaces, with its /proc open. */
export function emitNested(b: ProgramBuilder, ctx: CompileContext): void {
  const nested = nestedNamespaces(ctx).filter(({ type }) => type !== 'pid');
  if (nested.length === 0) return;
  const proc = ctx.namespaceFd('proc');
  for (const type of HOMES) {
    emitOpenSpace(b, proc, { type, fd: ctx.homeFd(type), what: `the root's ${type} namespace` });
  }
  for (const namespace of ownersFirst(nested)) {
    const { id, type, ownerId } = namespace;
    if (type === 'user') {
      emitUser(b, namespace, ctx);
      continue;
    }
    if (type === 'time' && makerOfTime(ctx.image, id) !== undefined) continue;
    const what = `${type} namespace ${id}`;
    if (type === 'mnt') emitOuterMounts(b, namespace, ctx);
    // Veth pairs lead to the root's network.
    if (type === 'net') b.moveFd(emitSocket(b, 0), ctx.namespaceFd('outerNetlink'), what);
    const make = (): void => {
      emitMake(b, namespace, ctx);
      const name = type === 'time' ? 'time_for_children' : type;
      emitOpenSpace(b, proc, { type: name, fd: ctx.spaceFd(id), what });
    };
    // Whoever makes it must be in the namespace that owns it; whoever fills it needs more privileges than that gives.
    const isOurs = isInRootUser(namespace, ctx);
    if (!isOurs) emitHelper(b, `make ${what}`, make);
    if (ownerId !== 0 && hasCovered(namespace)) {
      emitHelper(b, `uncover for ${what}`, () => emitCoveredApart(b, namespace, ctx));
    }
    emitHelper(b, `fill ${what}`, () => {
      if (isOurs) make();
      else if (type !== 'time') b.sys('setns', [ctx.spaceFd(id), CLONE[type]!], `enter ${what}`);
      if (type === 'mnt') emitMounts(b, namespace, ctx);
      else emitContent(b, namespace, ctx, ctx.homeFd('net'));
    });
  }
  emitJoinedNetworks(b, ctx);
}

/** What waits until the devices between carried network namespaces are there. */
function emitJoinedNetworks(b: ProgramBuilder, ctx: CompileContext): void {
  const ofRoot = new Set(ctx.process(ctx.image.rootPid).namespaceIds);
  for (const namespace of ctx.image.namespaces.filter(hasCarriedPeers)) {
    const step = `settle network namespace ${namespace.id}`;
    emitHelper(b, step, () => {
      const fd = ofRoot.has(namespace.id) ? ctx.homeFd('net') : ctx.spaceFd(namespace.id);
      b.sys('setns', [fd, CLONE.net!], `enter network namespace ${namespace.id}`);
      emitNetworkRest(b, namespace, ctx);
    });
  }
}

/** Whether a namespace is owned by the user namespace that the root makes it in. */
function isInRootUser({ ownerId }: Namespace, ctx: CompileContext): boolean {
  return ownerId === 0 || ownerId === ctx.rootUserNamespace?.id;
}

function ownersFirst(namespaces: readonly Namespace[]): Namespace[] {
  return namespaces.toSorted((a, b) => Number(b.type === 'user') - Number(a.type === 'user'));
}

/** A user namespace, with its maps, which only somebody outside may write. */
function emitUser(b: ProgramBuilder, { id, content }: Namespace, ctx: CompileContext): void {
  if (content?.$case !== 'user') return;
  const { uidMap, gidMap, denySetgroups, ownerUid } = content.value;
  const what = `user namespace ${id}`;
  const [helper, after] = [b.label(), b.label()];
  const child = b.slotFor('helper');
  b.op('fork', [0, CLONE_FILES, 0], `${what}: helper`, { target: helper, into: child });
  b.op('jump', [0, 0], `${what}: go on as the root`, { target: after });
  b.place(helper);
  b.sys('setresuid', [-1, ownerUid, -1], `${what}: owner`);
  b.sys('unshare', [CLONE.user!], `make ${what}`);
  emitOpenSpace(b, ctx.namespaceFd('proc'), { type: 'user', fd: ctx.spaceFd(id), what });
  ctx.announces(b, what);
  ctx.awaits(b, `maps of ${what}`);
  b.op('exit', [0], `${what}: done`);
  b.place(after);
  ctx.awaits(b, what);
  const write = (name: string, text: Uint8Array): void => {
    if (text.length === 0) return;
    const args = [child, b.cstr(`/${name}`), b.bytes(text), text.length];
    b.op('writeProc', args, `${name} of ${what}`);
  };
  if (denySetgroups) write('setgroups', Buffer.from('deny'));
  write('uid_map', uidMap);
  write('gid_map', gidMap);
  ctx.announces(b, `maps of ${what}`);
  b.sys('wait4', [child, 0, WAIT_ALL, 0], `${what}: reap the helper`);
}

function emitMake(b: ProgramBuilder, namespace: Namespace, ctx: CompileContext): void {
  const { id, type, content, ownerId } = namespace;
  if (content?.$case === 'cgroup') emitControlGroups(b, content.value.roots);
  if (!isInRootUser(namespace, ctx)) {
    b.sys('setns', [ctx.spaceFd(ownerId), CLONE.user!], `enter user namespace ${ownerId}`);
  }
  if (type === 'time') {
    emitTimeForChildren(b, ctx.image, id);
    return;
  }
  b.sys('unshare', [CLONE[type]!], `make ${type} namespace ${id}`);
}

function emitOpenSpace(
  b: ProgramBuilder,
  proc: number,
  { type, fd, what }: { type: string; fd: number; what: string },
): void {
  const slot = b.slotFor('namespace');
  // A kernel can lack a type.
  const expect = { orErrno: ENOENT } as const;
  b.sys('openat', [proc, b.cstr(`self/ns/${type}`), 0, 0], `open ${what}`, { into: slot, expect });
  b.sys('dup3', [slot, fd, 0], `keep ${what}`, { expect: 'any' });
  b.sys('close', [slot], `keep ${what}`, { expect: 'any' });
}

/** Steps of a child that is gone afterwards; what it opens, the root has. */
export function emitHelper(b: ProgramBuilder, step: string, steps: () => void): void {
  const helper = b.label();
  const after = b.label();
  const child = b.slotFor('helper');
  b.op('fork', [0, CLONE_FILES, 0], `${step}: helper`, { target: helper, into: child });
  b.op('jump', [0, 0], `${step}: go on as the root`, { target: after });
  b.place(helper);
  steps();
  b.op('exit', [0], `${step}: done`);
  b.place(after);
  b.sys('wait4', [child, 0, WAIT_ALL, 0], `${step}: reap the helper`);
}

/** Nobody who shares a working directory may enter a mount namespace. */
function checkOwnFolders({ pid, comm, fsOwnerPid }: Process, ctx: CompileContext): void {
  const shares = fsOwnerPid !== 0 || ctx.image.processes.some((other) => other.fsOwnerPid === pid);
  if (!shares) return;
  throw new FerryError(
    'dumpbin.shared',
    `Process ${pid} (${comm}) in a nested mount namespace shares its working directory with another one`,
    { remedy: 'run it without sharing (CLONE_FS)' },
  );
}

/** Entered in other ways. */
const APART: ReadonlySet<string> = new Set(['pid', 'time', 'user']);

/** A process may be born in a time namespace that its parent has made for children, and be in another. */
function emitEnterTime(b: ProgramBuilder, process: Process, ctx: CompileContext): void {
  const spaces = nestedNamespaces(ctx).filter(({ type }) => type === 'time');
  // Entering one changes that for children too.
  if (spaces.length === 0 || process.childrenTimeNamespace !== 0) return;
  const own = spaces.find(({ id }) => process.namespaceIds.includes(id));
  const fd = own === undefined ? ctx.homeFd('time') : ctx.spaceFd(own.id);
  b.sys('setns', [fd, CLONE.time!], `enter time namespace ${own?.id ?? 0}`);
}

/** Takes a process, born in the root's namespaces, to its own. */
export function emitEnterOwn(b: ProgramBuilder, process: Process, ctx: CompileContext): void {
  emitEnterTime(b, process, ctx);
  for (const { id, type } of nestedNamespaces(ctx)) {
    if (!process.namespaceIds.includes(id) || APART.has(type)) continue;
    if (type === 'mnt') checkOwnFolders(process, ctx);
    b.sys('setns', [ctx.spaceFd(id), CLONE[type]!], `enter ${type} namespace ${id}`);
  }
}

/** Steps that make a file in the namespaces it was made in, by a process that may be in others. */
export function inSpacesOf(
  b: ProgramBuilder,
  file: FileObject,
  { ctx, pid }: { ctx: CompileContext; pid: number },
  steps: () => void,
): void {
  if (nestedNamespaces(ctx).length === 0) {
    steps();
    return;
  }
  const changes = [
    { type: 'net', to: file.networkNamespaceId, applies: isSocket(file) },
    { type: 'mnt', to: file.mountNamespaceId, applies: true },
  ]
    .map(({ type, to, applies }) => ({ type, to, applies, from: spaceOf(ctx, pid, type) }))
    .filter(({ from, to, applies }) => applies && from !== to);
  const go = (type: string, id: number): void => {
    const fd = id === 0 ? ctx.homeFd(type) : ctx.spaceFd(id);
    b.sys('setns', [fd, CLONE[type]!], `go to ${type} namespace ${id} for file ${file.id}`);
  };
  for (const { type, to } of changes) go(type, to);
  steps();
  for (const { type, from } of changes) go(type, from);
}

/** The nested namespace of a type that a process is in; 0: the root's. */
function spaceOf(ctx: CompileContext, pid: number, type: string): number {
  const { namespaceIds } = ctx.process(pid);
  return (
    nestedNamespaces(ctx).find((space) => space.type === type && namespaceIds.includes(space.id))
      ?.id ?? 0
  );
}

function isSocket({ kind }: FileObject): boolean {
  return ['unix', 'inet', 'netlink', 'packet', 'tun'].includes(kind?.$case ?? '');
}
