import { FerryError } from '@ferry/core';
import type { Process, SharedMemory, Vma } from '@ferry/image';
import type { CompileContext } from './compile-context.js';
import { type Argument, PageRef, type ProgramBuilder } from './program.js';

const PROT_READ_WRITE = 3;
const MAP = {
  shared: 1,
  private: 2,
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
const ADDRESS_END = 0x7ffffffff000n;
const SCRATCH = 0x300000000000n;
/** VmFlags of smaps and the madvise(2) advice that sets them again. */
const ADVICE: Record<string, number> = {
  sr: 2,
  rr: 1,
  dc: 10,
  wf: 18,
  dd: 16,
  nh: 15,
  hg: 14,
  mg: 12,
};

function range(vma: { start: bigint; end: bigint }): string {
  return `${vma.start.toString(16)}-${vma.end.toString(16)}`;
}

/** Unmaps everything but the region: the old program, its stack and vDSO. */
export function emitUnmapAll(b: ProgramBuilder, region: { start: bigint; length: number }): void {
  const end = region.start + BigInt(region.length);
  b.sys('munmap', [0, region.start], 'unmap what is below the restorer');
  b.sys('munmap', [end, ADDRESS_END - end], 'unmap what is above the restorer');
}

/** Creates a shared memory object and leaves it open at its descriptor; its pages come from the root's dump file. */
export function emitSharedMemory(
  b: ProgramBuilder,
  object: SharedMemory,
  ctx: CompileContext,
  pages: PageCursor,
): void {
  const fd = ctx.sharedMemoryFd(object.id);
  const step = `shared memory ${object.id} (${object.name || object.kind})`;
  const slot = b.slotFor('shared memory');
  if (object.kind === 'memfd') {
    b.sys('memfd_create', [b.cstr(object.name), object.memfdFlags | 2], `${step}: create`, {
      into: slot,
    });
    b.moveFd(slot, fd, step);
    b.sys('ftruncate', [fd, object.size], `${step}: size`);
    if (object.mode !== 0) b.sys('fchmod', [fd, object.mode], `${step}: mode`);
  } else {
    const flags = MAP.shared | MAP.anonymous | MAP.fixed | MAP.noReserve;
    b.sys('mmap', [SCRATCH, object.size, PROT_READ_WRITE, flags, -1n, 0], `${step}: create`);
    const end = SCRATCH + BigInt(Math.ceil(Number(object.size) / 4096) * 4096);
    const path = `/proc/self/map_files/${SCRATCH.toString(16)}-${end.toString(16)}`;
    b.sys('open', [b.cstr(path), O.rdwr, 0], `${step}: open`, { into: slot });
    b.moveFd(slot, fd, step);
    b.sys('munmap', [SCRATCH, object.size], `${step}: unmap`);
  }
  if (ctx.pages === 'external' || object.runs.length === 0) return;
  b.sys(
    'mmap',
    [SCRATCH, object.size, PROT_READ_WRITE, MAP.shared | MAP.fixed, fd, 0],
    `${step}: map`,
  );
  for (const run of object.runs) {
    pages.emitRead(b, { ...run, sharedMemoryId: object.id, to: SCRATCH + run.address }, ctx, step);
  }
  b.sys('munmap', [SCRATCH, object.size], `${step}: unmap`);
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
  readonly #reads: PageRead[] = [];
  #length = 0;

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
    b.op('read', [ctx.service('self'), read.to, bytes, at], `${step}: pages`);
    this.#reads.push({
      sharedMemoryId: read.sharedMemoryId,
      address: read.address,
      pages: read.pages,
    });
    this.#length += bytes;
  }
}

