import type { PageRun, Process, SharedMemory, TreeImage, Vma } from '@ferry/image';

/** Addresses from `start` up to, not including, `end`. Page aligned. */
export interface Range {
  readonly start: bigint;
  readonly end: bigint;
}

/** A part of a mapping of the final image, whole pages, all of it in one mapping of the earlier image or in none. */
export interface Piece extends Range {
  readonly vma: Vma;
  /** The earlier mapping that shows the same memory here; undefined: the piece must be mapped, and starts empty. */
  readonly before: Vma | undefined;
}

/** What must happen to the memory of one process to turn an earlier layout into the final one. */
export interface ProcessDifference {
  readonly pid: number;
  /** In ascending order; the kernel's own mappings (vDSO) are left out. */
  readonly pieces: readonly Piece[];
  /** Mapped before, and not any more. */
  readonly gone: readonly Range[];
  /** The vDSO stands elsewhere. */
  readonly movedVdso: boolean;
}

/** How two images of one tree differ in what a skeleton is made of. */
export interface LayoutDifference {
  /** Every living process of the final image; one that was not there before has all of its memory in pieces without
   *  `before`. */
  readonly processes: readonly ProcessDifference[];
  /** Shared memory objects of the final image that were there before: id, and id in the earlier image. */
  readonly keptObjects: ReadonlyMap<number, number>;
}

const KERNEL_KINDS: ReadonlySet<string> = new Set(['vdso', 'vvar', 'vsyscall']);

/** Compares two images of one tree, the later one first. What was written into a skeleton of `preliminary` is still there
 *  in pieces that have a `before`; all pages of the others must be sent (again). Pure. */
export function layoutDifference(final: TreeImage, preliminary: TreeImage): LayoutDifference {
  const keptObjects = keptObjectsOf(final, preliminary);
  const before = new Map(livingOf(preliminary).map((process) => [process.pid, process]));
  const processes = livingOf(final).map((process) =>
    processDifference(process, before.get(process.pid), keptObjects),
  );
  return { processes, keptObjects };
}

/** Shared memory objects of the final image that were there before: id, and id in the earlier image. */
export function keptObjectsOf(final: TreeImage, preliminary: TreeImage): Map<number, number> {
  const objectsBefore = new Map(preliminary.sharedMemory.map((o) => [keyOf(o), o.id]));
  const kept = new Map<number, number>();
  for (const object of final.sharedMemory) {
    const before = objectsBefore.get(keyOf(object));
    if (before !== undefined) kept.set(object.id, before);
  }
  return kept;
}

function livingOf(image: TreeImage): Process[] {
  return image.processes.filter((process) => process.state !== 'zombie');
}

/** An object keeps its inode for as long as it lives; both images come from the same host. */
function keyOf(object: SharedMemory): string {
  return `${object.kind} ${object.device}:${object.inode}`;
}

function processDifference(
  process: Process,
  before: Process | undefined,
  keptObjects: ReadonlyMap<number, number>,
): ProcessDifference {
  const old = before?.mm?.vmas ?? [];
  const oldUser = old.filter(isUser);
  const now = (process.mm?.vmas ?? []).filter(isUser);
  const pieces: Piece[] = [];
  let i = 0;
  for (const vma of now) {
    while (i < oldUser.length && oldUser[i]!.end <= vma.start) i++;
    let at = vma.start;
    for (let k = i; at < vma.end; k++) {
      const earlier = oldUser[k];
      if (earlier === undefined || earlier.start >= vma.end) {
        addPiece(pieces, { start: at, end: vma.end, vma, before: undefined });
        break;
      }
      if (earlier.start > at) {
        addPiece(pieces, { start: at, end: earlier.start, vma, before: undefined });
        at = earlier.start;
      }
      const end = lower(earlier.end, vma.end);
      const same = showsSame(vma, earlier, keptObjects);
      addPiece(pieces, { start: at, end, vma, before: same ? earlier : undefined });
      at = end;
    }
  }
  return {
    pid: process.pid,
    pieces,
    gone: subtract(oldUser, now),
    movedVdso: vdsoStart(old) !== vdsoStart(process.mm?.vmas ?? []),
  };
}

