import { type Range, without } from '@ferry/dumpbin';
import {
  firstAfter,
  type PageRun,
  type Process,
  type Thread,
  type TreeImage,
  type Vma,
} from '@ferry/image';
import type { Segment, SegmentTable } from '@ferry/pages';

/** Which memory may come after a container runs again (post-copy), and which must be there before. */

const PAGE = 4096n;
const SS_DISABLE = 2;
/** Of a stack: what its thread returns into, and what a signal frame, its own or that of the restorer, takes. */
const STACK_ABOVE = 8n * PAGE;
const STACK_BELOW = 8n * PAGE;

/** Memory of which the kernel tells when a page is missing, and of which nothing else asks for its pages before the
 *  process runs: a locked mapping has all of them from the start. */
function mayWait(vma: Vma): boolean {
  const { kind, shared, hugePageShift, growsDown, flags } = vma;
  if (kind !== 'anonymous' || shared || hugePageShift !== 0 || growsDown) return false;
  return !flags.includes('lo') && !flags.includes('dp');
}

/** The mappings of a process of which pages may come later. */
export function laterMappings(process: Process): Range[] {
  const { mm } = process;
  if (mm === undefined || mm.mlockFuture !== 0) return [];
  return mm.vmas.filter(mayWait).map(({ start, end }) => ({ start, end }));
}

/** What each thread touches at once: it would only wait for it. */
function touchedFirst(process: Process): Range[] {
  const ranges = process.threads.flatMap(touchedBy);
  return ranges.sort((x, y) => (x.start < y.start ? -1 : x.start > y.start ? 1 : 0));
}

function touchedBy({ registers, altstack, rseq, robustList, tidAddress }: Thread): Range[] {
  const found: Range[] = [];
  const add = (from: bigint, to: bigint) => {
    if (from > 0n) found.push({ start: floor(from), end: floor(to) + PAGE });
  };
  if (registers !== undefined) {
    add(registers.rsp - STACK_BELOW, registers.rsp + STACK_ABOVE);
    add(registers.rip, registers.rip);
    // Thread-local storage is below the thread's own record.
    add(registers.fsBase - PAGE, registers.fsBase + PAGE);
  }
  if (altstack !== undefined && !(altstack.flags & SS_DISABLE) && altstack.size > 0n) {
    const top = altstack.address + altstack.size;
    add(top - STACK_BELOW > altstack.address ? top - STACK_BELOW : altstack.address, top - 1n);
  }
  if (rseq !== undefined) add(rseq.address, rseq.address + 63n);
  add(robustList, robustList);
  add(tidAddress, tidAddress);
  return found;
}

function floor(address: bigint): bigint {
  return address - (address % PAGE);
}

/** The parts of `mappings` that nobody touches at once. */
function waitingParts(process: Process): Range[] {
  const toRun = ({ start, end }: Range): PageRun => ({
    address: start,
    pages: (end - start) / PAGE,
  });
  const kept = without(laterMappings(process).map(toRun), merged(touchedFirst(process)).map(toRun));
  return kept.map(({ address, pages }) => ({ start: address, end: address + pages * PAGE }));
}

function merged(ranges: readonly Range[]): Range[] {
  const out: { start: bigint; end: bigint }[] = [];
  for (const { start, end } of ranges) {
    const last = out.at(-1);
    if (last === undefined || start > last.end) out.push({ start, end });
    else if (end > last.end) last.end = end;
  }
  return out;
}

/** Parts what has to be sent of a stopped tree into what must be there before it runs, and what may come later. */
export function splitLater(
  image: TreeImage,
  segments: readonly Segment[],
): { now: Segment[]; later: Segment[] } {
  const waiting = new Map(image.processes.map((process) => [process.pid, waitingParts(process)]));
  const now: Segment[] = [];
  const later: Segment[] = [];
  for (const segment of segments) {
    const ranges = segment.address === segment.targetAddress ? waiting.get(segment.pid) : undefined;
    for (const piece of cut(segment, ranges ?? [])) (piece.waits ? later : now).push(piece.part);
  }
  return { now, later };
}

function* cut(
  segment: Segment,
  ranges: readonly Range[],
): Generator<{ part: Segment; waits: boolean }> {
  const end = segment.address + BigInt(segment.pages) * PAGE;
  let at = segment.address;
  const piece = (to: bigint, waits: boolean) => {
    const pages = Number((to - at) / PAGE);
    const part = { ...segment, address: at, targetAddress: at, pages };
    if (segment.address !== segment.targetAddress) {
      part.targetAddress = segment.targetAddress + (at - segment.address);
    }
    at = to;
    return { part, waits };
  };
  for (let i = firstAfter(ranges, at); i < ranges.length && ranges[i]!.start < end; i++) {
    const range = ranges[i]!;
    if (range.start > at) yield piece(range.start, false);
    const to = range.end < end ? range.end : end;
    if (to > at) yield piece(to, true);
  }
  if (at < end) yield piece(end, false);
}

/** Memory of one process that comes later. */
export interface LaterProcess {
  readonly pid: number;
  readonly runs: PageRun[];
  /** The mappings that the runs lie in. */
  readonly ranges: Range[];
}

/** What a source says that comes later, by process.
 *  @returns undefined when some of it may not: a source that says so is not to be believed */
export function laterProcesses(image: TreeImage, table: SegmentTable): LaterProcess[] | undefined {
  const byPid = new Map<number, { runs: PageRun[]; ranges: Set<Range>; mappings: Range[] }>();
  for (let i = 0; i < table.count; i++) {
    const pid = table.targetPid(i);
    const address = BigInt(table.targetAddress(i));
    const pages = table.pages(i);
    const known = byPid.get(pid);
    const process = known === undefined ? image.processes.find((p) => p.pid === pid) : undefined;
    const entry = known ?? {
      ...{ runs: [], ranges: new Set<Range>() },
      mappings: process === undefined ? [] : laterMappings(process),
    };
    byPid.set(pid, entry);
    const end = address + BigInt(pages) * PAGE;
    const last = entry.runs.at(-1);
    const ascends = last === undefined || last.address + last.pages * PAGE <= address;
    let at = address;
    for (let k = firstAfter(entry.mappings, at); at < end; k++) {
      const mapping = entry.mappings[k];
      if (!ascends || mapping === undefined || mapping.start > at) return undefined;
      entry.ranges.add(mapping);
      at = mapping.end;
    }
    entry.runs.push({ address, pages: BigInt(pages) });
  }
  return [...byPid].map(([pid, { runs, ranges }]) => ({ pid, runs, ranges: [...ranges] }));
}
