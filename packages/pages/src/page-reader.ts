import { InvariantError } from '@ferry/core';
import { PAGE_SIZE } from '@ferry/linux';
import { type PagePosition, type PageSpan, spanOf } from './cursor.js';
import { pageLimits } from './limits.js';
import {
  OutgoingChunk,
  type PackedPages,
  packPages,
  type Slot,
  spareSlots,
} from './outgoing-chunk.js';
import { CHUNK_HEADROOM } from './page-chunk.js';
import { PageRoot, ROOT_BYTES } from './page-root.js';
import type { SegmentTable } from './segment-table.js';
import type { NotedPages, SentPages } from './sent-pages.js';

/** Bytes of pages as found, and as sent. */
export interface PageCounters {
  raw: number;
  wire: number;
}

/** Reads and compresses the pages of a segment list, in its order, a few chunks ahead of whoever takes them and never
 *  further: at most `slots` chunks exist that are not released. */
export class PageReader {
  readonly counters: PageCounters = { raw: 0, wire: 0 };
  readonly #table: SegmentTable;
  readonly #options: {
    readonly inFlight: number;
    readonly acceleration: number;
    readonly lenient: boolean;
  };
  readonly #sent: SentPages | undefined;
  readonly #notedWhole: number;
  readonly #notesOthers: boolean;
  readonly #free: Slot[] = [];
  #slotsLeft: number;
  #waiting: { resolve(slot: Slot): void; reject(error: Error): void }[] = [];
  #ended = false;

  /** @param options  `lenient`: pages that are not there any more count as zeros (of processes that run); `sent`: where it
   *    is noted what was sent of pages; `notedWhole`: of all pages of the first so many segments, and few more; `others`:
   *    of some of the other pages, or of none */
  constructor(
    table: SegmentTable,
    options: {
      inFlight?: number;
      slots?: number;
      acceleration?: number;
      lenient?: boolean;
      sent?: SentPages | undefined;
      notedWhole?: number;
      others?: 'some' | 'none';
    } = {},
  ) {
    this.#table = table;
    this.#sent = options.sent;
    this.#notedWhole = options.notedWhole ?? Number.POSITIVE_INFINITY;
    this.#notesOthers = options.others === 'some';
    const inFlight = options.inFlight ?? pageLimits.inFlight;
    const { acceleration = 1, lenient = false } = options;
    this.#options = { inFlight, acceleration, lenient };
    this.#slotsLeft = Math.max(options.slots ?? 2 * inFlight + 2, inFlight + 1);
  }

  /** All chunks, then their root as a chunk of no pages. Ends early when `signal` fires, by throwing its reason. */
  async *chunks(signal?: AbortSignal): AsyncGenerator<OutgoingChunk, void, undefined> {
    const reading: Promise<OutgoingChunk>[] = [];
    let at: PagePosition = { segment: 0, page: 0 };
    const root = new PageRoot();
    try {
      for (;;) {
        signal?.throwIfAborted();
        const span = spanOf(this.#table, at, pageLimits.chunkPages, 'source');
        if (span !== undefined) {
          at = span.next;
          reading.push(this.#read(span));
        }
        if (span !== undefined && reading.length < this.#options.inFlight) continue;
        const next = reading.shift();
        if (next === undefined) break;
        const chunk = await next;
        root.add(chunk.head);
        yield chunk;
      }
      if (this.#table.count > 0) yield rootChunk(this.#table, root);
    } finally {
      this.#end();
      // Native calls still write into their buffers; wait for them, whatever came of them.
      await Promise.allSettled(reading);
    }
  }

  async #read(span: PageSpan): Promise<OutgoingChunk> {
    const slot = await this.#acquire();
    const { start, pages } = span;
    const place = { segment: start.segment, firstPage: start.page, pages };
    const hashes = this.#noted(span);
    let packed: PackedPages;
    try {
      packed = await packPages(slot, span.runs, place, { ...this.#options, hashes });
    } catch (error) {
      this.#release(slot);
      throw error;
    }
    if (hashes !== undefined) this.#sent?.note(hashes);
    this.counters.raw += pages * PAGE_SIZE;
    this.counters.wire += packed.body.length;
    return new OutgoingChunk(packed.head, packed.body, () => this.#release(slot));
  }

  /** What is to be noted of its pages. */
  #noted({ start, pages }: PageSpan): NotedPages | undefined {
    const isWhole = start.segment < this.#notedWhole;
    if (this.#sent === undefined || !(isWhole || this.#notesOthers)) return undefined;
    const targets = spanOf(this.#table, start, pages, 'target')?.runs ?? [];
    const noted = this.#sent.room(targets, isWhole ? 'all' : 'some');
    return noted.places.length === 0 ? undefined : noted;
  }

  async #acquire(): Promise<Slot> {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#slotsLeft > 0) {
      this.#slotsLeft -= 1;
      return spareSlots.take();
    }
    return await new Promise((resolve, reject) => {
      if (this.#ended) reject(new InvariantError('The reader has ended'));
      else this.#waiting.push({ resolve, reject });
    });
  }

  #release(slot: Slot): void {
    const waiting = this.#waiting.shift();
    if (waiting !== undefined) waiting.resolve(slot);
    else if (this.#ended) spareSlots.give(slot);
    else this.#free.push(slot);
  }

  #end(): void {
    this.#ended = true;
    for (const slot of this.#free.splice(0)) spareSlots.give(slot);
    const error = new InvariantError('The reader has ended');
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }
}

function rootChunk(table: SegmentTable, root: PageRoot): OutgoingChunk {
  const space = Buffer.alloc(CHUNK_HEADROOM + ROOT_BYTES);
  root.digest().copy(space, CHUNK_HEADROOM);
  const head = { segment: table.count, firstPage: 0, pages: 0, encoding: 'raw', hash: 0n } as const;
  return new OutgoingChunk(head, { space, length: ROOT_BYTES }, () => {});
}
