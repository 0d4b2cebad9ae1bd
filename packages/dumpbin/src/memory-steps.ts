import { FerryError } from '@ferry/core';
import type { FileReference, Mm, Process, SharedMemory, TreeImage, Vma } from '@ferry/image';
import { emitAioRings } from './aio-steps.js';
import type { CompileContext } from './compile-context.js';
import { type Range, vdsoStart } from './layout-difference.js';
import {
  type Argument,
  PageRef,
  type ProgramBuilder,
  REGION_LENGTH,
  REGION_START,
} from './program.js';
import { emitAttachments, isSegment } from './segment-steps.js';

const PROT_READ_WRITE = 3;
const MAP = {
  shared: 1,
  private: 2,
  droppable: 8,
  fixed: 0x10,
  anonymous: 0x20,
  growsDown: 0x100,
  noReserve: 0x4000,
} as const;
const O = { rdonly: 0, rdwr: 2 } as const;
const ARCH_MAP_VDSO_64 = 0x2003;
const PR_SET_MM = 35;
const PR_SET_MM_MAP = 14;
const PR_SET_VMA = 0x53564d41;
/** End of user address space with four-level page tables (arch/x86: TASK_SIZE_MAX). */
export const ADDRESS_END = 0x7ffffffff000n;
const KERNEL_AREAS = ['vdso', 'vvar', 'vsyscall'];
/** VmFlags of smaps and the madvise(2) advice that sets them again. */
const ADVICE: Record<string, number> = {
  sr: 2,
  rr: 1,
  wf: 18,
  dd: 16,
  nh: 15,
  hg: 14,
  mg: 12,
};

const MAP_HUGETLB = 0x40000;
const MAP_HUGE_SHIFT = 26;

/** Flags of mmap(2) for memory of hugetlbfs with pages of 2^shift bytes; none for shift 0. */
export function hugeFlags(shift: number): number {
  return shift === 0 ? 0 : MAP_HUGETLB | (shift << MAP_HUGE_SHIFT);
}

export function range(vma: { start: bigint; end: bigint }): string {
  return `${vma.start.toString(16)}-${vma.end.toString(16)}`;
}

/** Unmaps everything but the region: the old program, its stack and vDSO. */
export function emitUnmapAll(b: ProgramBuilder, region: { start: bigint; length: number }): void {
  const end = region.start + BigInt(region.length);
  b.sys('munmap', [0, region.start], 'unmap what is below the restorer');
  b.sys('munmap', [end, ADDRESS_END - end], 'unmap what is above the restorer');
}

/** A run of pages in a dump file: of the process's private memory, or (id not 0) of a shared memory object, where
 *  `address` is the offset in it. */
export interface PageRead {
  readonly sharedMemoryId: number;
  readonly address: bigint;
  readonly pages: bigint;
}

/** Hands out places in the page contents of one dump file, in the order in which a writer fills them. */
export class PageCursor {
  readonly #process: Process;
  readonly #reads: PageRead[] = [];
  #length = 0;

  /** @param process  whose dump file it is */
  constructor(process: Process) {
    this.#process = process;
  }

  /** What a writer puts there, one after the other. */
  get reads(): readonly PageRead[] {
    return this.#reads;
  }

  get length(): number {
    return this.#length;
  }

