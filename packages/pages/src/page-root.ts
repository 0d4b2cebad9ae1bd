import { createHash, type Hash } from 'node:crypto';
import { FerryError } from '@ferry/core';
import type { PageHead } from './page-chunk.js';

const LEAF_BYTES = 24;
export const ROOT_BYTES = 32;

/** The root of a stream of pages: SHA-256 over every chunk's place and hash, in order. Both sides keep it; the sender's
 *  comes last, as a chunk of no pages. What each chunk's own hash cannot tell, such as a chunk of another stream at the
 *  same place, this one does. */
export class PageRoot {
  readonly #hash: Hash = createHash('sha256');
  readonly #leaf = Buffer.alloc(LEAF_BYTES);

  add({ segment, firstPage, pages, hash }: PageHead): void {
    const leaf = this.#leaf;
    leaf.writeUInt32LE(segment, 0);
    leaf.writeUInt32LE(pages, 4);
    leaf.writeBigUInt64LE(BigInt(firstPage), 8);
    leaf.writeBigUInt64LE(hash, 16);
    this.#hash.update(leaf);
  }

  /** Once, after the last chunk. */
  digest(): Buffer {
    return this.#hash.digest();
  }

  /** @throws FerryError pages.damaged when the sender's root is another one */
  mustBe(announced: Buffer): void {
    if (this.digest().equals(announced)) return;
    throw new FerryError('pages.damaged', 'The pages that came are not those that were sent', {
      remedy: 'try again; if it happens again, check the network and the memory of both hosts',
    });
  }
}
