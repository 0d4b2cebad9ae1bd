import type { PageRun, Process, SharedMemory, SysvSegment, TreeImage, Vma } from '@ferry/image';
import type { CompileContext } from './compile-context.js';
import { emitNextId, emitOwnership } from './ipc-steps.js';
import type { ProgramBuilder } from './program.js';

// include/uapi/linux/ipc.h, shm.h
const IPC_CREAT = 0o1000;
const IPC_EXCL = 0o2000;
const IPC_RMID = 0;
const IPC_STAT = 2;
const SHM_LOCK = 11;
const SHM_UNLOCK = 12;
const SHM_HUGETLB = 0o4000;
const SHM_HUGE_SHIFT = 26;
const SHM_RDONLY = 0o10000;
const SHM_REMAP = 0o40000;
const SHM_EXEC = 0o100000;
const PROT_EXEC = 4;
const MADV_REMOVE = 9;
const MREMAP_MAYMOVE = 1;
const MREMAP_FIXED = 2;
/** A number is a place in the kernel's table, and how often that was given: ipc/util.h. */
const IPC_PLACES = 32768;
const EINVAL = 22;
const STATUS_LENGTH = 112;
/** Where the root attaches segments until every process of the tree has its own attachments. */
const HOLD = 0x310000000000n;
const HUGE = 1n << 30n;

/** Whether a mapping is an attachment of a System V segment: shmat(2) makes it, so that shmdt(2) knows it. */
export function isSegment(vma: Vma, ctx: CompileContext): boolean {
  return vma.kind === 'shared' && ctx.sharedMemory(vma.sharedMemoryId).kind === 'sysv';
}

/** Where a segment is attached while the tree is being made; one after the other. */
export function holdAddress(image: TreeImage, object: SharedMemory): bigint {
  let at = HOLD;
  for (const other of image.sharedMemory) {
    if (other === object) break;
    if (other.kind === 'sysv') at += ((other.size + HUGE - 1n) / HUGE) * HUGE;
  }
  return at;
}

/** Creates a segment under its number unless it is still there (a tree in the host's namespace, whose segment outlived
 *  it), and attaches it. A removed one is marked so at once: it goes when a restore fails. */
export function emitSegment(
  b: ProgramBuilder,
  object: SharedMemory,
  ctx: CompileContext,
  fill: () => void,
): void {
  const { permissions, removed, locked } = object.sysv!;
  const { id, key, mode } = permissions!;
  const step = `System V segment ${id}`;
  const hold = holdAddress(ctx.image, object);
  const attach = (): void => {
    b.sys('shmat', [id, hold, SHM_REMAP], `${step}: attach`);
  };
  const exists = b.label();
  const done = b.label();
  if (!removed) {
    const found = b.slotFor('segment');
    b.sys('shmctl', [id, IPC_STAT, b.reserve(STATUS_LENGTH)], `${step}: is it there?`, {
      expect: 'any',
      into: found,
    });
    b.op('jump', [found, 0], `${step} is there`, { target: exists });
  }
  emitNextId(b, 'shm', id);
  const huge =
    object.hugePageShift === 0 ? 0 : SHM_HUGETLB | (object.hugePageShift << SHM_HUGE_SHIFT);
  b.sys(
    'shmget',
    [
      BigInt.asUintN(32, BigInt(removed ? 0 : key)),
      object.size,
      IPC_CREAT | IPC_EXCL | mode | huge,
    ],
    `${step}: create`,
    { expect: { value: id } },
  );
  attach();
  fill();
  emitOwnership(b, 'shmctl', [id], permissions!, step);
  if (locked) b.sys('shmctl', [id, SHM_LOCK, 0], `${step}: lock`);
  if (removed) b.sys('shmctl', [id, IPC_RMID, 0], `${step}: goes with its last user`);
  b.op('jump', [0, 0], `${step} stands`, { target: done });
  b.place(exists);
  attach();
  b.place(done);
}

/** A segment of a skeleton that is gone: one that was removed goes with its last attachment. */
export function emitSegmentGone(b: ProgramBuilder, { permissions, removed }: SysvSegment): void {
  const { id } = permissions!;
  if (!removed) b.sys('shmctl', [id, IPC_RMID, 0], `System V segment ${id} is gone`);
}

