import { setTimeout as sleep } from 'node:timers/promises';
import type { Pacer, SourcePort, StateRequest } from '@ferry/migration';

/** What may take its time: the rest is read while the container stands. */
const UNHURRIED: readonly string[] = [
  'upper',
  'upper-changes',
  'mounts-copy',
  'mounts-changes',
  'log',
] satisfies StateRequest['kind'][];

/** What all migrations of a host have of its network together, one way. */
export interface Share {
  readonly pacer: Pacer;
  /** True while the container of the migration stands: nothing is held back then. */
  readonly hurry: () => boolean;
}

/** Passes items on, and asks for the next one no sooner than the share allows.
 *  @throws an AbortError when `signal` fires meanwhile */
export async function* paced<T>(
  items: AsyncIterable<T>,
  bytesOf: (item: T) => number,
  share: Share,
  signal: AbortSignal,
): AsyncGenerator<T, void, undefined> {
  for await (const item of items) {
    const bytes = bytesOf(item);
    yield item;
    const delay = share.hurry() ? 0 : share.pacer.delay(bytes);
    if (delay > 0) await sleep(delay, undefined, { signal });
  }
}

/** Whether that kind of state is sent while the container runs. */
export function isUnhurried(kind: string): boolean {
  return UNHURRIED.includes(kind);
}

export const lengthOf = (buffer: Buffer): number => buffer.length;

/** A source of which no more is asked than this host may take in: what is not read holds the sender back. */
export function pacedPort(port: SourcePort, share: Share): SourcePort {
  return {
    session: (messages, options) => port.session(messages, options),
    pullPages: (migrationId, round, credits, options) => {
      const chunks = port.pullPages(migrationId, round, credits, options);
      if (round === 0) return chunks;
      return paced(chunks, ({ data }) => data.length, share, options.signal);
    },
    fetchPages: (migrationId, requests, options) => {
      const chunks = port.fetchPages(migrationId, requests, options);
      if (options.urgent) return chunks;
      return paced(chunks, ({ data }) => data.length, share, options.signal);
    },
    pullLayer: (migrationId, digest, options) =>
      paced(port.pullLayer(migrationId, digest, options), lengthOf, share, options.signal),
    pullState: (migrationId, what, options) => {
      const state = port.pullState(migrationId, what, options);
      return isUnhurried(what.kind) ? paced(state, lengthOf, share, options.signal) : state;
    },
    close: () => port.close(),
  };
}
