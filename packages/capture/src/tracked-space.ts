import {
  type FileReference,
  keptMemory,
  type Mm,
  overlapOf,
  type PageRun,
  type Vma,
} from '@ferry/image';
import {
  type AddressRange,
  type OwnPages,
  Pagemap,
  parseMappings,
  procStat,
  readProc,
  type WriteTracking,
} from '@ferry/linux';
import { describeMapping } from './memory.js';
import { MemoryObjects } from './memory-objects.js';
import { PageSet } from './page-set.js';
import {
  type CarriedPages,
  contentsOf,
  groups,
  isPrivate,
  pageRuns,
  within,
} from './private-pages.js';

const PAGE = 4096n;
/** Of more memory than this only what changed is listed, not all that there is. */
const LARGE = 4n << 20n;

/** One process's address space whose writes are noted, from the layout that a skeleton of it has.
 *
 *  A page is owed while the skeleton does not have it as it is here. What the kernel tells is not all of it:
 *  1. a mapping that is new, or was moved (mremap), is not tracked: what it holds is owed, whatever is noted of it;
 *  2. a page that was sent and given back since (MADV_DONTNEED) is noted nowhere: it shows at the end, as one that was
 *     sent and holds nothing now;
 *  3. exec replaces the address space: the descriptors belong to the old one, which is gone (`isAlive`). */
export class TrackedSpace implements Disposable {
  readonly hostPid: number;
  readonly pid: number;
  readonly #startTime: bigint;
  readonly #layout: Pick<Mm, 'vmas'>;
  readonly #tracking: WriteTracking;
  readonly #pagemap: Pagemap;
  readonly #sent = new PageSet();
  readonly #references = new Map<string, FileReference>();
  /** What the last look at the stopped process has left to `finish`. */
  #left: CarriedPages | undefined;

  /** @param layout  of the stopped process */
  constructor(
    process: { readonly hostPid: number; readonly pid: number },
    layout: Pick<Mm, 'vmas'>,
    tracking: WriteTracking,
  ) {
    this.hostPid = process.hostPid;
    this.pid = process.pid;
    this.#startTime = procStat(process.hostPid).startTime;
    this.#layout = layout;
    this.#tracking = tracking;
    this.#pagemap = new Pagemap(process.hostPid);
  }

