/** Bounds of the page path. Both sides hold to them; the receiver checks. */
export const pageLimits = {
  /** Pages of one chunk: 1 MiB. Smaller batches cost more calls than they save; larger ones gain nothing. */
  chunkPages: 256,
  /** Segments of one list: more than a 64 GiB process with every second page in use has in practice. */
  segments: 4_000_000,
  /** Chunks being read or written at once: one per core of a small host. */
  inFlight: 2,
  /** Bytes of chunks under way that the receiver has not yet written: what it grants at the start. */
  windowBytes: 32 * 1024 * 1024,
} as const;
