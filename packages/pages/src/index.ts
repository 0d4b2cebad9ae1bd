export { Credits } from './credits.js';
export { pageLimits } from './limits.js';
export { CHUNK_HEADROOM, decodePageChunk, encodePageChunk, type PageChunk } from './page-chunk.js';
export { OutgoingChunk, type PageCounters, PageReader } from './page-reader.js';
export { PageWriter } from './page-writer.js';
export { type Segment, SegmentTable } from './segment-table.js';