  /** Whether the process is there, and has the address space that it had. */
  isAlive(): boolean {
    try {
      if (procStat(this.hostPid).startTime !== this.#startTime) return false;
    } catch {
      return false;
    }
    const first = this.#layout.vmas[0];
    if (first === undefined) return false;
    return this.#tracking.register({ start: first.start, end: first.start + PAGE }) !== 'gone';
  }

  /** Pages that the skeleton has room for and does not have as they are now; from here on they count as sent. The process
   *  runs on. */
  take(): PageRun[] {
    const owed: AddressRange[] = [];
    for (const vma of clipped(this.#runningVmas(), this.#layout)) {
      const fresh = this.#pagemap.untracked(vma.start, vma.end);
      for (const range of fresh) {
        if (this.#tracking.register(range) !== 'done') continue;
        owed.push(...this.#pagemap.takePrivatePages(range.start, range.end));
      }
      const anonymous = vma.kind === 'anonymous';
      owed.push(...this.#pagemap.writtenPages(vma, { rearm: true, anonymous }));
    }
    for (const range of owed) this.#sent.add(range);
    return pageRuns(owed);
  }

  /** The mappings as they are; they may change at any time. */
  #runningVmas(): Vma[] {
    const objects = new MemoryObjects();
    return parseMappings(readProc(`/proc/${this.hostPid}/maps`)).map((mapping) =>
      describeMapping(this.hostPid, mapping, objects, this.#references),
    );
  }

  /** What was sent of this address space, which has ended, and lies in private mappings that its successor has: there it
   *  may hold nothing, and a skeleton still has it. */
  sentWithin(vmas: readonly Vma[]): AddressRange[] {
    return vmas.flatMap((vma) => (vma.shared ? [] : this.#sent.within(vma)));
  }

  /** With the process stopped, the same, by the one look at its pages that `finish` would take: that gives the rest. Writes are
   *  not noted anew: all of it is owed again should the process run on, of which `forget` is to be told.
   *  @param unsteady  whose content is another one for a moment until then: left to `finish` */
  lastLook(vmas: readonly Vma[], unsteady: AddressRange): PageRun[] {
    const kept = keptMemory(this.#layout, { vmas: [...vmas] });
    const { owed, guards } = this.#owed(vmas, kept);
    const early: AddressRange[] = [];
    for (const range of kept) {
      for (const part of owed.within(range))
        early.push(...without(part, [overlapOf(part, unsteady)]));
    }
    for (const range of early) {
      owed.remove(range);
      this.#sent.add(range);
    }
    this.#left = { runs: pageRuns(owed.all()), guards };
    return pageRuns(early);
  }

  /** The process runs on. */
  forget(): void {
    this.#left = undefined;
  }

  /** With the process stopped, all that a skeleton lacks once its mappings have been made those of `vmas`. */
  finish(vmas: readonly Vma[]): CarriedPages {
    const left = this.#left;
    if (left !== undefined) return left;
    const { owed, guards } = this.#owed(vmas, keptMemory(this.#layout, { vmas: [...vmas] }));
    return { runs: pageRuns(owed.all()), guards };
  }

  #owed(vmas: readonly Vma[], kept: readonly AddressRange[]): { owed: PageSet; guards: PageRun[] } {
    const owed = new PageSet();
    const fresh = groups(vmas.filter(isPrivate), vmas).flatMap(({ start, end }) =>
      this.#pagemap.untracked(start, end),
    );
    const isLarge = (vma: Vma) =>
      isPrivate(vma) &&
      vma.kind === 'anonymous' &&
      vma.end - vma.start > LARGE &&
      within(kept, vma).some(({ start, end }) => start === vma.start && end === vma.end) &&
      within(fresh, vma).length === 0;
    const large = new Set(vmas.filter(isLarge));
    const wanted = vmas.filter((vma) => isPrivate(vma) && !large.has(vma));
    const { own, guards } = contentsOf(this.#pagemap, wanted, vmas, large);
    for (const vma of vmas) {
      if (vma.kind === 'aio') owed.add(vma);
      if (large.has(vma)) guards.push(...this.#finishLarge(vma, owed));
      else if (isPrivate(vma)) this.#finishOne(vma, { kept, fresh, own }, owed);
    }
    return { owed, guards: pageRuns(inOrder(guards)) };
  }

  /** @returns its guard pages */
  #finishLarge(vma: Vma, owed: PageSet): AddressRange[] {
    const { written, empty, guards } = this.#pagemap.changes(vma);
    for (const range of written) owed.add(range);
    for (const range of empty) for (const page of this.#sent.within(range)) owed.add(page);
    return guards;
  }

  #finishOne(
    vma: Vma,
    found: {
      readonly kept: readonly AddressRange[];
      readonly fresh: readonly AddressRange[];
      readonly own: readonly OwnPages[];
    },
    owed: PageSet,
  ): void {
    for (const part of split(vma, found.kept)) {
      const own = within(found.own, part);
      for (const range of own) if (range.written || !part.kept) owed.add(range);
      if (!part.kept) continue;
      // Before Linux 6.14 a mapping that was moved shows its pages as unwritten (mm/mremap.c).
      for (const range of within(found.fresh, part)) {
        for (const page of within(own, range)) owed.add(page);
      }
      for (const range of this.#sent.within(part)) {
        for (const gone of without(range, within(own, range))) owed.add(gone);
      }
    }
  }

  /** Ends the tracking. */
  [Symbol.dispose](): void {
    this.#tracking[Symbol.dispose]();
    this.#pagemap[Symbol.dispose]();
  }
}

/** The parts of private mappings that `layout` has room for. */
function clipped(vmas: readonly Vma[], layout: Pick<Mm, 'vmas'>): Vma[] {
  const kept = keptMemory(layout, { vmas: [...vmas] }, { look: 'maps' });
  return vmas.flatMap((vma) =>
    split(vma, kept).flatMap((part) =>
      part.kept ? [{ ...vma, start: part.start, end: part.end }] : [],
    ),
  );
}

/** `whole` cut at the ends of `ranges`, which are ascending and disjoint. */
function split(
  whole: AddressRange,
  ranges: readonly AddressRange[],
): (AddressRange & { readonly kept: boolean })[] {
  const parts: (AddressRange & { readonly kept: boolean })[] = [];
  let at = whole.start;
  for (const range of ranges) {
    const { start, end } = overlapOf(range, { start: at, end: whole.end });
    if (start >= end) continue;
    if (start > at) parts.push({ start: at, end: start, kept: false });
    parts.push({ start, end, kept: true });
    at = end;
  }
  if (at < whole.end) parts.push({ start: at, end: whole.end, kept: false });
  return parts;
}

function inOrder(ranges: readonly AddressRange[]): AddressRange[] {
  return [...ranges].sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0));
}

/** `whole` without `holes`, which lie in it. */
function without(whole: AddressRange, holes: readonly AddressRange[]): AddressRange[] {
  return split(whole, holes).filter((part) => !part.kept);
}
