import { FerryError } from '@ferry/core';
import { IdMap, type Process, type TreeImage } from '@ferry/image';
import type { CompileContext } from '../compile-context.js';
import { emitIdentity } from '../credential-steps.js';
import { fileEmitters } from '../files/registry.js';
import { emitLimits } from '../process-steps.js';
import type { ProgramBuilder } from '../program.js';
import { emitScheduling } from '../thread-steps.js';
import { CLONE } from './clone-flags.js';

const PR_SET_DUMPABLE = 4;
const CLONE_FS = 0x200;
const CLONE_FILES = 0x400;
const WAIT_ALL = 0x40000000;
/** Limits that would stand in the way of what follows. */
const LATER: ReadonlySet<number> = new Set([6, 7]);

/** The user namespace below the root's that a process is in; 0: the root's. */
export function userSpaceOf(image: TreeImage, { namespaceIds }: Process): number {
  const ofRoot = new Set(image.processes[0]?.namespaceIds);
  return (
    image.namespaces.find(
      ({ id, type }) => type === 'user' && namespaceIds.includes(id) && !ofRoot.has(id),
    )?.id ?? 0
  );
}

/** Enters the user namespace of a process, which may have one thread only. It gives all capabilities there and takes those
 *  outside: what needs them is done first, and so is what is told in numbers from outside. */
export function emitEnterUser(b: ProgramBuilder, process: Process, ctx: CompileContext): void {
  const space = userSpaceOf(ctx.image, process);
  if (space === 0) return;
  const { pid, comm, fsOwnerPid, threads } = process;
  const shares = ctx.image.processes.some((other) => other.fsOwnerPid === pid);
  if (fsOwnerPid !== 0 || shares) {
    throw new FerryError(
      'dumpbin.userNamespace',
      `Process ${pid} (${comm}) in a user namespace shares its working directory with another one`,
      { remedy: 'run it without sharing (CLONE_FS)' },
    );
  }
  const leader = threads[0]!;
  const who = `process ${pid}`;
  emitScheduling(b, leader, who);
  emitLimits(b, { rlimits: process.rlimits.filter(({ resource }) => !LATER.has(resource)) });
  emitIdentity(b, leader.credentials!, who);
  b.sys('setns', [ctx.spaceFd(space), CLONE.user!], `${who}: enter user namespace ${space}`);
  // So that it may use what /proc has of it.
  b.sys('prctl', [PR_SET_DUMPABLE, 1], `${who}: dumpable meanwhile`);
}

/** Groups, before a user namespace is entered in which they cannot be set any more. What is not mapped there has its outer
 *  number in the image. */
export function emitOuterGroups(b: ProgramBuilder, ctx: CompileContext): void {
  const { space } = ctx.rootUserNamespace ?? {};
  if (space?.denySetgroups !== true) return;
  const map = new IdMap(Buffer.from(space.gidMap).toString());
  const groups = ctx.process(ctx.image.rootPid).threads[0]?.credentials?.groups ?? [];
  const list = Buffer.alloc(groups.length * 4);
  for (const [i, group] of groups.entries()) list.writeUInt32LE(map.outer(group) ?? group, i * 4);
  b.sys('setgroups', [groups.length, b.bytes(list)], 'groups outside', { expect: 'any' });
}

/** Who has entered the root's user namespace is still who it was outside, whom that namespace does not know: what it made
 *  would belong to nobody there, and could be given to nobody (fs/attr.c: chown_ok; fs/namei.c: may_create). So it becomes
 *  the root of the namespace, as those are whom a container runtime starts. A helper that stays who it was opens what the
 *  tree has got from outside, such as a log of root's.
 *  @param mounted  emits the steps that make its mounts */
export function emitMapped(b: ProgramBuilder, ctx: CompileContext, mounted: () => void): void {
  const step = 'open files as who it is outside';
  const [helper, after] = [b.label(), b.label()];
  const child = b.slotFor('helper');
  b.op('fork', [0, CLONE_FS | CLONE_FILES, 0], `${step}: helper`, { target: helper, into: child });
  b.op('jump', [0, 0], `${step}: go on as the root`, { target: after });
  b.place(helper);
  ctx.awaits(b, 'mounts of the root');
  emitOpenedOutside(b, ctx);
  b.op('exit', [0], `${step}: done`);
  b.place(after);
  // What is in a mount must belong to somebody; where one is attached may be open to whoever it was outside alone.
  const isFirst = hasMountContent(ctx);
  if (isFirst) emitMappedIdentity(b, ctx);
  mounted();
  if (!isFirst) emitMappedIdentity(b, ctx);
  ctx.announces(b, 'mounts of the root');
  b.sys('wait4', [child, 0, WAIT_ALL, 0], `${step}: reap the helper`);
}

function hasMountContent({ image }: CompileContext): boolean {
  return image.namespaces.some(
    ({ content }) =>
      content?.$case === 'mnt' && content.value.mounts.some((mount) => mount.content.length > 0),
  );
}

export function emitOpenedOutside(b: ProgramBuilder, ctx: CompileContext): void {
  for (const file of ctx.image.files) {
    if (ctx.isOpenedOutside(file)) fileEmitters[file.kind!.$case]!.create(b, file, ctx);
  }
}

function emitMappedIdentity(b: ProgramBuilder, ctx: CompileContext): void {
  const { space } = ctx.rootUserNamespace ?? {};
  if (space === undefined) return;
  const [uid, gid] = [knownId(space.uidMap), knownId(space.gidMap)];
  const who = 'root of its user namespace';
  if (gid !== undefined) b.sys('setresgid', [gid, gid, gid], `group of the ${who}`);
  if (uid !== undefined) b.sys('setresuid', [uid, uid, uid], who);
  b.sys('prctl', [PR_SET_DUMPABLE, 1], `${who}: dumpable meanwhile`);
}

/** The number 0 where the map has it, else the first one there is. */
function knownId(map: Uint8Array): number | undefined {
  const lines = Buffer.from(map).toString().trim().split('\n');
  const ids = lines
    .filter((line) => line !== '')
    .map((line) => Number(line.trim().split(/\s+/)[0]));
  return ids.includes(0) ? 0 : ids[0];
}
