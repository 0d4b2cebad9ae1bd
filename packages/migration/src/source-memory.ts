import { FerryError } from '@ferry/core';
import {
  type Credits,
  type OutgoingChunk,
  type PageCounters,
  PageReader,
  type SegmentTable,
  SentPages,
} from '@ferry/pages';
import type { Courtesy } from './courtesy.js';
import type { OwedPages } from './source-work.js';

/** The first round is everything there is: only what is written again may be written as it was. Of shared memory it is noted
 *  from the first round on what was sent: later all of it may become doubtful, perhaps when the container stands. */
const NOTED_FROM_ROUND = 2;
/** So many are little. */
const FEW_PAGES = 64;
/** That of a container that stands. */
export const LAST = 0;

/** What a source has told its destination of memory, and sent of it, round by round. */
export class SourceMemory {
  /** Of all chunks that were made. */
  readonly counters: PageCounters = { raw: 0, wire: 0 };
  /** Segment lists that were told and not fetched yet, by round; LAST: of the frozen container. */
  readonly #tables = new Map<number, SegmentTable>();
  readonly #sentPages = new SentPages();
  #rounds = 0;
  /** So many at the start of the last round's. */
  #sharedSegments = 0;
  /** It was told when the container stood. */
  #stands = false;
  #bytesTold = 0;
  #owesLittle = false;

  get rounds(): number {
    return this.#rounds;
  }

  /** Whether what is written in the time of a round is read and sent faster than it is looked for. */
  get owesLittle(): boolean {
    return this.#owesLittle;
  }

  /** What a destination must have before it may be ready. */
  get bytesTold(): number {
    return this.#bytesTold;
  }

  /** One more round.
   *  @returns its number, and what is to be told: without pages that were written and hold what they held. While the
   *    container stands that is looked at only where it paid before */
  async nextRound(
    { segments: owed, sharedSegments, doubtfulSegments, followsShared }: OwedPages,
    { stands }: { stands: boolean },
  ): Promise<{ round: number; segments: SegmentTable }> {
    const round = ++this.#rounds;
    this.#owesLittle = !followsShared && owed.totalPages < FEW_PAGES;
    this.#sharedSegments = sharedSegments;
    this.#stands = stands;
    const [sure, doubtful] = owed.split(owed.count - doubtfulSegments);
    const looks = round > NOTED_FROM_ROUND && (!stands || this.#sentPages.pays);
    const changed = looks ? await this.#sentPages.changed(sure) : sure;
    const segments = changed.followedBy(await this.#sentPages.changed(doubtful, 'all'));
    this.tell(round, segments);
    return { round, segments };
  }

  /** A segment list that the destination must have received whole before it may be ready. */
  tell(round: number, segments: SegmentTable): void {
    this.#bytesTold += segments.totalBytes;
    if (segments.count > 0) this.#tables.set(round, segments);
  }

  /** Whatever was told is told anew. */
  startAgain(): void {
    this.#bytesTold = 0;
    this.#tables.clear();
  }

  /** Whether its pages were told, and not given yet. */
  has(round: number): boolean {
    return this.#tables.has(round);
  }

  /** The pages of a round, as chunks, no more of them under way than `credits` allow.
   *  @throws FerryError migrate.order when there is no such round, or a second time */
  async *chunks(
    round: number,
    options: { credits: Credits; signal: AbortSignal; courtesy: Courtesy | undefined },
  ): AsyncGenerator<OutgoingChunk, void, undefined> {
    const { credits, signal, courtesy } = options;
    const table = this.#tables.get(round);
    if (table === undefined) throw new FerryError('migrate.order', `Round ${round} was not told`);
    this.#tables.delete(round);
    // What a running container has unmapped meanwhile is owed anew, if it is there again.
    const reader = new PageReader(table, {
      lenient: round !== LAST,
      // After what is sent of a container that stands nothing will be compared with it.
      sent: this.#stands || round === LAST ? undefined : this.#sentPages,
      notedWhole: this.#sharedSegments,
      others: round >= NOTED_FROM_ROUND ? 'some' : 'none',
    });
    try {
      for await (const chunk of reader.chunks(signal)) {
        try {
          // The root is for nothing: who has all pages grants no more.
          if (chunk.head.pages > 0) await credits.take(chunk.length, signal);
        } catch (error) {
          chunk.release();
          throw error;
        }
        yield chunk;
        await courtesy?.rest(signal);
      }
    } finally {
      this.counters.raw += reader.counters.raw;
      this.counters.wire += reader.counters.wire;
    }
  }
}
