import { dirname, join } from 'node:path';
import { FerryError } from '@ferry/core';
import type { PageRun, SharedMemory } from '@ferry/image';
import type { CompileContext } from './compile-context.js';
import { hugeFlags, isExecutable, type PageCursor } from './memory-steps.js';
import type { ProgramBuilder, Slot } from './program.js';
import { emitSegment, holdAddress } from './segment-steps.js';

const PROT_READ_WRITE = 3;
const MAP = { shared: 1, fixed: 0x10, anonymous: 0x20, noReserve: 0x4000 } as const;
const O = { rdonly: 0, rdwr: 2, creat: 0o100, excl: 0o200 } as const;
const EPERM = 1;
const EEXIST = 17;
const MFD_HUGETLB = 4;
const MFD_HUGE_SHIFT = 26;
const F_ADD_SEALS = 1033;
const NS = 1_000_000_000n;
const SCRATCH = 0x300000000000n;
const SHM_REMAP = 0o40000;

/** Creates a shared memory object; leaves it open at its descriptor, or (System V) under its number. Its pages come
 *  from the root's dump file, from the image, or from outside. */
export function emitSharedMemory(
  b: ProgramBuilder,
  object: SharedMemory,
  ctx: CompileContext,
  options: { pages?: PageCursor; scratch?: bigint },
): void {
  const { pages } = options;
  const scratch = options.scratch ?? SCRATCH;
  const step = stepOf(object);
  const embedded = ctx.pages === 'embedded' && pages !== undefined;
  const runs = object.runs.filter((run) => embedded || run.content !== undefined);
  const fill = (at: bigint): void => {
    for (const run of runs) emitRun(b, object, run, { at, step, ctx, pages });
  };
  if (object.kind === 'sysv') {
    emitSegment(b, object, ctx, () => fill(holdAddress(ctx.image, object)));
    return;
  }
  const fd = ctx.sharedMemoryFd(object.id);
  emitCreate(b, object, { fd, scratch }, ctx);
  if (runs.length > 0) {
    const flags = MAP.shared | MAP.fixed;
    b.sys('mmap', [scratch, object.size, PROT_READ_WRITE, flags, fd, 0], `${step}: map`);
    fill(scratch);
    b.sys('munmap', [scratch, mapped(object)], `${step}: unmap`);
  }
  if (object.kind === 'deletedFile') emitFinishFile(b, object, fd, step);
  if (object.kind === 'deletedFile' && isExecutable(ctx.image, object)) {
    const slot = b.slotFor('shared memory');
    b.sys('open', [b.cstr(`/proc/self/fd/${fd}`), O.rdonly, 0], `${step}: open`, { into: slot });
    b.moveFd(slot, fd, `${step}: read-only`);
  }
}

/** Content that comes with the image, put into an object that stands already. */
export function emitContent(
  b: ProgramBuilder,
  object: SharedMemory,
  ctx: CompileContext,
  scratch: bigint,
): void {
  const runs = object.runs.filter((run) => run.content !== undefined);
  if (runs.length === 0) return;
  const step = stepOf(object);
  const isSegment = object.kind === 'sysv';
  if (isSegment) {
    const id = object.sysv!.permissions!.id;
    b.sys('shmat', [id, scratch, SHM_REMAP], `${step}: attach`);
  } else {
    const args = [PROT_READ_WRITE, MAP.shared | MAP.fixed, ctx.sharedMemoryFd(object.id), 0];
    b.sys('mmap', [scratch, object.size, ...args], `${step}: map`);
  }
  for (const run of runs) emitRun(b, object, run, { at: scratch, step, ctx, pages: undefined });
  if (isSegment) b.sys('shmdt', [scratch], `${step}: let go`);
  else b.sys('munmap', [scratch, mapped(object)], `${step}: unmap`);
}

function stepOf(object: SharedMemory): string {
  return `shared memory ${object.id} (${object.name || object.kind})`;
}

function emitRun(
  b: ProgramBuilder,
  object: SharedMemory,
  run: PageRun,
  where: { at: bigint; step: string; ctx: CompileContext; pages: PageCursor | undefined },
): void {
  const { at, step, ctx, pages } = where;
  const to = at + run.address;
  const { content } = run;
  if (content === undefined) {
    pages?.emitRead(b, { ...run, sharedMemoryId: object.id, to }, ctx, step);
    return;
  }
  const local = b.reserve(16);
  b.storeAddress(b.bytes(content), local, `${step}: content`);
  b.op('store', [local.plus(8), content.length, 8], `${step}: content`);
  const remote = b.words(to, content.length);
  const pid = ctx.image.rootPid;
  b.sys('process_vm_writev', [pid, local, 1, remote, 1, 0], `${step}: content`, {
    expect: { value: content.length },
  });
}

/** Bytes of address space that the object takes. */
function mapped(object: SharedMemory): bigint {
  const page = 1n << BigInt(Math.max(object.hugePageShift, 12));
  return ((object.size + page - 1n) / page) * page;
}

