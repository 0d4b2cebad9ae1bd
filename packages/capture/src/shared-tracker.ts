import type { PageRun, SharedMemory, TreeImage } from '@ferry/image';
import { type AddressRange, call, type OwnedFd, Pagemap, type WriteTracking } from '@ferry/linux';
import { dataRuns } from './memory.js';
import { ObjectWatches } from './object-watch.js';
import { PageSet } from './page-set.js';
import { pageRuns } from './private-pages.js';
import type { PageSegment } from './segments.js';
import {
  foundObjects,
  type Room,
  roomsOf,
  type ShownPart,
  segmentsOf,
  shownParts,
  stillShown,
} from './shared-mappings.js';

const PAGE = 4096n;
/** Kinds of which each way to be written is known. */
const KINDS: ReadonlySet<string> = new Set(['anonymous', 'sysv', 'memfd']);
/** Holes up to this size are looked at together with what is around them. */
const GAP_BYTES = 2n << 20n;
/** Marks take 8 bytes a page in each mapping's page table: no more of them than this for one object. */
const MARK_BYTES_MAX = 256n << 20n;

/** A tree as it is looked at. */
export interface TreeView {
  /** All of its processes. */
  readonly hostPids: readonly number[];
  /** The tree stands, and has not run between looks with the same number; undefined: it runs. */
  readonly stop: number | undefined;
}

/** Pages of shared memory that skeletons lack. */
export interface SharedPages {
  /** Written since they were given last, or never given. */
  readonly written: PageSegment[];
  /** Perhaps written: something may have, unseen. */
  readonly doubtful: PageSegment[];
}

interface Followed {
  readonly object: SharedMemory;
  readonly key: string;
  readonly fd: OwnedFd;
  readonly rooms: readonly Room[];
  readonly sent: PageSet;
  /** Skeletons have something there that is gone here. */
  readonly stale: PageSet;
  /** The mappings at the last look that noted writes anew, all of whose writes are noted since. */
  before: readonly ShownPart[] | undefined;
  everGiven: boolean;
}

/** What is owed of one object, by offset. */
interface Look {
  readonly owed: PageSet;
  /** Sent once, and empty now. */
  readonly empty: PageSet;
  readonly doubtful: boolean;
}

/** What a final image says of one object; the address of a run is its offset. */
export interface SharedRest {
  /** What skeletons lack. */
  readonly owed: PageRun[];
  /** What they have and is empty here. */
  readonly emptied: PageRun[];
}

/** How writes through a mapping were noted since the last look; `fresh`: from now on. */
type Noted = 'all' | 'fresh' | 'none';

/** Shared memory objects of a tree whose writes are noted, each once, whatever maps it.
 *
 *  The kernel notes writes for each mapping, in its page table. What was written to an object since the last look is what any
 *  of its mappings shows as written, unless something else may have written. Then every page is doubtful:
 *  1. a mapping was there and is not, or not the same: a process has unmapped it, ended, run another program;
 *  2. a mapping is there whose writes were not noted;
 *  3. a mapping has come and gone: by fork(2) or mremap(2), which userfaultfd's events tell; by mmap(2) or shmat(2)
 *     (ObjectWatches);
 *  4. pages were emptied (madvise(2) MADV_REMOVE): an event, too;
 *  5. a descriptor was written to (ObjectWatches).
 *  Pages that were never given are owed as soon as they hold data, whoever has put it there. */
export class SharedTracker implements Disposable {
  readonly #followed: Followed[] = [];
  readonly #watches = new ObjectWatches();
  readonly #trackings: ReadonlyMap<number, WriteTracking>;
  readonly #eventCount: () => number;
  #eventsBefore = 0;

  /** @param layout  of the stopped tree
   *  @param trackings  by process (in our PID namespace), for its shared mappings alone
   *  @param eventCount  how many of their events there were */
  constructor(
    layout: TreeImage,
    trackings: ReadonlyMap<number, WriteTracking>,
    eventCount: () => number,
  ) {
    this.#trackings = trackings;
    this.#eventCount = eventCount;
    for (const { object, key, path } of foundObjects(layout)) {
      const rooms = roomsOf(layout, object);
      if (!isFollowed(object) || rooms.length === 0) continue;
      const fd = this.#watches.add(path, object.kind);
      const known = { object, key, fd, rooms, sent: new PageSet(), stale: new PageSet() };
      this.#followed.push({ ...known, before: undefined, everGiven: false });
    }
  }

