import { type PageChunk, pageLimits } from '@ferry/pages';
import { Outbox } from './outbox.js';
import { Pacer } from './pacer.js';
import type { SourcePort } from './source-port.js';

/** The pages of a round on their way here. */
export interface PageStream {
  readonly chunks: AsyncIterable<PageChunk>;
  /** So many bytes more may come. */
  grant(bytes: number): void;
  /** All has come. */
  close(): void;
  /** Repeatable. */
  end(): Promise<void>;
}

export const NO_PAGES: PageStream = {
  chunks: (async function* () {})(),
  grant: () => {},
  close: () => {},
  end: async () => {},
};

/** Opens the stream of a round's pages (0: of the frozen container): from here on the source reads, and sends as far as
 *  the window goes.
 *  @param options.bytesPerSecond  0: no bound */
export function pullPages(
  port: SourcePort,
  options: {
    readonly migrationId: string;
    readonly round: number;
    readonly bytesPerSecond: number;
    readonly signal: AbortSignal;
    readonly now: () => number;
  },
): PageStream {
  const { migrationId, round, bytesPerSecond, now } = options;
  const credits = new Outbox<number>();
  const pacer = new Pacer(bytesPerSecond, now);
  credits.push(pacer.window(pageLimits.windowBytes));
  // Closed with the last page: the source ends the stream only then. A credit that crosses its end on the way would
  // break the call (gRPC: "write after end").
  const over = new AbortController();
  const signal = AbortSignal.any([options.signal, over.signal]);
  const iterator = port.pullPages(migrationId, round, credits, { signal })[Symbol.asyncIterator]();
  const first = iterator.next();
  first.catch(() => {}); // looked at by whoever reads the chunks
  const chunks = (async function* () {
    for (let next = await first; !next.done; next = await iterator.next()) yield next.value;
  })();
  const end = async () => {
    credits.close();
    over.abort();
    await iterator.return?.();
  };
  const grant = (bytes: number) => {
    const delay = pacer.delay(bytes);
    if (delay > 0) setTimeout(() => credits.push(bytes), delay);
    else credits.push(bytes);
  };
  return { chunks, grant, close: () => credits.close(), end };
}
