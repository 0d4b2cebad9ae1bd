import { firstAfter, overlapOf, type PageRun, type Vma } from '@ferry/image';
import { type AddressRange, type OwnPages, Pagemap } from '@ferry/linux';

const PAGE = 4096n;
const ADDRESS_END = 0x7ffffffff000n;
/** Memory that is none of ours to look at: up to so much of it costs less than a call more. */
const PASSED_OVER = 256n * PAGE;

/** Pages of a process that an image carries, and its guard pages (madvise(2) MADV_GUARD_INSTALL). */
export interface CarriedPages {
  readonly runs: PageRun[];
  readonly guards: PageRun[];
}

/** Whether a mapping may hold pages of its own. */
export function isPrivate({ shared, kind }: Vma): boolean {
  return !shared && (kind === 'anonymous' || kind === 'file' || kind === 'shared');
}

/** All private pages with content of their own, as runs that each lie in one mapping. */
export function privatePages(hostPid: number, vmas: readonly Vma[]): CarriedPages {
  using pagemap = new Pagemap(hostPid);
  const { own, guards } = contentsOf(pagemap, vmas.filter(isPrivate), vmas);
  const runs: AddressRange[] = [];
  for (const vma of vmas) {
    if (vma.kind === 'aio') runs.push(vma);
    // A run lies in one mapping: its neighbour may not be writable where it is put.
    else if (isPrivate(vma)) runs.push(...joined(within(own, vma)));
  }
  return { runs: pageRuns(runs), guards: pageRuns(guards) };
}

/** Pages with content of their own, in as few looks as possible, of `wanted`, and all guard pages but of `known`.
 *  @param wanted  private mappings
 *  @param vmas  all of the process, those among them, ascending
 *  @param known  whose guard pages are known */
export function contentsOf(
  pagemap: Pick<Pagemap, 'contents' | 'guardPages'>,
  wanted: readonly Vma[],
  vmas: readonly Vma[],
  known: ReadonlySet<Vma> = new Set(),
): { own: OwnPages[]; guards: AddressRange[] } {
  const own: OwnPages[] = [];
  const guards: AddressRange[] = [];
  for (const { start, end } of groups(wanted, vmas)) {
    const found = pagemap.contents(start, end);
    own.push(...found.own);
    guards.push(...found.guards);
  }
  const looked = new Set(wanted);
  const others = vmas.filter((vma) => {
    // [vsyscall] is the kernel's own.
    return !looked.has(vma) && !known.has(vma) && vma.end <= ADDRESS_END;
  });
  for (const { start, end } of groups(others, vmas)) guards.push(...pagemap.guardPages(start, end));
  guards.sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0));
  return { own, guards: joined(guards) };
}

/** Ranges that have all of `wanted` in them, and little else that is mapped. */
export function groups(wanted: readonly Vma[], vmas: readonly Vma[]): AddressRange[] {
  const chosen = new Set(wanted);
  const found: { start: bigint; end: bigint }[] = [];
  let passed = PASSED_OVER + 1n;
  for (const vma of vmas) {
    if (!chosen.has(vma)) {
      passed += vma.end - vma.start;
      continue;
    }
    if (passed > PASSED_OVER) found.push({ start: vma.start, end: vma.end });
    else found.at(-1)!.end = vma.end;
    passed = 0n;
  }
  return found;
}

/** The parts of ascending, disjoint ranges that lie in one range. */
export function within<R extends AddressRange>(ranges: readonly R[], whole: AddressRange): R[] {
  const parts: R[] = [];
  for (let i = firstAfter(ranges, whole.start); i < ranges.length; i++) {
    const range = ranges[i]!;
    if (range.start >= whole.end) break;
    if (range.start >= whole.start && range.end <= whole.end) parts.push(range);
    else parts.push({ ...range, ...overlapOf(range, whole) });
  }
  return parts;
}

/** Ascending ranges, neighbours in one. */
function joined(ranges: readonly AddressRange[]): AddressRange[] {
  const out: { start: bigint; end: bigint }[] = [];
  for (const { start, end } of ranges) {
    const last = out.at(-1);
    if (last !== undefined && last.end === start) last.end = end;
    else out.push({ start, end });
  }
  return out;
}

/** In the form of the image. */
export function pageRuns(ranges: readonly AddressRange[]): PageRun[] {
  return ranges.map(({ start, end }) => ({ address: start, pages: (end - start) / PAGE }));
}
