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
  /** By PID in the container. */
  readonly #known = new PageHashStore(KNOWN_MAX);
  /** The part that was unchanged when it was last looked. */
  #unchanged = 1;

  /** Whether passing over what is unchanged was worth the look. */
  get pays(): boolean {
    return this.#unchanged >= WORTH && this.#known.count > 0;
  }

  /** Room for the hashes of pages that are about to be read. */
  room(pages: number): PageHashes {
    return { key: this.key, into: Buffer.allocUnsafeSlow(pages * PAGE_HASH_BYTES) };
  }

  /** These pages were sent as they were hashed.
   *  @param targets  in the order of the hashes; `hostPid` is the PID in the container */
  note(targets: readonly ProcessPages[], { into }: PageHashes): void {
    const hashes = hashWords(into);
    let at = 0;
    for (const { hostPid: pid, address, pages } of targets) {
      this.#known.set(pid, address / PAGE_SIZE, pages, hashes, at);
      at += pages;
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
    const hashes = this.room(candidates.length);
    const runs = candidates.map(({ source }) => source);
    await readPages(runs, raw, NOTHING, { lenient: true, hashes });
    const now = hashWords(hashes.into);
    return candidates
      .filter(({ place }, i) => this.#known.isSame(place, now, i))
      .map(({ index }) => index);
  }
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