  /** What skeletons lack now; from here on it counts as sent. The tree may run on. */
  take(tree: TreeView): SharedPages {
    const pages: { written: PageSegment[]; doubtful: PageSegment[] } = {
      written: [],
      doubtful: [],
    };
    this.#look(tree, { rearm: true }, (followed, { owed, empty, doubtful }, shown) => {
      for (const range of empty.all()) {
        followed.sent.remove(range);
        followed.stale.add(range);
      }
      const into = doubtful && followed.everGiven ? pages.doubtful : pages.written;
      for (const run of owed.all()) {
        for (const { segment, part } of segmentsOf(run, followed.rooms, shown)) {
          into.push(segment);
          followed.sent.add(part);
          followed.stale.remove(part);
        }
      }
      followed.everGiven = true;
    });
    return pages;
  }

  /** With the tree stopped: of the objects that are followed, what is left to do. Repeatable: nothing counts as sent by
   *  it. */
  finish(tree: TreeView): (object: SharedMemory) => SharedRest | undefined {
    const rests = new Map<string, SharedRest>();
    this.#look(tree, { rearm: false }, ({ object, stale }, { owed, empty }) => {
      for (const range of stale.all()) empty.add(range);
      for (const range of owed.all()) empty.remove(range);
      rests.set(idOf(object), { owed: pageRuns(owed.all()), emptied: pageRuns(empty.all()) });
    });
    return (object) => rests.get(idOf(object));
  }

  #look(
    { hostPids, stop }: TreeView,
    { rearm }: { readonly rearm: boolean },
    visit: (followed: Followed, look: Look, shown: readonly ShownPart[]) => void,
  ): void {
    if (this.#followed.length === 0) return;
    // First what tells of others, then the pages: what happens meanwhile is told the next time.
    const events = this.#eventCount();
    const quiet = events === this.#eventsBefore;
    const stirred = this.#watches.stirred({ keep: rearm, stop });
    const shown = shownParts(hostPids);
    using pagemaps = new Pagemaps();
    for (const [i, followed] of this.#followed.entries()) {
      const parts = shown.get(followed.key) ?? [];
      const sure = quiet && stirred[i] === false;
      visit(followed, this.#lookAt(followed, parts, { rearm, sure, pagemaps }), parts);
    }
    if (rearm) this.#eventsBefore = events;
  }

  #lookAt(
    followed: Followed,
    shown: readonly ShownPart[],
    { rearm, sure, pagemaps }: { rearm: boolean; sure: boolean; pagemaps: Pagemaps },
  ): Look {
    const { before, fd, sent } = followed;
    const size = sizeOf(fd);
    const data = dataRuns(fd, size).map(rangeOf);
    const near = joined(data);
    const written = new PageSet();
    const tooMany = marksOf(shown, near) > MARK_BYTES_MAX;
    const noted = shown.map((part) =>
      tooMany ? 'none' : this.#writesOf(part, near, { rearm, pagemaps, written }),
    );
    const doubtful =
      !sure ||
      before === undefined ||
      !stillShown(before, shown) ||
      noted.some((how) => how !== 'all');
    if (rearm) followed.before = noted.includes('none') ? undefined : shown;
    return { ...owedOf(data, size, { sent, written, doubtful }), doubtful };
  }

  /** Adds the offsets that were written through one mapping. */
  #writesOf(
    part: ShownPart,
    near: readonly AddressRange[],
    { rearm, pagemaps, written }: { rearm: boolean; pagemaps: Pagemaps; written: PageSet },
  ): Noted {
    const shift = part.start - part.offset;
    try {
      const pagemap = pagemaps.of(part.hostPid);
      const fresh = pagemap.untracked(part.start, part.end);
      const tracking = this.#trackings.get(part.hostPid);
      for (const range of fresh) {
        if (!rearm || tracking?.register(range) !== 'done') return 'none';
      }
      for (const range of near) {
        const start = higher(range.start + shift, part.start);
        const end = lower(range.end + shift, part.end);
        if (start >= end) continue;
        for (const run of pagemap.sharedWrites({ start, end }, { rearm })) {
          written.add({ start: run.start - shift, end: run.end - shift });
        }
      }
      return fresh.length === 0 ? 'all' : 'fresh';
    } catch {
      return 'none'; // the process has ended meanwhile, or who knows what
    }
  }

  [Symbol.dispose](): void {
    this.#watches[Symbol.dispose]();
    this.#followed.length = 0;
  }
}