  emitRead(
    b: ProgramBuilder,
    read: PageRead & { to: bigint },
    ctx: CompileContext,
    step: string,
  ): void {
    const bytes = Number(read.pages) * 4096;
    const at = new PageRef(this.#length);
    b.op('read', [ctx.ownFd('self', this.#process), read.to, bytes, at], `${step}: pages`);
    this.#reads.push({
      sharedMemoryId: read.sharedMemoryId,
      address: read.address,
      pages: read.pages,
    });
    this.#length += bytes;
  }
}

/** Every mapping of a process at its address, writable where page contents come to it, and these contents unless a writer
 *  outside brings them. */
export function emitMemory(
  b: ProgramBuilder,
  process: Process,
  ctx: CompileContext,
  options: {
    pages?: PageCursor;
    protection?: (vma: Vma) => number;
    leavesOut?: (vma: Vma) => boolean;
  } = {},
): void {
  const mm = process.mm!;
  const { protection = buildProtection(process), leavesOut = () => false } = options;
  emitEarlyLayout(b, mm);
  emitAioRings(b, process);
  emitAttachments(b, process, ctx);
  emitMappings(
    b,
    mm.vmas.filter((vma) => !leavesOut(vma)).map((vma) => ({ vma, prot: protection(vma) })),
    ctx,
  );
  emitVdso(b, process);
  if (ctx.pages === 'external') return;
  for (const run of mm.runs) {
    const step = `memory at ${run.address.toString(16)}`;
    options.pages?.emitRead(b, { ...run, sharedMemoryId: 0, to: run.address }, ctx, step);
  }
}

/** A mapping, or a part of one, to be made. */
export interface Placement {
  readonly vma: Vma;
  readonly prot: number;
}

/** Maps memory; a file that several placements in a row show is opened once. */
export function emitMappings(
  b: ProgramBuilder,
  placements: readonly Placement[],
  ctx: CompileContext,
): void {
  let open: string | undefined;
  const file = b.slotFor('mapped file');
  const close = (): void => {
    if (open !== undefined) b.sys('close', [file], `close ${open.slice(2)}`);
    open = undefined;
  };
  for (const { vma, prot } of placements) {
    if (vma.kind === 'file') {
      const path = vma.file?.path ?? '';
      const wanted = `${vma.shared && vma.fileWritable ? O.rdwr : O.rdonly} ${path}`;
      if (open !== wanted) {
        close();
        b.sys('open', [b.cstr(path), Number(wanted[0]), 0], `open mapped file ${path}`, {
          into: file,
        });
        open = wanted;
      }
    }
    emitMapping(b, { vma, prot }, ctx, file);
  }
  close();
}

export function emitVdso(b: ProgramBuilder, process: Process): void {
  const start = vdsoStart(process.mm!.vmas);
  if (start === undefined) return;
  b.sys('arch_prctl', [ARCH_MAP_VDSO_64, start], 'map the vDSO', { expect: 'any' });
}

/** Memory that the kernel may take away instead of writing it to swap, like the state of vDSO getrandom. */
function isDroppable(vma: Vma): boolean {
  return vma.kind === 'anonymous' && vma.flags.includes('dp');
}

function emitMapping(
  b: ProgramBuilder,
  { vma, prot }: Placement,
  ctx: CompileContext,
  file: Argument,
): void {
  const length = vma.end - vma.start;
  const step = `map ${range(vma)}`;
  const place =
    MAP.fixed |
    (vma.shared ? MAP.shared : isDroppable(vma) ? MAP.droppable : MAP.private) |
    (vma.flags.includes('nr') ? MAP.noReserve : 0);
  switch (vma.kind) {
    case 'anonymous': {
      const grows = vma.growsDown ? MAP.growsDown : 0;
      const flags = place | MAP.anonymous | grows | hugeFlags(vma.hugePageShift);
      b.sys('mmap', [vma.start, length, prot, flags, -1n, 0], step);
      return;
    }
    case 'shared':
    case 'file': {
      if (isSegment(vma, ctx)) return;
      const descriptor = vma.kind === 'shared' ? ctx.sharedMemoryFd(vma.sharedMemoryId) : file;
      const args: Argument[] = [vma.start, length, prot, place, descriptor, vma.fileOffset];
      b.sys('mmap', args, vma.kind === 'file' ? `${step} (${vma.file?.path})` : step);
      return;
    }
    case 'packetRing': {
      // Until the socket is there (files/packet.ts).
      const flags = MAP.fixed | MAP.private | MAP.anonymous | MAP.noReserve;
      b.sys('mmap', [vma.start, length, 0, flags, -1n, 0], `${step}: keep the place`);
      return;
    }
    case 'vdso':
    case 'vvar':
    case 'vsyscall':
    case 'aio':
      return;
    default:
      throw new FerryError(
        'image.mapping',
        `Mapping ${range(vma)} is of unknown kind "${vma.kind}"`,
      );
  }
}

/** The protection while memory is being filled. Only what gets page contents is made writable: a mapping that once was
 *  writable is accounted for (VM_ACCOUNT), merges with others than it did, and may not fit into memory at all. */
export function buildProtection(process: Process): (vma: Vma) => number {
  const filled = filledMappings(process);
  return (vma) => (filled.has(vma) ? vma.prot | PROT_READ_WRITE : vma.prot);
}

/** The protection in a skeleton, whose pages are not known yet: writable is also what was so at some time, and may hold
 *  pages. VmFlags show it: "ac" is accounted for as such, "nr" is never accounted for. */
export function skeletonProtection(process: Process): (vma: Vma) => number {
  const build = buildProtection(process);
  return (vma) => {
    const wasWritable = !vma.shared && (vma.flags.includes('ac') || vma.flags.includes('nr'));
    return wasWritable ? vma.prot | PROT_READ_WRITE : build(vma);
  };
}

/** Mappings that get page contents: those that a run of private pages lies in, and shared memory objects. */
function filledMappings(process: Process): Set<Vma> {
  const { vmas, runs } = process.mm!;
  const filled = new Set(vmas.filter((vma) => vma.kind === 'shared' && vma.shared));
  let i = 0;
  for (const vma of vmas) {
    while (i < runs.length && runs[i]!.address < vma.start) i++;
    if (i < runs.length && runs[i]!.address < vma.end) filled.add(vma);
  }
  return filled;
}

const MADV_GUARD_INSTALL = 102;
const MADV = { dontFork: 10, doFork: 11 } as const;

/** Keeps a process's memory out of processes that it forks: their page tables need not be copied, and its own pages not
 *  be protected against writing for them. `emitInheritable` takes it back. */
export function emitNotInheritable(b: ProgramBuilder, process: Process): void {
  for (const { start, end } of userSpace(process)) {
    b.sys('madvise', [start, end - start, MADV.dontFork], 'keep the memory out of forks', {
      expect: 'any',
    });
  }
  b.sys('madvise', [REGION_START, REGION_LENGTH, MADV.doFork], 'but not the restorer', {
    expect: 'any',
  });
}

export function emitInheritable(b: ProgramBuilder, process: Process): void {
  for (const { start, end } of userSpace(process)) {
    b.sys('madvise', [start, end - start, MADV.doFork], 'give the memory to forks', {
      expect: 'any',
    });
  }
}

/** What mappings the process itself keeps out of forks; after the last fork of the restorer's. */
export function emitForkAdvice(b: ProgramBuilder, process: Process): void {
  for (const vma of process.mm!.vmas) {
    if (!vma.flags.includes('dc') || KERNEL_AREAS.includes(vma.kind)) continue;
    const args = [vma.start, vma.end - vma.start, MADV.dontFork];
    b.sys('madvise', args, `advise ${range(vma)} dc`, { expect: 'any' });
  }
}

/** All addresses but those of the kernel's own mappings, which refuse such advice. */
function userSpace(process: Process): Range[] {
  const ranges: Range[] = [];
  let at = 0n;
  for (const { start, end, kind } of process.mm!.vmas) {
    if (!KERNEL_AREAS.includes(kind) || start >= ADDRESS_END) continue;
    if (start > at) ranges.push({ start: at, end: start });
    at = end;
  }
  ranges.push({ start: at, end: ADDRESS_END });
  return ranges;
}

/** Final protections, advice and locks; after the page contents are there.
 *  @param isOpen  whether a mapping, or a part of it, has another protection than its own until now */
export function emitProtections(
  b: ProgramBuilder,
  process: Process,
  ctx: CompileContext,
  isOpen: (vma: Vma) => boolean = isBuiltOpen(process),
): void {
  for (const vma of process.mm!.vmas) {
    if (KERNEL_AREAS.includes(vma.kind)) continue;
    const length = vma.end - vma.start;
    if (isReadOnlyForGood(vma, ctx)) emitReadOnlyMapping(b, vma, ctx);
    else if (isOpen(vma) || isSegment(vma, ctx))
      b.sys('mprotect', [vma.start, length, vma.prot], `protect ${range(vma)}`);
    for (const flag of vma.flags) {
      const advice = ADVICE[flag];
      if (advice === undefined) continue;
      b.sys('madvise', [vma.start, length, advice], `advise ${range(vma)} ${flag}`, {
        expect: 'any',
      });
    }
    if (vma.flags.includes('lo')) {
      const onFault = vma.flags.includes('lf') ? 1 : 0;
      b.sys('mlock2', [vma.start, length, onFault], `lock ${range(vma)}`, { expect: 'any' });
    }
    if (vma.anonName !== '') {
      b.sys(
        'prctl',
        [PR_SET_VMA, 0, vma.start, length, b.cstr(vma.anonName)],
        `name ${range(vma)}`,
        { expect: 'any' },
      );
    }
  }
}

function isBuiltOpen(process: Process): (vma: Vma) => boolean {
  const protection = buildProtection(process);
  return (vma) => protection(vma) !== vma.prot;
}

/** Guard pages; after all that is written next to them. */
export function emitGuards(b: ProgramBuilder, process: Process): void {
  for (const { address, pages } of process.mm!.guards) {
    const end = address + pages * 4096n;
    const args = [address, pages * 4096n, MADV_GUARD_INSTALL];
    b.sys('madvise', args, `guard ${range({ start: address, end })}`);
  }
}

/** A shared mapping of an object through a description that could not write. */
function isReadOnlyForGood(vma: Vma, ctx: CompileContext): boolean {
  return vma.kind === 'shared' && vma.shared && !vma.fileWritable && !isSegment(vma, ctx);
}

/** Maps a shared object again through a description that cannot write: only then is the mapping one that can never be
 *  made writable, which a seal against writing asks for (memfd_create(2)). */
function emitReadOnlyMapping(b: ProgramBuilder, vma: Vma, ctx: CompileContext): void {
  const step = `map ${range(vma)} again, read-only for good`;
  const path = `/proc/self/fd/${ctx.sharedMemoryFd(vma.sharedMemoryId)}`;
  const slot = b.slotFor('read-only object');
  const flags = MAP.fixed | MAP.shared | (vma.flags.includes('nr') ? MAP.noReserve : 0);
  b.sys('open', [b.cstr(path), O.rdonly, 0], `${step}: open`, { into: slot });
  b.sys('mmap', [vma.start, vma.end - vma.start, vma.prot, flags, slot, vma.fileOffset], step);
  b.sys('close', [slot], `${step}: close`);
}

/** mlockall(2) for mappings to come; the last thing done to a process's memory. */
export function emitFutureLocks(b: ProgramBuilder, process: Process): void {
  const flags = process.mm!.mlockFuture;
  if (flags !== 0) b.sys('mlockall', [flags], 'lock future mappings');
}

/** The object that stands for an executable without a name. */
function namelessExecutable(image: TreeImage, exe: FileReference): SharedMemory | undefined {
  return image.sharedMemory.find(
    ({ kind, device, inode }) =>
      (kind === 'deletedFile' || kind === 'memfd') && device === exe.device && inode === exe.inode,
  );
}

/** Whether some process runs a shared memory object as its executable: then no description may be able to write, but for
 *  the first one of a memfd, which does not count (mm/memfd.c opens it without vfs_open). */
export function isExecutable(image: TreeImage, object: SharedMemory): boolean {
  return image.processes.some(
    ({ mm }) => mm?.exe !== undefined && namelessExecutable(image, mm.exe) === object,
  );
}

/** Where arguments and environment will be, before anything is mapped: whoever reads /proc/PID/cmdline meanwhile would
 *  otherwise touch the place where the restorer had its own, and a stack that lies above it would grow to there
 *  (`__access_remote_vm`, mm/memory.c). */
function emitEarlyLayout(b: ProgramBuilder, mm: Mm): void {
  const map = layoutMap(mm);
  const args = [PR_SET_MM, PR_SET_MM_MAP, b.bytes(map), map.length, 0];
  b.sys('prctl', args, 'set the memory layout, without executable');
}

/** `struct prctl_mm_map` (linux/prctl.h) without auxv and executable. */
function layoutMap(mm: Mm): Buffer {
  const map = Buffer.alloc(104);
  const { startCode, endCode, startData, endData, startBrk, brk, startStack } = mm;
  const words = [startCode, endCode, startData, endData, startBrk, brk, startStack];
  [...words, mm.argStart, mm.argEnd, mm.envStart, mm.envEnd].forEach((word, i) => {
    map.writeBigUInt64LE(word, i * 8);
  });
  map.writeInt32LE(-1, 100);
  return map;
}

/** The memory layout that /proc shows: code, data, brk, stack, arguments, environment, auxv and the executable. */
export function emitLayout(b: ProgramBuilder, process: Process, ctx: CompileContext): void {
  const mm = process.mm!;
  const exeFd = ctx.ownFd('left', process);
  const nameless = mm.exe === undefined ? undefined : namelessExecutable(ctx.image, mm.exe);
  const path =
    nameless === undefined ? mm.exe?.path : `/proc/self/fd/${ctx.sharedMemoryFd(nameless.id)}`;
  const auxv = b.bytes(mm.auxv);
  const map = layoutMap(mm);
  map.writeUInt32LE(mm.auxv.length, 96);
  map.writeInt32LE(path === undefined ? -1 : exeFd, 100);
  const at = b.bytes(map);
  b.storeAddress(auxv, at.plus(88), 'memory layout: auxv');
  if (path !== undefined) {
    const slot = b.slotFor('executable');
    b.sys('open', [b.cstr(path), O.rdonly, 0], `open executable ${path}`, { into: slot });
    b.moveFd(slot, exeFd, 'executable');
  }
  b.sys('prctl', [PR_SET_MM, PR_SET_MM_MAP, at, map.length, 0], 'set the memory layout');
  if (path !== undefined) b.sys('close', [exeFd], 'close the executable');
}
