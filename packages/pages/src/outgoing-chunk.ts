import { PAGE_SIZE, type ProcessPages, readPages } from '@ferry/linux';
import { pageLimits } from './limits.js';
import { CHUNK_HEADROOM, framePageChunk, type PageHead } from './page-chunk.js';
import { SparePool } from './spare-pool.js';

/** Two buffers with room for a message's head before the data. */
export interface Slot {
  readonly raw: Buffer;
  readonly packed: Buffer;
}

export const spareSlots = new SparePool<Slot>(() => {
  const size = CHUNK_HEADROOM + pageLimits.chunkPages * PAGE_SIZE;
  return { raw: Buffer.allocUnsafeSlow(size), packed: Buffer.allocUnsafeSlow(size) };
});

/** A chunk in a buffer of the reader's pool. Its bytes hold until `release`. */
export class OutgoingChunk {
  readonly head: PageHead;
  readonly #space: Buffer;
  readonly length: number;
  readonly #release: () => void;
  #released = false;

  constructor(
    head: PageHead,
    body: { readonly space: Buffer; readonly length: number },
    release: () => void,
  ) {
    this.head = head;
    this.#space = body.space;
    this.length = body.length;
    this.#release = release;
  }

  /** The protobuf message, in place. */
  message(): Buffer {
    return framePageChunk(this.head, this.#space, this.length);
  }

  /** The buffer may be used again. Repeatable. */
  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#release();
  }
}

/** A chunk's head, and the slot's buffer that its data is in. */
export interface PackedPages {
  readonly head: PageHead;
  readonly body: { readonly space: Buffer; readonly length: number };
}

/** Reads and compresses pages into a slot.
 *  @throws SysError as readPages */
export async function packPages(
  slot: Slot,
  runs: readonly ProcessPages[],
  place: Pick<PageHead, 'segment' | 'firstPage' | 'pages'>,
  options: Parameters<typeof readPages>[3] = {},
): Promise<PackedPages> {
  const bytes = place.pages * PAGE_SIZE;
  // Not worth packing for less than a sixteenth.
  const room = bytes - bytes / 16;
  const raw = slot.raw.subarray(CHUNK_HEADROOM, CHUNK_HEADROOM + bytes);
  const packed = slot.packed.subarray(CHUNK_HEADROOM, CHUNK_HEADROOM + room);
  const { encoding, length, hash } = await readPages(runs, raw, packed, options);
  const head = { ...place, encoding, hash };
  return { head, body: { space: encoding === 'lz4' ? slot.packed : slot.raw, length } };
}
