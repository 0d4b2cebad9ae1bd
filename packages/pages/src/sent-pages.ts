import { randomBytes } from 'node:crypto';
import {
  PAGE_HASH_BYTES,
  PAGE_SIZE,
  type PageHashes,
  type ProcessPages,
  readPages,
} from '@ferry/linux';
import { pageLimits } from './limits.js';
import { hashWords, PageHashStore } from './page-hash-store.js';
import type { SegmentTable } from './segment-table.js';

/** So many pages are kept in mind. */
const KNOWN_MAX = 1 << 20;
/** Pages are read again only while it pays: at least this part of those that were looked at last was unchanged. */
const WORTH = 0.25;
/** As many are looked at before that is judged, and when it did not pay before. */
const SAMPLE = 512;
/** Of one page in so many it is noted what was sent, while that does not pay. */
const SAMPLED_PAGES_BITS = 3;
const NOTHING = Buffer.alloc(0);

/** What was sent of pages that are written again and again, so that one which holds the same as before need not be sent
 *  again.
 *
 *  A page is passed over because of its hash alone, so the hash must tell contents apart for certain: it has 128 bits, and
 *  a key of this migration's own, so that not even a program that wants to can make two pages that look alike. It is taken
 *  of the very bytes that are sent, not of an earlier or later look at the page. And it holds as long as a destination
 *  keeps what it got: in memory that it maps anew at the end nothing may be passed over.
 *
 *  A page that is known is noted each time when it is sent: what is known of it is what the destination has. Which pages get
 *  known depends on whether it pays: hashing and noting a page takes as long as sending it. */
export class SentPages {
  readonly key = randomBytes(PAGE_HASH_BYTES);
  /** By PID in the container. */
  readonly #known = new PageHashStore(KNOWN_MAX);
  /** The part that was unchanged when it was last looked; undefined: not looked yet. */
  #unchanged: number | undefined;

  /** Whether passing over what is unchanged was worth the look. */
  get pays(): boolean {
    return (this.#unchanged ?? 1) >= WORTH && this.#known.count > 0;
  }

  /** Room for the hashes of what is to be noted of pages that are about to be sent: of those that are known, and
   *  `all` of the others, or `some` of them as long as that has not paid.
   *  @param targets  `hostPid` is the PID in the container */
  room(targets: readonly ProcessPages[], which: 'all' | 'some'): NotedPages {
    const all = which === 'all' || (this.#unchanged ?? 0) >= WORTH;
    const noted: { pids: number[]; pages: number[]; places: number[] } = {
      ...{ pids: [], pages: [], places: [] },
    };
    let place = 0;
    for (const { hostPid: pid, address, pages } of targets) {
      const known = this.#known.placesOf(pid);
      const first = address / PAGE_SIZE;
      for (let page = first; page < first + pages; page += 1, place += 1) {
        if (!all && !isSampled(page) && known?.has(page) !== true) continue;
        noted.pids.push(pid);
        noted.pages.push(page);
        noted.places.push(place);
      }
    }
    const into = Buffer.allocUnsafeSlow(noted.places.length * PAGE_HASH_BYTES);
    return { ...noted, key: this.key, into, places: Uint32Array.from(noted.places) };
  }

  /** These pages were sent as they were hashed. */
  note({ pids, pages, into }: NotedPages): void {
    const hashes = hashWords(into);
    for (const [i, page] of pages.entries()) this.#known.set(pids[i]!, page, hashes, i);
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
    return without(table, same);
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
      const known = this.#known.placesOf(table.targetPid(i));
      const first = table.targetAddress(i) / PAGE_SIZE;
      for (let page = 0; known !== undefined && page < pages; page++) {
        const place = known.get(first + page);
        if (place === undefined) continue;
        found.push({ index: index + page, source: table.sourceRun(i, page, 1), place });
      }
      index += pages;
    }
    return found;
  }

  /** The candidates that hold what was sent, by their place in the table. */
  async #same(candidates: readonly Candidate[]): Promise<number[]> {
    const raw = Buffer.allocUnsafeSlow(candidates.length * PAGE_SIZE);
    const into = Buffer.allocUnsafeSlow(candidates.length * PAGE_HASH_BYTES);
    const hashes = { key: this.key, into };
    const runs = candidates.map(({ source }) => source);
    await readPages(runs, raw, NOTHING, { lenient: true, hashes });
    const now = hashWords(into);
    return candidates
      .filter(({ place }, i) => this.#known.isSame(place, now, i))
      .map(({ index }) => index);
  }
}

/** Pages of which it is noted what is sent. */
export interface NotedPages extends PageHashes {
  readonly places: Uint32Array;
  /** In the container, one for each place; and the pages' numbers there. */
  readonly pids: readonly number[];
  readonly pages: readonly number[];
}

/** The same pages each time, and no pattern that a program could have. */
function isSampled(page: number): boolean {
  return Math.imul(page, 0x9e3779b1) >>> (32 - SAMPLED_PAGES_BITS) === 0;
}

interface Candidate {
  /** Among all pages of the table. */
  readonly index: number;
  readonly source: ProcessPages;
  /** Of the hash of what was sent. */
  readonly place: number;
}

function without(table: SegmentTable, pages: ReadonlySet<number>): SegmentTable {
  return pages.size === 0 ? table : table.without((place) => pages.has(place));
}
