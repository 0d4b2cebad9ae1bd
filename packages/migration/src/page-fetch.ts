import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { errorText, FerryError } from '@ferry/core';
import {
  type PageChunk,
  type PageCounters,
  type Pager,
  pageLimits,
  type WantedPages,
} from '@ferry/pages';
import { faultPoint } from './fault-points.js';
import type { Logger } from './logger.js';
import { Outbox } from './outbox.js';
import { Pacer } from './pacer.js';
import type { SourcePort } from './source-port.js';

/** So much of what nobody waits for is under way; what somebody waits for has a connection of its own. */
const WINDOW_PAGES = 1024;
const REQUEST_PAGES = 128;
/** A source that answers nothing for so long is connected with anew: a connection that has lost its way for a while may
 *  take minutes to find out. */
const SILENCE_MS = 5000;
const PAUSE_MS = 100;
const PAUSE_MS_MAX = 2000;

interface Parameters {
  readonly migrationId: string;
  readonly pager: Pager;
  /** A new connection with the source's agent, wherever it is now. */
  readonly connect: () => SourcePort;
  /** Resolves when the container runs: until then only what somebody waits for is brought, so that nothing else keeps it
   *  from running. */
  readonly runs: Promise<void>;
  /** For what nobody waits for; 0: no bound. */
  readonly bytesPerSecond: number;
  readonly logger: Logger;
}

/** Brings a pager what it lacks, threads that wait first, until it lacks nothing. A source that cannot be reached is
 *  tried for as long as it takes. */
export class PageFetch {
  readonly #p: Parameters;
  readonly counters: PageCounters = { raw: 0, wire: 0 };
  /** How often a connection was lost. */
  reconnections = 0;
  #pauseMs = PAUSE_MS;
  #answeredAt = 0;

  constructor(parameters: Parameters) {
    this.#p = parameters;
  }

  /** @throws FerryError pages.pagerGone */
  async run(signal: AbortSignal): Promise<void> {
    const { pager, logger, migrationId } = this.#p;
    let isDone = false;
    const done = pager.done.then(() => {
      isDone = true;
    });
    done.catch(() => {});
    while (!isDone) {
      signal.throwIfAborted();
      try {
        await this.#session(done, signal);
      } catch (error) {
        signal.throwIfAborted();
        if (pager.hasEnded) throw error;
        this.reconnections += 1;
        logger.warn('memory does not come', { migrationId, error: errorText(error) });
        await sleep(this.#pauseMs, undefined, { ref: false });
        this.#pauseMs = Math.min(this.#pauseMs * 1.5, PAUSE_MS_MAX);
      }
    }
  }

  /** One connection, until nothing is missing or it breaks. */
  async #session(done: Promise<void>, signal: AbortSignal): Promise<void> {
    const { pager, connect } = this.#p;
    const port = connect();
    const over = new AbortController();
    const options = { signal: AbortSignal.any([over.signal, signal]) };
    const urgent = new Requests();
    const rest = new Requests();
    const works = [
      this.#urgent(port, urgent, options),
      this.#rest(port, rest, options),
      this.#watch([urgent, rest], options.signal),
    ];
    for (const work of works) work.catch(() => {});
    try {
      pager.onWant = (wanted) => urgent.push(wanted);
      pager.askAgain();
      await Promise.race([done, ...works]);
    } finally {
      pager.onWant = () => {};
      over.abort();
      urgent.close();
      rest.close();
      port.close();
      await Promise.allSettled(works);
    }
  }

  async #urgent(port: SourcePort, requests: Requests, { signal }: { signal: AbortSignal }) {
    const { migrationId } = this.#p;
    const chunks = port.fetchPages(migrationId, requests.outbox, { signal, urgent: true });
    for await (const chunk of chunks) await this.#take(chunk, requests);
    throw ended();
  }

  async #rest(port: SourcePort, requests: Requests, { signal }: { signal: AbortSignal }) {
    const { migrationId, pager, runs, bytesPerSecond } = this.#p;
    const pacer = new Pacer(bytesPerSecond, () => performance.now());
    const windowPages = windowOf(bytesPerSecond);
    await Promise.race([runs, once(signal, 'abort')]);
    signal.throwIfAborted();
    let exhausted = false;
    const fill = async () => {
      while (!exhausted && requests.pages < windowPages) {
        const next = await pager.next(Math.min(REQUEST_PAGES, windowPages));
        if (next === undefined) exhausted = true;
        else requests.push(next);
      }
    };
    await fill();
    const chunks = port.fetchPages(migrationId, requests.outbox, { signal, urgent: false });
    for await (const chunk of chunks) {
      const { length } = chunk.data;
      await this.#take(chunk, requests);
      const delay = pacer.delay(length);
      if (delay > 0) await sleep(delay, undefined, { signal });
      await fill();
    }
    throw ended();
  }

  async #take(chunk: PageChunk, requests: Requests): Promise<void> {
    const { encoding, hash, data, pages } = chunk;
    const wanted = requests.shift();
    if (wanted?.pages !== pages || data.length > pageLimits.chunkPages * 4096) {
      throw new FerryError('pages.damaged', 'The source sent memory that it was not asked for');
    }
    this.#answeredAt = performance.now();
    this.#pauseMs = PAUSE_MS;
    await faultPoint('destination.before.takePages');
    await this.#p.pager.put({ ...wanted, encoding, hash, data });
    this.counters.raw += pages * 4096;
    this.counters.wire += data.length;
    chunk.release?.();
    await faultPoint('destination.after.takePages');
  }

  /** @throws when what was asked for does not come */
  async #watch(requests: readonly Requests[], signal: AbortSignal): Promise<void> {
    this.#answeredAt = performance.now();
    for (;;) {
      await sleep(SILENCE_MS / 6, undefined, { ref: false, signal });
      const asked = Math.min(...requests.map(({ oldestAt }) => oldestAt));
      if (performance.now() - Math.max(asked, this.#answeredAt) < SILENCE_MS) continue;
      if (asked === Number.POSITIVE_INFINITY) continue;
      throw new FerryError('migrate.unreachable', 'The source does not answer');
    }
  }
}

/** Requests on one stream: to be sent, and sent but not answered. */
class Requests {
  readonly outbox = new Outbox<WantedPages>();
  readonly #waiting: { readonly wanted: WantedPages; readonly at: number }[] = [];
  #pages = 0;

  push(wanted: WantedPages): void {
    this.#waiting.push({ wanted, at: performance.now() });
    this.#pages += wanted.pages;
    this.outbox.push(wanted);
  }

  /** The oldest, which is answered now. */
  shift(): WantedPages | undefined {
    const oldest = this.#waiting.shift()?.wanted;
    this.#pages -= oldest?.pages ?? 0;
    return oldest;
  }

  get pages(): number {
    return this.#pages;
  }

  /** When the oldest one was asked for; Infinity when nothing is. */
  get oldestAt(): number {
    return this.#waiting[0]?.at ?? Number.POSITIVE_INFINITY;
  }

  close(): void {
    this.outbox.close();
  }
}

/** No more than comes in a second. */
function windowOf(bytesPerSecond: number): number {
  if (bytesPerSecond === 0) return WINDOW_PAGES;
  return Math.min(WINDOW_PAGES, Math.max(16, Math.floor(bytesPerSecond / 4096)));
}

function ended(): FerryError {
  return new FerryError('migrate.lost', 'The source ended the stream of memory');
}