/** Leaves of an object's runs what is owed, and those that come with the image. */
export function leaveOwed(object: SharedMemory, rest: SharedRest | undefined): void {
  if (rest === undefined) return;
  const owed = new PageSet();
  for (const run of rest.owed) owed.add(rangeOf(run));
  object.runs = object.runs.flatMap((run) =>
    run.content === undefined ? pageRuns(owed.within(rangeOf(run))) : [run],
  );
  object.emptied = rest.emptied;
}

function rangeOf({ address, pages }: PageRun): AddressRange {
  return { start: address, end: address + pages * PAGE };
}

/** One for each process, for the time of a look. */
class Pagemaps implements Disposable {
  readonly #open = new Map<number, Pagemap>();

  of(hostPid: number): Pagemap {
    const known = this.#open.get(hostPid);
    if (known !== undefined) return known;
    const pagemap = new Pagemap(hostPid);
    this.#open.set(hostPid, pagemap);
    return pagemap;
  }

  [Symbol.dispose](): void {
    for (const pagemap of this.#open.values()) pagemap[Symbol.dispose]();
  }
}

function isFollowed({ kind, hugePageShift }: SharedMemory): boolean {
  return KINDS.has(kind) && hugePageShift === 0;
}

/** An object keeps its inode for as long as it lives. */
function idOf({ kind, device, inode }: SharedMemory): string {
  return `${kind} ${device}:${inode}`;
}

function sizeOf(fd: OwnedFd): bigint {
  const stat = Buffer.alloc(144);
  call('fstat', fd.number, stat);
  return stat.readBigInt64LE(48);
}

function owedOf(
  data: readonly AddressRange[],
  size: bigint,
  { sent, written, doubtful }: { sent: PageSet; written: PageSet; doubtful: boolean },
): { owed: PageSet; empty: PageSet } {
  const owed = new PageSet();
  const empty = new PageSet();
  const end = ((size + PAGE - 1n) / PAGE) * PAGE;
  if (doubtful) for (const range of sent.within({ start: 0n, end })) empty.add(range);
  for (const range of data) {
    empty.remove(range);
    if (doubtful) owed.add(range);
    else addUnsent(range, sent, owed);
  }
  for (const range of doubtful ? [] : sent.within({ start: 0n, end })) {
    for (const part of written.within(range)) owed.add(part);
  }
  return { owed, empty };
}

function addUnsent(range: AddressRange, sent: PageSet, owed: PageSet): void {
  let at = range.start;
  for (const { start, end } of sent.within(range)) {
    if (start > at) owed.add({ start: at, end: start });
    at = end;
  }
  if (at < range.end) owed.add({ start: at, end: range.end });
}

/** Ranges with small holes between them as one. */
function joined(ranges: readonly AddressRange[]): AddressRange[] {
  const out: { start: bigint; end: bigint }[] = [];
  for (const { start, end } of ranges) {
    const last = out.at(-1);
    if (last !== undefined && start - last.end <= GAP_BYTES) last.end = end;
    else out.push({ start, end });
  }
  return out;
}

/** Bytes that noting writes to `near` through these mappings takes at most. */
function marksOf(shown: readonly ShownPart[], near: readonly AddressRange[]): bigint {
  let bytes = 0n;
  for (const { offset, start, end } of shown) {
    for (const range of near) {
      const size = lower(range.end, offset + (end - start)) - higher(range.start, offset);
      if (size > 0n) bytes += size / 512n;
    }
  }
  return bytes;
}

function lower(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

function higher(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