/** A segment of a skeleton that is still there: empties pages that are gone. */
export function emitSegmentKept(
  b: ProgramBuilder,
  { permissions, removed, locked }: SysvSegment,
  was: SysvSegment,
  vanished: readonly PageRun[],
  scratch: bigint,
): void {
  const { id } = permissions!;
  const step = `System V segment ${id}`;
  if (vanished.length > 0) {
    b.sys('shmat', [id, scratch, SHM_REMAP], `${step}: attach`);
    for (const { address, pages } of vanished) {
      const args = [scratch + address, pages * 4096n, MADV_REMOVE];
      b.sys('madvise', args, `${step}: empty ${address.toString(16)}`);
    }
    b.sys('shmdt', [scratch], `${step}: let go`);
  }
  emitOwnership(b, 'shmctl', [id], permissions!, step);
  if (locked && !was.locked) b.sys('shmctl', [id, SHM_LOCK, 0], `${step}: lock`);
  if (!locked && was.locked) b.sys('shmctl', [id, SHM_UNLOCK, 0], `${step}: unlock`);
  if (removed) b.sys('shmctl', [id, IPC_RMID, 0], `${step}: goes with its last user`);
}

/** The attachments of a process, before its other mappings: each is as long as its segment, and what is in its way
 *  afterwards is mapped over it. Then the attachments that it has by being forked are let go. */
export function emitAttachments(b: ProgramBuilder, process: Process, ctx: CompileContext): void {
  const groups = new Map<string, Vma[]>();
  for (const vma of process.mm!.vmas) {
    if (!isSegment(vma, ctx)) continue;
    const key = `${vma.sharedMemoryId} ${vma.start - vma.fileOffset}`;
    groups.set(key, [...(groups.get(key) ?? []), vma]);
  }
  for (const vmas of groups.values()) emitAttachment(b, vmas, ctx);
  for (const object of ctx.image.sharedMemory) {
    if (object.kind !== 'sysv') continue;
    // A process that was made later has none.
    b.sys('shmdt', [holdAddress(ctx.image, object)], 'let go of a segment', {
      expect: { orErrno: EINVAL },
    });
  }
}

/** A part of a segment that a process shows which lives already: with others of its mappings around it, so that only what
 *  is shown is put there.
 *  @param findRoom  a free range of some length */
export function emitLateAttachment(
  b: ProgramBuilder,
  vma: Vma,
  findRoom: (length: bigint) => bigint,
  ctx: CompileContext,
): void {
  const object = ctx.sharedMemory(vma.sharedMemoryId);
  const id = object.sysv!.permissions!.id;
  const length = vma.end - vma.start;
  const step = `attach segment ${id} at ${vma.start.toString(16)}`;
  const flags = attachFlags([vma]);
  const whole = attachedLength(object);
  if (length === whole) {
    b.sys('shmat', [id, vma.start, flags], step);
    return;
  }
  const room = findRoom(whole);
  b.sys('shmat', [id, room, flags], step);
  const from = room + vma.fileOffset;
  const move = MREMAP_MAYMOVE | MREMAP_FIXED;
  b.sys('mremap', [from, length, length, move, vma.start], `${step}: a part of it`);
  b.sys('shmdt', [room], `${step}: let go of the rest`);
}

/** The root lets go of segments that it has made while the tree lived: now who shows them has them. */
export function emitLetGo(
  b: ProgramBuilder,
  objects: readonly SharedMemory[],
  image: TreeImage,
): void {
  for (const object of objects) {
    b.sys(
      'shmdt',
      [holdAddress(image, object)],
      `let go of segment ${object.sysv!.permissions!.id}`,
    );
  }
}

/** Whether a segment of an earlier image, which its last users are still about to let go, stands where one of a later
 *  image must be made: at the same place of the kernel's table. */
export function isPlaceTaken(object: SharedMemory, gone: readonly SharedMemory[]): boolean {
  const place = (segment: SharedMemory) => segment.sysv!.permissions!.id % IPC_PLACES;
  return gone.some((other) => place(other) === place(object));
}

function attachFlags(vmas: readonly Vma[]): number {
  return (
    SHM_REMAP |
    (vmas.some((vma) => vma.fileWritable) ? 0 : SHM_RDONLY) |
    (vmas.some((vma) => (vma.prot & PROT_EXEC) !== 0) ? SHM_EXEC : 0)
  );
}

/** Whole pages. */
function attachedLength({ size, hugePageShift }: SharedMemory): bigint {
  const page = 1n << BigInt(Math.max(12, hugePageShift));
  return ((size + page - 1n) / page) * page;
}

/** One shmat(2), without the parts that the process has unmapped since. */
function emitAttachment(b: ProgramBuilder, vmas: readonly Vma[], ctx: CompileContext): void {
  const first = vmas[0]!;
  const object = ctx.sharedMemory(first.sharedMemoryId);
  const id = object.sysv!.permissions!.id;
  const start = first.start - first.fileOffset;
  const end = start + attachedLength(object);
  const step = `attach segment ${id} at ${start.toString(16)}`;
  b.sys('shmat', [id, start, attachFlags(vmas)], step);
  let at = start;
  for (const vma of vmas) {
    if (vma.start > at) b.sys('munmap', [at, vma.start - at], `${step}: unmapped since`);
    at = vma.end;
  }
  if (at < end) b.sys('munmap', [at, end - at], `${step}: unmapped since`);
}
