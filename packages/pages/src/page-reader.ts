import { InvariantError } from '@ferry/core';
import { PAGE_SIZE, type ReadBatch, readPages } from '@ferry/linux';
import { type PagePosition, type PageSpan, spanOf } from './cursor.js';
import { pageLimits } from './limits.js';
import { CHUNK_HEADROOM, framePageChunk, type PageChunk } from './page-chunk.js';
import type { SegmentTable } from './segment-table.js';

/** Bytes of pages as found, and as sent. */
export interface PageCounters {
  raw: number;
  wire: number;
}

/** Two buffers with room for a message's head before the data. */
interface Slot {
  readonly raw: Buffer;
  readonly packed: Buffer;
}

/** A chunk in a buffer of the reader's pool. Its bytes hold until `release`. */
export class OutgoingChunk {
  readonly head: Omit<PageChunk, 'data'>;
  readonly #space: Buffer;
  readonly length: number;
  readonly #release: () => void;
  #released = false;

  constructor(
    head: Omit<PageChunk, 'data'>,
    body: { readonly space: Buffer; readonly length: number },
    release: () => void,
  ) {
    this.head = head;
    this.#space = body.space;
    this.length = body.length;
    this.#release = release;
  }

  /** The protobuf message, in place. */
  message(): Buffer {
    return framePageChunk(this.head, this.#space, this.length);
  }

  /** The buffer may be used again. Repeatable. */
  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#release();
  }
}

/** Reads and compresses the pages of a segment list, in its order, a few chunks ahead of whoever takes them and never
 *  further: at most `slots` chunks exist that are not released. */
export class PageReader {
  readonly counters: PageCounters = { raw: 0, wire: 0 };
  readonly #table: SegmentTable;
  readonly #options: { readonly inFlight: number; readonly acceleration: number };
  readonly #free: Slot[] = [];
  #slotsLeft: number;
  #waiting: { resolve(slot: Slot): void; reject(error: Error): void }[] = [];
  #ended = false;

  constructor(
    table: SegmentTable,
    options: { inFlight?: number; slots?: number; acceleration?: number } = {},
  ) {
    this.#table = table;
    const inFlight = options.inFlight ?? pageLimits.inFlight;
    this.#options = { inFlight, acceleration: options.acceleration ?? 1 };
    this.#slotsLeft = Math.max(options.slots ?? 2 * inFlight + 2, inFlight + 1);
  }

  /** All chunks. Ends early when `signal` fires, by throwing its reason. */
  async *chunks(signal?: AbortSignal): AsyncGenerator<OutgoingChunk, void, undefined> {
    const reading: Promise<OutgoingChunk>[] = [];
    let at: PagePosition = { segment: 0, page: 0 };
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
        if (next === undefined) return;
        yield await next;
      }
    } finally {
      this.#end();
      // Native calls still write into their buffers; wait for them, whatever came of them.
      await Promise.allSettled(reading);
    }
  }

  async #read(span: PageSpan): Promise<OutgoingChunk> {
    const slot = await this.#acquire();
    const bytes = span.pages * PAGE_SIZE;
    // Not worth packing for less than a sixteenth.
    const room = bytes - bytes / 16;
    const raw = slot.raw.subarray(CHUNK_HEADROOM, CHUNK_HEADROOM + bytes);
    const packed = slot.packed.subarray(CHUNK_HEADROOM, CHUNK_HEADROOM + room);
    let batch: ReadBatch;
    try {
      batch = await readPages(span.runs, raw, packed, this.#options.acceleration);
    } catch (error) {
      this.#release(slot);
      throw error;
    }
    this.counters.raw += bytes;
    this.counters.wire += batch.length;
    const { encoding, length, hash } = batch;
    const head = {
      segment: span.start.segment,
      firstPage: span.start.page,
      pages: span.pages,
      encoding,
      hash,
    };
    const space = encoding === 'lz4' ? slot.packed : slot.raw;
    return new OutgoingChunk(head, { space, length }, () => this.#release(slot));
  }

  async #acquire(): Promise<Slot> {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#slotsLeft > 0) {
      this.#slotsLeft -= 1;
      const size = CHUNK_HEADROOM + pageLimits.chunkPages * PAGE_SIZE;
      return { raw: Buffer.allocUnsafeSlow(size), packed: Buffer.allocUnsafeSlow(size) };
    }
    return await new Promise((resolve, reject) => {
      if (this.#ended) reject(new InvariantError('The reader has ended'));
      else this.#waiting.push({ resolve, reject });
    });
  }

  #release(slot: Slot): void {
    const waiting = this.#waiting.shift();
    if (waiting === undefined) this.#free.push(slot);
    else waiting.resolve(slot);
  }

  #end(): void {
    this.#ended = true;
    const error = new InvariantError('The reader has ended');
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }
}
