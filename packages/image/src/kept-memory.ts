import type { Mm, Vma } from './generated/ferry/image/v1/mm.js';

/** Addresses from `start` up to, not including, `end`. */
export interface KeptRange {
  readonly start: bigint;
  readonly end: bigint;
}

/** What of a process's private memory stays in place from one image of it to a later one of the same address space: both
 *  sides of a live migration go by it. Pages in these ranges that were sent before stay where they are in a skeleton, and
 *  only those that changed are sent again; everything else is mapped anew there, and sent whole. Ascending, disjoint.
 *  @param after  with the flags of smaps; `look: 'maps'` when it is without, which may keep more */
export function keptMemory(
  before: Pick<Mm, 'vmas'>,
  after: Pick<Mm, 'vmas'>,
  { look }: { look: 'smaps' | 'maps' } = { look: 'smaps' },
): KeptRange[] {
  const ranges: { start: bigint; end: bigint }[] = [];
  let i = 0;
  for (const vma of after.vmas) {
    while (i < before.vmas.length && before.vmas[i]!.end <= vma.start) i++;
    for (let j = i; j < before.vmas.length && before.vmas[j]!.start < vma.end; j++) {
      const old = before.vmas[j]!;
      if (!sameBacking(old, vma) || (look === 'smaps' && !sameWay(old, vma))) continue;
      const { start, end } = overlapOf(old, vma);
      const last = ranges.at(-1);
      if (last?.end === start) last.end = end;
      else ranges.push({ start, end });
    }
  }
  return ranges;
}

/** Whether an untouched page of both, at the same address, would show the same. */
function sameBacking(a: Vma, b: Vma): boolean {
  if (a.shared || b.shared || a.kind !== b.kind) return false;
  if (a.kind === 'anonymous') return true;
  if (a.kind !== 'file' || a.file === undefined || b.file === undefined) return false;
  return (
    a.file.path === b.file.path &&
    a.file.device === b.file.device &&
    a.file.inode === b.file.inode &&
    a.fileOffset - a.start === b.fileOffset - b.start
  );
}

/** Whether both are mapped in the same way: what cannot be changed in place is mapped anew (layout-difference.ts of
 *  @ferry/dumpbin). */
function sameWay(a: Vma, b: Vma): boolean {
  const noReserve = (vma: Vma) => vma.flags.includes('nr');
  return (
    a.growsDown === b.growsDown &&
    a.fileWritable === b.fileWritable &&
    noReserve(a) === noReserve(b)
  );
}

/** Addresses that are in both; `end` is not after `start` when there are none. */
export function overlapOf(a: KeptRange, b: KeptRange): KeptRange {
  const [, later] = a.start < b.start ? [a, b] : [b, a];
  const [earlier] = a.end < b.end ? [a, b] : [b, a];
  return { start: later.start, end: earlier.end };
}

/** Where among ascending, disjoint ranges the first one stands that ends after an address. */
export function firstAfter(ranges: readonly KeptRange[], address: bigint): number {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ranges[middle]!.end <= address) low = middle + 1;
    else high = middle;
  }
  return low;
}