function emitCreate(
  b: ProgramBuilder,
  object: SharedMemory,
  { fd, scratch }: { fd: number; scratch: bigint },
  ctx: CompileContext,
): void {
  const slot = b.slotFor('shared memory');
  const step = stepOf(object);
  switch (object.kind) {
    case 'memfd':
      b.sys('memfd_create', [b.cstr(object.name), object.memfdFlags | 2], `${step}: create`, {
        into: slot,
      });
      b.moveFd(slot, fd, step);
      b.sys('ftruncate', [fd, object.size], `${step}: size`);
      b.sys('fchown', [fd, object.uid, object.gid], `${step}: owner`);
      if (object.mode !== 0) b.sys('fchmod', [fd, object.mode], `${step}: mode`);
      return;
    case 'anonymous':
    case 'hugetlb': {
      const huge = hugeFlags(object.hugePageShift);
      const flags = MAP.shared | MAP.anonymous | MAP.fixed | MAP.noReserve | huge;
      b.sys('mmap', [scratch, object.size, PROT_READ_WRITE, flags, -1n, 0], `${step}: create`);
      const end = scratch + mapped(object);
      const path = `/proc/self/map_files/${scratch.toString(16)}-${end.toString(16)}`;
      const unseen = { into: slot, expect: { orErrno: EPERM } } as const;
      b.sys('open', [b.cstr(path), O.rdwr, 0], `${step}: open`, unseen);
      b.sys('munmap', [scratch, mapped(object)], `${step}: unmap`);
      const made = b.label();
      const named = b.label();
      b.op('jump', [slot, -EPERM], `${step}: may it not be opened?`, { target: named });
      b.op('jump', [0, 0], `${step} stands`, { target: made });
      b.place(named);
      emitNamed(b, object, slot);
      b.place(made);
      b.moveFd(slot, fd, step);
      return;
    }
    case 'deletedFile':
      emitCreateFile(b, object, fd, ctx);
      return;
    default:
      throw new FerryError(
        'image.sharedMemory',
        `Shared memory object ${object.id} is of unknown kind "${object.kind}"`,
      );
  }
}

/** Memory without a name where map_files of /proc is closed: in a user namespace nobody may open it (fs/proc/base.c:
 *  proc_map_files_get_link). A memfd is the same for a program, but for what its maps say. */
function emitNamed(b: ProgramBuilder, object: SharedMemory, slot: Slot): void {
  const step = stepOf(object);
  const { hugePageShift } = object;
  const huge = hugePageShift === 0 ? 0 : MFD_HUGETLB | (hugePageShift << MFD_HUGE_SHIFT);
  b.sys('memfd_create', [b.cstr('dev/zero'), huge], `${step}: create by a name`, { into: slot });
  b.sys('ftruncate', [slot, mapped(object)], `${step}: size`);
}

/** A file under the name it had, so that /proc shows it as before; under one of ours when another file has that name.
 *  The name is taken away at once. */
function emitCreateFile(
  b: ProgramBuilder,
  object: SharedMemory,
  fd: number,
  ctx: CompileContext,
): void {
  const slot = b.slotFor('shared memory');
  const flags = O.creat | O.excl | O.rdwr;
  const spare = join(dirname(object.name), `.ferry-${ctx.image.rootPid}-${object.inode}`);
  const other = b.label();
  const made = b.label();
  const [name, spareName] = [b.cstr(object.name), b.cstr(spare)];
  const step = `deleted file ${object.name}`;
  b.sys('open', [name, flags, 0o600], `make ${step}`, { into: slot, expect: { orErrno: EEXIST } });
  b.op('jump', [slot, -EEXIST], `${step}: is the name taken?`, { target: other });
  b.sys('unlink', [name], `${step}: unlink`);
  b.op('jump', [0, 0], `${step} stands`, { target: made });
  b.place(other);
  b.sys('open', [spareName, flags, 0o600], `make ${step} under a name of ours`, { into: slot });
  b.sys('unlink', [spareName], `${step}: unlink`);
  b.place(made);
  b.moveFd(slot, fd, step);
  b.sys('ftruncate', [fd, object.size], `${step}: size`);
}

function emitFinishFile(b: ProgramBuilder, object: SharedMemory, fd: number, step: string): void {
  const { mtimeNs } = object;
  b.sys('fchown', [fd, object.uid, object.gid], `${step}: owner`);
  b.sys('fchmod', [fd, object.mode], `${step}: mode`);
  const time = [mtimeNs / NS, mtimeNs % NS];
  b.sys('utimensat', [fd, 0, b.words(...time, ...time), 0], `${step}: times`);
}

/** fcntl(2) F_ADD_SEALS; when every mapping and all content is there, since a seal would forbid them. */
export function emitSeals(b: ProgramBuilder, object: SharedMemory, ctx: CompileContext): void {
  if (object.kind !== 'memfd' || object.seals === 0) return;
  const fd = ctx.sharedMemoryFd(object.id);
  b.sys('fcntl', [fd, F_ADD_SEALS, object.seals], `seals of memfd ${object.name}`);
}
