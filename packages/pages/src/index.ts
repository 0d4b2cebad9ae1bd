export { Credits } from './credits.js';
export { pageLimits } from './limits.js';
export { OutgoingChunk } from './outgoing-chunk.js';
export { answerPages } from './page-answers.js';
export { CHUNK_HEADROOM, decodePageChunk, encodePageChunk, type PageChunk } from './page-chunk.js';
export { type PageCounters, PageReader } from './page-reader.js';
export { PageWriter } from './page-writer.js';
export { Pager } from './pager.js';
export type {
  CameIn,
  PagerFigures,
  PagerRange,
  PagerSpace,
  WantedPages,
} from './pager-messages.js';
export { type Segment, SegmentTable } from './segment-table.js';
export { SentPages } from './sent-pages.js';