/** Every mapping of a process at its address, writable, with its page contents unless a writer outside brings them. */
export function emitMemory(
  b: ProgramBuilder,
  process: Process,
  ctx: CompileContext,
  pages: PageCursor,
): void {
  const mm = process.mm!;
  let open: string | undefined;
  const file = b.slotFor('mapped file');
  const filled = filledMappings(process);
  const close = (): void => {
    if (open !== undefined) b.sys('close', [file], `close ${open.slice(2)}`);
    open = undefined;
  };
  for (const vma of mm.vmas) {
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
    emitMapping(b, vma, ctx, { file, filled });
  }
  close();
  const vvar =
    mm.vmas.find((vma) => vma.kind === 'vvar') ?? mm.vmas.find((vma) => vma.kind === 'vdso');
  if (vvar !== undefined) {
    b.sys('arch_prctl', [ARCH_MAP_VDSO_64, vvar.start], 'map the vDSO', { expect: 'any' });
  }
  if (ctx.pages === 'external') return;
  for (const run of mm.runs) {
    const step = `memory at ${run.address.toString(16)}`;
    pages.emitRead(b, { ...run, sharedMemoryId: 0, to: run.address }, ctx, step);
  }
}

function emitMapping(
  b: ProgramBuilder,
  vma: Vma,
  ctx: CompileContext,
  { file, filled }: { file: Argument; filled: ReadonlySet<Vma> },
): void {
  const length = vma.end - vma.start;
  const step = `map ${range(vma)}`;
  const place =
    MAP.fixed |
    (vma.shared ? MAP.shared : MAP.private) |
    (vma.flags.includes('nr') ? MAP.noReserve : 0);
  switch (vma.kind) {
    case 'anonymous': {
      const flags = place | MAP.anonymous | (vma.growsDown ? MAP.growsDown : 0);
      b.sys('mmap', [vma.start, length, buildProtection(vma, filled), flags, -1n, 0], step);
      return;
    }
    case 'shared':
    case 'file': {
      const descriptor = vma.kind === 'shared' ? ctx.sharedMemoryFd(vma.sharedMemoryId) : file;
      const prot = buildProtection(vma, filled);
      const args: Argument[] = [vma.start, length, prot, place, descriptor, vma.fileOffset];
      b.sys('mmap', args, vma.kind === 'file' ? `${step} (${vma.file?.path})` : step);
      return;
    }
    case 'vdso':
    case 'vvar':
    case 'vsyscall':
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
function buildProtection(vma: Vma, filled: ReadonlySet<Vma>): number {
  return filled.has(vma) ? vma.prot | PROT_READ_WRITE : vma.prot;
}

/** Mappings that get page contents: those that a run of private pages lies in, and shared memory objects. */
function filledMappings(process: Process): Set<Vma> {
  const { vmas, runs } = process.mm!;
  const filled = new Set(vmas.filter((vma) => vma.kind === 'shared'));
  let i = 0;
  for (const vma of vmas) {
    while (i < runs.length && runs[i]!.address < vma.start) i++;
    if (i < runs.length && runs[i]!.address < vma.end) filled.add(vma);
  }
  return filled;
}

/** Final protections, advice and locks; after the page contents are there. */
export function emitProtections(b: ProgramBuilder, process: Process): void {
  const filled = filledMappings(process);
  for (const vma of process.mm!.vmas) {
    if (['vdso', 'vvar', 'vsyscall'].includes(vma.kind)) continue;
    const length = vma.end - vma.start;
    const built = buildProtection(vma, filled);
    if (built !== vma.prot)
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

/** mlockall(2) for mappings to come; the last thing done to a process's memory. */
export function emitFutureLocks(b: ProgramBuilder, process: Process): void {
  const flags = process.mm!.mlockFuture;
  if (flags !== 0) b.sys('mlockall', [flags], 'lock future mappings');
}

/** The memory layout that /proc shows: code, data, brk, stack, arguments, environment, auxv and the executable. */
export function emitLayout(b: ProgramBuilder, process: Process, ctx: CompileContext): void {
  const mm = process.mm!;
  const exeFd = ctx.service('left');
  const path = mm.exe?.path;
  const auxv = b.bytes(mm.auxv);
  const map = Buffer.alloc(104);
  const words = [
    mm.startCode,
    mm.endCode,
    mm.startData,
    mm.endData,
    mm.startBrk,
    mm.brk,
    mm.startStack,
    mm.argStart,
    mm.argEnd,
    mm.envStart,
    mm.envEnd,
  ];
  words.forEach((word, i) => {
    map.writeBigUInt64LE(word, i * 8);
  });
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
