import { FerryError } from '@ferry/core';
import type { TreeImage } from '@ferry/image';
import type { Range } from './layout-difference.js';
import { ADDRESS_END } from './memory-steps.js';

/** Where the restorer and its program stand, in every process of a tree. */
export interface Region {
  readonly start: bigint;
  readonly length: number;
}

const GRAIN = 0x10000n;
/** Kept free below mappings: stacks grow. */
const MARGIN = 0x100000n;
const LOWEST = GRAIN;
const HIGHEST = 0x700000000000n;

/** The lowest gap of `length` bytes that is free in every process of the tree. */
export function findRegion(image: TreeImage, length: number): bigint {
  const gap = gaps(image).find(({ start, end }) => end - start >= BigInt(length));
  if (gap === undefined || gap.start + BigInt(length) > HIGHEST) throw noGap(length);
  return gap.start;
}

/** The middle of the largest gap: heaps that grow upwards and mappings that come downwards reach it last. */
export function findRoomyRegion(image: TreeImage, length: number): bigint {
  let largest: Range = { start: 0n, end: 0n };
  for (const gap of gaps(image)) {
    if (gap.end - gap.start > largest.end - largest.start) largest = gap;
  }
  const room = largest.end - largest.start - BigInt(length);
  if (room < 0n) throw noGap(length);
  return largest.start + ((room / 2n) & ~(GRAIN - 1n));
}

/** Whether a living process of the tree has a mapping in the region. */
export function takenBy(image: TreeImage, region: Region): number | undefined {
  const end = region.start + BigInt(region.length);
  return image.processes.find((process) =>
    process.mm?.vmas.some((vma) => vma.start < end && vma.end > region.start),
  )?.pid;
}

/** An address range for a moment, free among `taken` (any order). */
export function freeRange(taken: readonly Range[], length: bigint): bigint {
  const sorted = [...taken].sort((a, b) => (a.start < b.start ? -1 : 1));
  let at = 0x300000000000n;
  for (const range of sorted) {
    if (range.end <= at) continue;
    if (range.start >= at + length) break;
    at = (range.end + GRAIN - 1n) & ~(GRAIN - 1n);
  }
  if (at + length > ADDRESS_END) throw noGap(Number(length));
  return at;
}

function gaps(image: TreeImage): Range[] {
  const taken = image.processes
    .flatMap((process) => process.mm?.vmas ?? [])
    .filter((vma) => vma.end <= ADDRESS_END)
    .map((vma) => ({ start: vma.start - MARGIN, end: vma.end }))
    .sort((a, b) => (a.start < b.start ? -1 : 1));
  const found: Range[] = [];
  let at = LOWEST;
  for (const range of taken) {
    if (range.start > at) found.push({ start: at, end: range.start });
    if (range.end > at) at = (range.end + GRAIN - 1n) & ~(GRAIN - 1n);
  }
  if (at < HIGHEST) found.push({ start: at, end: HIGHEST });
  return found;
}

function noGap(length: number): FerryError {
  return new FerryError(
    'dumpbin.noGap',
    `No ${length} free bytes of address space common to all processes`,
  );
}
