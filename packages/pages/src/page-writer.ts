import { FerryError } from '@ferry/core';
import { PAGE_SIZE, type ProcessPages, writePages } from '@ferry/linux';
import { type PagePosition, type PageSpan, spanOf } from './cursor.js';
import { pageLimits } from './limits.js';
import type { PageChunk } from './page-chunk.js';
import type { PageCounters } from './page-reader.js';
import type { SegmentTable } from './segment-table.js';

/** Writes chunks into processes, a few at a time. Chunks come in the list's order, each exactly once; anything else is
 *  an error, and so is a chunk larger than it may be. Nothing of a damaged chunk is written. */
export class PageWriter {
  readonly counters: PageCounters = { raw: 0, wire: 0 };
  readonly #table: SegmentTable;
  readonly #hostPid: (pid: number) => number;
  readonly #written: (wireBytes: number) => void;
  readonly #scratch: Buffer[] = [];
  readonly #idle: (() => void)[] = [];
  readonly #running = new Set<Promise<void>>();
  #at: PagePosition = { segment: 0, page: 0 };
  #failure: { readonly error: unknown } | undefined;

  /** @param hostPid  the process, in our PID namespace, of a PID of the container; throws when there is none
   *  @param written  told the bytes of each chunk's data once they are written: the credit to grant */
  constructor(
    table: SegmentTable,
    hostPid: (pid: number) => number,
    written: (wireBytes: number) => void = () => {},
  ) {
    this.#table = table;
    this.#hostPid = hostPid;
    this.#written = written;
    for (let i = 0; i < pageLimits.inFlight; i++) {
      this.#scratch.push(Buffer.allocUnsafeSlow(pageLimits.chunkPages * PAGE_SIZE));
    }
  }

  /** Starts to write a chunk; resolves when the next one may come.
   *  @throws FerryError pages.damaged, pages.sequence; SysError of an earlier chunk or this one */
  async write(chunk: PageChunk): Promise<void> {
    this.#check();
    const span = this.#accept(chunk);
    const scratch = await this.#takeScratch();
    this.#check();
    const job = this.#write(chunk, span, scratch).then(
      () => {
        this.counters.raw += span.pages * PAGE_SIZE;
        this.counters.wire += chunk.data.length;
        this.#written(chunk.data.length);
      },
      (error: unknown) => {
        this.#failure ??= { error };
      },
    );
    this.#running.add(job);
    void job.finally(() => {
      this.#running.delete(job);
      this.#scratch.push(scratch);
      this.#idle.shift()?.();
    });
  }

  /** Waits for what is under way, and checks that everything came.
   *  @throws as write; FerryError pages.truncated */
  async finish(): Promise<void> {
    await this.settle();
    this.#check();
    if (this.#at.segment !== this.#table.count) {
      const got = this.counters.raw / PAGE_SIZE;
      throw new FerryError(
        'pages.truncated',
        `The stream of pages ended after ${got} of ${this.#table.totalPages} pages`,
        { remedy: 'try again; if it happens again, look at the log of the source agent' },
      );
    }
  }

  /** Waits until nothing is under way, whatever came of it. */
  async settle(): Promise<void> {
    await Promise.all(this.#running);
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  #accept(chunk: PageChunk): PageSpan {
    if (chunk.segment !== this.#at.segment || chunk.firstPage !== this.#at.page) {
      throw new FerryError('pages.sequence', 'Chunks of pages came out of order', {
        detail: { segment: chunk.segment, firstPage: chunk.firstPage },
      });
    }
    const { pages } = chunk;
    const span = spanOf(this.#table, this.#at, Math.min(pages, pageLimits.chunkPages), 'target');
    if (span === undefined || span.pages !== pages || chunk.data.length > pages * PAGE_SIZE) {
      const error = `A chunk of ${pages} pages in ${chunk.data.length} bytes is not valid`;
      throw new FerryError('pages.damaged', error);
    }
    this.#at = span.next;
    return span;
  }

  async #takeScratch(): Promise<Buffer> {
    for (;;) {
      const scratch = this.#scratch.pop();
      if (scratch !== undefined) return scratch;
      await new Promise<void>((resolve) => this.#idle.push(resolve));
    }
  }

  async #write(chunk: PageChunk, span: PageSpan, scratch: Buffer): Promise<void> {
    const runs: ProcessPages[] = span.runs.map((run) => ({
      ...run,
      hostPid: this.#hostPid(run.hostPid),
    }));
    await writePages(runs, chunk.data, scratch, chunk);
  }
}
