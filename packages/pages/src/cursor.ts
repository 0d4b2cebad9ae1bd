import type { ProcessPages } from '@ferry/linux';
import type { SegmentTable } from './segment-table.js';

/** A place in a segment list. Chunks follow each other in its order, without gap or overlap. */
export interface PagePosition {
  readonly segment: number;
  readonly page: number;
}

/** Pages that follow each other in a list, and where the next ones begin. */
export interface PageSpan {
  readonly start: PagePosition;
  readonly next: PagePosition;
  readonly pages: number;
  readonly runs: ProcessPages[];
}

/** The next `pagesMax` pages of `table` from `start`, fewer at its end; undefined when none is left. */
export function spanOf(
  table: SegmentTable,
  start: PagePosition,
  pagesMax: number,
  side: 'source' | 'target',
): PageSpan | undefined {
  const runs: ProcessPages[] = [];
  let { segment, page } = start;
  let left = pagesMax;
  while (left > 0 && segment < table.count) {
    const inSegment = table.pages(segment);
    const pages = Math.min(left, inSegment - page);
    runs.push(
      side === 'source'
        ? table.sourceRun(segment, page, pages)
        : table.targetRun(segment, page, pages),
    );
    left -= pages;
    page += pages;
    if (page === inSegment) {
      segment += 1;
      page = 0;
    }
  }
  if (runs.length === 0) return undefined;
  return { start, next: { segment, page }, pages: pagesMax - left, runs };
}