/** Neighbours that are both to be mapped anew are one piece. */
function addPiece(pieces: Piece[], piece: Piece): void {
  const last = pieces.at(-1);
  const joins = last !== undefined && last.end === piece.start && last.vma === piece.vma;
  if (joins && last.before === undefined && piece.before === undefined) {
    pieces[pieces.length - 1] = { ...last, end: piece.end };
  } else pieces.push(piece);
}

function isUser(vma: Vma): boolean {
  return !KERNEL_KINDS.has(vma.kind);
}

/** Where the kernel maps its pages of code and data; `arch_prctl` takes the lowest of them. */
export function vdsoStart(vmas: readonly Vma[]): bigint | undefined {
  const vvar = vmas.find((vma) => vma.kind === 'vvar');
  return (vvar ?? vmas.find((vma) => vma.kind === 'vdso'))?.start;
}

/** A mapping that has no pages of its own. It is made at the end: until then its file may be renamed, and be made anew where
 *  the copies of files are. */
export function isSharedFile(vma: Vma): boolean {
  return vma.kind === 'file' && vma.shared;
}

/** Whether one mapping shows at each address what the other one shows there. */
function showsSame(now: Vma, before: Vma, keptObjects: ReadonlyMap<number, number>): boolean {
  if (now.kind !== before.kind || now.shared !== before.shared) return false;
  if (isSharedFile(now)) return false;
  if (now.growsDown !== before.growsDown) return false;
  if (now.flags.includes('dp') !== before.flags.includes('dp')) return false;
  if (now.flags.includes('nr') !== before.flags.includes('nr')) return false;
  if (now.kind === 'anonymous') return true;
  if (now.fileOffset - now.start !== before.fileOffset - before.start) return false;
  if (now.kind === 'shared') return keptObjects.get(now.sharedMemoryId) === before.sharedMemoryId;
  return (
    now.fileWritable === before.fileWritable &&
    now.file?.path === before.file?.path &&
    now.file?.device === before.file?.device &&
    now.file?.inode === before.file?.inode
  );
}

/** What of `ranges` is in none of `others`. Both ascending. */
function subtract(ranges: readonly Range[], others: readonly Range[]): Range[] {
  const left: Range[] = [];
  const push = (start: bigint, end: bigint): void => {
    const last = left.at(-1);
    if (last?.end === start) left[left.length - 1] = { start: last.start, end };
    else left.push({ start, end });
  };
  let i = 0;
  for (const { start, end } of ranges) {
    while (i < others.length && others[i]!.end <= start) i++;
    let at = start;
    for (let k = i; k < others.length && others[k]!.start < end; k++) {
      if (others[k]!.start > at) push(at, others[k]!.start);
      at = others[k]!.end;
    }
    if (at < end) push(at, end);
  }
  return left;
}

/** Which of these runs of private pages lie in pieces that start empty: a process's pages that must be in the last set
 *  whenever they were sent. Both ascending. */
export function freshRuns(runs: readonly PageRun[], pieces: readonly Piece[]): PageRun[] {
  const empty = pieces.filter(({ before }) => before === undefined);
  return intersect(runs, empty);
}

/** The parts of page runs that lie in ranges. Both ascending. */
export function intersect(runs: readonly PageRun[], ranges: readonly Range[]): PageRun[] {
  const found: PageRun[] = [];
  let i = 0;
  for (const run of runs) {
    const end = run.address + run.pages * 4096n;
    while (i < ranges.length && ranges[i]!.end <= run.address) i++;
    for (let k = i; k < ranges.length && ranges[k]!.start < end; k++) {
      const from = higher(ranges[k]!.start, run.address);
      const to = lower(ranges[k]!.end, end);
      found.push({ address: from, pages: (to - from) / 4096n });
    }
  }
  return found;
}

/** The parts of page runs that are in none of others. Both ascending, each without overlaps. */
export function without(runs: readonly PageRun[], others: readonly PageRun[]): PageRun[] {
  const toRange = ({ address, pages }: PageRun): Range => ({
    start: address,
    end: address + pages * 4096n,
  });
  return subtract(runs.map(toRange), others.map(toRange)).map(({ start, end }) => ({
    address: start,
    pages: (end - start) / 4096n,
  }));
}

function lower(a: bigint, b: bigint): bigint {
  if (a < b) return a;
  return b;
}

function higher(a: bigint, b: bigint): bigint {
  if (a > b) return a;
  return b;
}
