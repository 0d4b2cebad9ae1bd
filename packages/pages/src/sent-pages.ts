import { randomBytes } from 'node:crypto';
import {
  PAGE_HASH_BYTES,
  PAGE_SIZE,
  type PageHashes,
  type ProcessPages,
  readPages,
} from '@ferry/linux';
import { pageLimits } from './limits.js';
import { type Segment, SegmentTable } from './segment-table.js';

/** So many pages are kept in mind: 60 bytes each. */
const KNOWN_MAX = 1 << 20;
/** Pages are read again only while it pays: at least this part of those that were looked at last was unchanged. */
const WORTH = 0.25;
/** As many are looked at before that is judged, and when it did not pay before. */
const SAMPLE = 512;
const NOTHING = Buffer.alloc(0);

/** What was sent of pages that are written again and again, so that one which holds the same as before need not be sent
 *  again.
 *
 *  A page is passed over because of its hash alone, so the hash must tell contents apart for certain: it has 128 bits, and
 *  a key of this migration's own, so that not even a program that wants to can make two pages that look alike. It is taken
 *  of the very bytes that are sent, not of an earlier or later look at the page. And it holds as long as a destination
 *  keeps what it got: in memory that it maps anew at the end nothing may be passed over. */
export class SentPages {
  readonly key = randomBytes(PAGE_HASH_BYTES);
  /** By PID in the container, then by page number. */
  readonly #known = new Map<number, Map<number, string>>();
  #count = 0;
  /** The part that was unchanged when it was last looked. */
  #unchanged = 1;

  /** Whether passing over what is unchanged was worth the look. */
  get pays(): boolean {
    return this.#unchanged >= WORTH && this.#count > 0;
  }

  /** Room for the hashes of pages that are about to be read. */
  room(pages: number): PageHashes {
    return { key: this.key, into: Buffer.allocUnsafeSlow(pages * PAGE_HASH_BYTES) };
  }

  /** These pages were sent as they were hashed.
   *  @param targets  in the order of the hashes; `hostPid` is the PID in the container */
  note(targets: readonly ProcessPages[], { into }: PageHashes): void {
    let at = 0;
    for (const { hostPid: pid, address, pages } of targets) {
      let known = this.#known.get(pid);
      if (known === undefined) {
        known = new Map();
        this.#known.set(pid, known);
      }
      const first = Number(address / BigInt(PAGE_SIZE));
      for (let page = first; page < first + pages; page++, at += PAGE_HASH_BYTES) {
        const isNew = !known.has(page);
        if (isNew && this.#count >= KNOWN_MAX) continue;
        if (isNew) this.#count += 1;
        known.set(page, into.toString('latin1', at, at + PAGE_HASH_BYTES));
      }
    }
  }

  /** `table` without the pages that hold what was sent of them last, as they are read now. Writes must be noted from before
   *  the list was made.
   *  @param which  `all`: of pages that were perhaps not written at all, each is looked at */
  async changed(table: SegmentTable, which: 'paying' | 'all' = 'paying'): Promise<SegmentTable> {
    const known = this.#knownOf(table);
    if (known.length === 0) return table;
    if (which === 'all') return without(table, await this.#allSame(known));
    const most = this.pays ? known.length : Math.min(known.length, SAMPLE);
    const same = new Set<number>();
    let looked = 0;
    while (looked < most) {
      const candidates = known.slice(looked, Math.min(looked + pageLimits.chunkPages, most));
      for (const index of await this.#same(candidates)) same.add(index);
      looked += candidates.length;
      if (looked >= SAMPLE && same.size < looked * WORTH) break;
    }
    this.#unchanged = same.size / looked;
    return same.size === 0 ? table : without(table, same);
  }

  async #allSame(known: readonly Candidate[]): Promise<Set<number>> {
    const same = new Set<number>();
    for (let at = 0; at < known.length; at += pageLimits.chunkPages) {
      const candidates = known.slice(at, at + pageLimits.chunkPages);
      for (const index of await this.#same(candidates)) same.add(index);
    }
    return same;
  }

  /** Pages of `table` of which it is known what was sent. */
  #knownOf(table: SegmentTable): Candidate[] {
    const found: Candidate[] = [];
    let index = 0;
    for (let i = 0; i < table.count; i++) {
      const pages = table.pages(i);
      const { hostPid: pid, address } = table.targetRun(i, 0, pages);
      const known = this.#known.get(pid);
      const first = Number(address / BigInt(PAGE_SIZE));
      for (let page = 0; known !== undefined && page < pages; page++) {
        const hash = known.get(first + page);
        if (hash === undefined) continue;
        found.push({ index: index + page, source: table.sourceRun(i, page, 1), hash });
      }
      index += pages;
    }
    return found;
  }

  /** The candidates that hold what was sent, by their place in the table. */
  async #same(candidates: readonly Candidate[]): Promise<number[]> {
    const raw = Buffer.allocUnsafeSlow(candidates.length * PAGE_SIZE);
    const hashes = this.room(candidates.length);
    const runs = candidates.map(({ source }) => source);
    await readPages(runs, raw, NOTHING, { lenient: true, hashes });
    return candidates.flatMap(({ index, hash }, i) => {
      const now = hashes.into.toString('latin1', i * PAGE_HASH_BYTES, (i + 1) * PAGE_HASH_BYTES);
      return now === hash ? [index] : [];
    });
  }
}

interface Candidate {
  /** Among all pages of the table. */
  readonly index: number;
  readonly source: ProcessPages;
  readonly hash: string;
}

/** `table` without some of its pages. */
function without(table: SegmentTable, pages: ReadonlySet<number>): SegmentTable {
  const left: Segment[] = [];
  let index = 0;
  for (let segment = 0; segment < table.count; segment++) {
    for (let page = 0; page < table.pages(segment); page++, index++) {
      if (!pages.has(index)) add(left, table, segment, page);
    }
  }
  return SegmentTable.from(left);
}

function add(left: Segment[], table: SegmentTable, segment: number, page: number): void {
  const { hostPid, address } = table.sourceRun(segment, page, 1);
  const { hostPid: pid, address: targetAddress } = table.targetRun(segment, page, 1);
  const last = left.at(-1);
  const follows =
    last !== undefined &&
    page > 0 &&
    last.pid === pid &&
    last.address + BigInt(last.pages * PAGE_SIZE) === address;
  if (follows) left[left.length - 1] = { ...last, pages: last.pages + 1 };
  else left.push({ hostPid, address, pid, targetAddress, pages: 1 });
}
