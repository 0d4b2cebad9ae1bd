import { FerryError } from '@ferry/core';
import { PAGE_SIZE, type ProcessPages, writePages } from '@ferry/linux';
import { type PagePosition, type PageSpan, spanOf } from './cursor.js';
import { pageLimits } from './limits.js';
import type { PageChunk } from './page-chunk.js';
import type { PageCounters } from './page-reader.js';
import { PageRoot, ROOT_BYTES } from './page-root.js';
import type { SegmentTable } from './segment-table.js';
import { SparePool } from './spare-pool.js';

const spare = new SparePool<Buffer>(() =>
  Buffer.allocUnsafeSlow(pageLimits.chunkPages * PAGE_SIZE),
);

/** Writes chunks into processes, a few at a time. Chunks come in the list's order, each exactly once; anything else is
 *  an error, and so is a chunk larger than it may be. Nothing of a damaged chunk is written. */
export class PageWriter {
  readonly counters: PageCounters = { raw: 0, wire: 0 };
  readonly #table: SegmentTable;
  readonly #hostPid: (pid: number) => number;
  readonly #written: (wireBytes: number) => void;
  /** How many more scratch buffers this writer may have in use. */
  #scratchLeft: number = pageLimits.inFlight;
  readonly #idle: (() => void)[] = [];
  readonly #running = new Set<Promise<void>>();
  #at: PagePosition = { segment: 0, page: 0 };
  readonly #root = new PageRoot();
  /** As the sender told it, last of all. */
  #announced: Buffer | undefined;
  #failure: { readonly error: unknown } | undefined;
  #fail: (error: unknown) => void = () => {};
  /** Rejects when a chunk could not be written: nobody need wait for the next one, which may never come. */
  readonly failed: Promise<never>;

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
    this.failed = new Promise((_resolve, reject) => {
      this.#fail = reject;
    });
    this.failed.catch(() => {});
  }

  /** Starts to write a chunk; resolves when the next one may come.
   *  @throws FerryError pages.damaged, pages.sequence; SysError of an earlier chunk or this one */
  async write(chunk: PageChunk): Promise<void> {
    this.#check();
    if (chunk.pages === 0) {
      this.#takeRoot(chunk);
      return;
    }
    const span = this.#accept(chunk);
    const scratch = await this.#takeScratch();
    this.#check();
    const job = this.#write(chunk, span, scratch).then(
      () => {
        this.counters.raw += span.pages * PAGE_SIZE;
        const { length } = chunk.data;
        this.counters.wire += length;
        chunk.release?.();
        this.#written(length);
      },
      (error: unknown) => {
        this.#failure ??= { error };
        this.#fail(error);
      },
    );
    this.#running.add(job);
    void job.finally(() => {
      this.#running.delete(job);
      spare.give(scratch);
      this.#scratchLeft += 1;
      this.#idle.shift()?.();
    });
  }

  /** Whether all has come that there is: the stream ends now, or may. */
  get hasAll(): boolean {
    return this.#announced !== undefined;
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
    if (this.#table.count === 0) return;
    if (this.#announced === undefined) {
      throw new FerryError('pages.truncated', 'The stream of pages ended without its root');
    }
    this.#root.mustBe(this.#announced);
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
    this.#root.add(chunk);
    return span;
  }

  #takeRoot({ data, segment, release }: PageChunk): void {
    const isLast = segment === this.#table.count && this.#at.segment === segment;
    if (!isLast || data.length !== ROOT_BYTES || this.#announced !== undefined) {
      throw new FerryError('pages.damaged', `A chunk of no pages in ${data.length} bytes`);
    }
    this.#announced = Buffer.from(data);
    release?.();
  }

  async #takeScratch(): Promise<Buffer> {
    for (;;) {
      if (this.#scratchLeft > 0) {
        this.#scratchLeft -= 1;
        return spare.take();
      }
      await new Promise<void>((resolve) => this.#idle.push(resolve));
    }
  }

  async #write(chunk: PageChunk, span: PageSpan, scratch: Buffer): Promise<void> {
    const runs: ProcessPages[] = span.runs.map((run) => ({
      ...run,
      hostPid: this.#hostPid(run.hostPid),
    }));
    try {
      await writePages(runs, chunk.data, scratch, chunk);
    } catch (error) {
      throw named(error, chunk, span);
    }
  }
}

/** Says which chunk it was that did not have the hash it came with. */
function named(error: unknown, { segment, firstPage, pages }: PageChunk, span: PageSpan): unknown {
  if (!(error instanceof FerryError) || error.code !== 'pages.damaged') return error;
  const [run] = span.runs;
  const where =
    run === undefined ? '' : `, from ${run.address.toString(16)} of process ${run.hostPid}`;
  const text = `Chunk ${segment}/${firstPage} (${pages} pages${where}) was damaged on its way`;
  return new FerryError('pages.damaged', text, {
    cause: error,
    detail: { segment, firstPage, pages },
    ...(error.remedy === undefined ? {} : { remedy: error.remedy }),
  });
}
