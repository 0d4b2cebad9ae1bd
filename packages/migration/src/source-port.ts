import type { DestinationMessage, SourceMessage } from '@ferry/api';
import type { PageChunk } from '@ferry/pages';

/** See PullStateRequest. */
export interface StateRequest {
  readonly kind: 'upper' | 'upper-changed' | 'mounts' | 'log';
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
  /** @param credits  bytes that may be under way: first the window, then what was written */
  pullPages(
    migrationId: string,
    credits: AsyncIterable<number>,
    options: Options,
  ): AsyncIterable<PageChunk>;
  pullLayer(migrationId: string, digest: string, options: Options): AsyncIterable<Buffer>;
  pullState(migrationId: string, what: StateRequest, options: Options): AsyncIterable<Buffer>;
  close(): void;
}
