import type { PageRun, Process, Vma } from '@ferry/image';
import { emitAioChange } from './aio-steps.js';
import type { CompileContext } from './compile-context.js';
import { intersect, type Piece, type ProcessDifference } from './layout-difference.js';
import {
  buildProtection,
  emitMappings,
  emitVdso,
  type Placement,
  range,
  skeletonProtection,
} from './memory-steps.js';
import type { ProgramBuilder } from './program.js';
import { freeRange, type Region } from './region.js';
import { emitLateAttachment, isSegment } from './segment-steps.js';

const MADV_DONTNEED = 4;
/** O_CLOEXEC | O_NONBLOCK. Not UFFD_USER_MODE_ONLY: a system call that touches a missing page has to wait as well. */
const USERFAULTFD_FLAGS = 0o2000000 | 0o4000;

export interface Adjustment {
  readonly process: Process;
  /** The process as its skeleton was made. */
  readonly before: Process;
  readonly difference: ProcessDifference;
  /** The skeleton goes on as one, with pages that are not known yet; else its last pages are those of the image. */
  readonly next: 'refresh' | 'finish';
  /** Pages of the skeleton that the later image does not have any more, where whoever sends pages does not send zeros. */
  readonly vanished: readonly PageRun[];
  /** Pages that come once the process runs: missing until then, whatever the skeleton has there. */
  readonly later: readonly PageRun[];
  /** Where the restorer stands. */
  readonly region: Region;
}

/** Turns the memory layout of a skeleton into that of a later image. What both show keeps the pages that were written
 *  there.
 *  @returns mappings that are writable for the pages to come, against their own protection */
export function emitAdjust(
  b: ProgramBuilder,
  change: Adjustment,
  ctx: CompileContext,
): ReadonlySet<Vma> {
  const { process, before, difference, next } = change;
  if (difference.movedVdso) {
    for (const vma of before.mm!.vmas) {
      if (vma.kind !== 'vdso' && vma.kind !== 'vvar') continue;
      b.sys('munmap', [vma.start, vma.end - vma.start], `unmap the vDSO at ${range(vma)}`);
    }
  }
  // While the rings that are gone are still mapped: io_destroy(2) finds the context through them.
  emitAioChange(b, process, before);
  for (const gone of difference.gone) {
    b.sys('munmap', [gone.start, gone.end - gone.start], `unmap ${range(gone)}`);
  }
  const then = skeletonProtection(before);
  const now = next === 'refresh' ? skeletonProtection(process) : buildProtection(process);
  const open = new Set<Vma>();
  const placements: Placement[] = [];
  for (const { start, end, vma, before: earlier } of difference.pieces) {
    const prot = now(vma);
    if (earlier === undefined) placements.push({ vma: cut({ start, end, vma }), prot });
    // What is writable already, only its last protection closes.
    const suits = earlier !== undefined && (then(earlier) & prot) === prot;
    if (earlier !== undefined && !suits) {
      b.sys('mprotect', [start, end - start, prot], `open ${range({ start, end })}`);
    }
    const actual = suits ? then(earlier) : prot;
    if (actual !== vma.prot) open.add(vma);
  }
  emitLateAttachments(b, placements, change, ctx);
  emitMappings(b, placements, ctx);
  if (difference.movedVdso) emitVdso(b, process);
  emitHoles(b, change);
  return open;
}

/** Attachments of segments that the skeleton had not. */
function emitLateAttachments(
  b: ProgramBuilder,
  placements: readonly Placement[],
  { process, before, region }: Adjustment,
  ctx: CompileContext,
): void {
  const own = { start: region.start, end: region.start + BigInt(region.length) };
  const taken = [...process.mm!.vmas, ...before.mm!.vmas, own];
  for (const { vma } of placements) {
    if (!isSegment(vma, ctx)) continue;
    emitLateAttachment(b, vma, (length) => freeRange(taken, length), ctx);
  }
}

/** The part of a mapping that a piece is. */
function cut({ vma, start, end }: Omit<Piece, 'before'>): Vma {
  return { ...vma, start, end, fileOffset: vma.fileOffset + (start - vma.start) };
}

function emitHoles(b: ProgramBuilder, { difference, vanished, later }: Adjustment): void {
  const kept = difference.pieces.filter(({ before, vma }) => before !== undefined && !vma.shared);
  for (const runs of [vanished, later]) {
    const holes = intersect(runs, kept);
    const [first] = holes;
    if (first === undefined) continue;
    const end = first.address + first.pages * 4096n;
    const more = holes.length === 1 ? '' : ` and ${holes.length - 1} more`;
    const step = `empty ${range({ start: first.address, end })}${more}`;
    const table = b.words(...holes.flatMap(({ address, pages }) => [address, pages * 4096n]));
    b.op('advise', [table, holes.length, MADV_DONTNEED], step);
  }
}

/** A userfaultfd for the pages that come later, under a number at which whoever fills them finds it. */
export function emitUserfault(b: ProgramBuilder, fd: number): void {
  const slot = b.slotFor('userfaultfd');
  b.sys('userfaultfd', [USERFAULTFD_FLAGS], 'make a userfaultfd', { into: slot });
  b.moveFd(slot, fd, 'userfaultfd');
}
