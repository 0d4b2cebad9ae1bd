import type { DestinationMessage, SourceMessage } from '@ferry/api';
import type { PageChunk, WantedPages } from '@ferry/pages';

export type FilesKind =
  | 'upper'
  | 'upper-changes'
  | 'upper-rest'
  | 'mounts'
  | 'mounts-copy'
  | 'mounts-changes'
  | 'mounts-rest';

/** See PullStateRequest. */
export interface StateRequest {
  readonly kind: FilesKind | 'log' | 'log-rest';
  readonly from?: number;
}

interface Options {
  readonly signal: AbortSignal;
}

/** The source's agent, as a destination sees it. Streams throw FerryErrors. */
export interface SourcePort {
  session(
    messages: AsyncIterable<DestinationMessage>,
    options: Options,
  ): AsyncIterable<SourceMessage>;
  /** @param round  whose pages; 0: those of the frozen container
   *  @param credits  bytes that may be under way: first the window, then what was written */
  pullPages(
    migrationId: string,
    round: number,
    credits: AsyncIterable<number>,
    options: Options,
  ): AsyncIterable<PageChunk>;
  /** Memory of the frozen container: each request gets one chunk, in order.
   *  @param options.urgent  threads wait for it */
  fetchPages(
    migrationId: string,
    requests: AsyncIterable<WantedPages>,
    options: Options & { readonly urgent: boolean },
  ): AsyncIterable<PageChunk>;
  pullLayer(migrationId: string, digest: string, options: Options): AsyncIterable<Buffer>;
  pullState(migrationId: string, what: StateRequest, options: Options): AsyncIterable<Buffer>;
  close(): void;
}
