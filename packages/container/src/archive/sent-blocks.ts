import { createHash } from 'node:crypto';
import type { TreeState } from './tree-state.js';

/** Content of files is remembered in blocks of this size; a block of zeros is known without a hash. */
export const BLOCK_BYTES = 64 * 1024;
export const ZEROS = Buffer.alloc(BLOCK_BYTES);
const DIGEST_BYTES = 16;
/** For 128 GiB. */
const HASH_BYTES_MAX = 32 << 20;
const NO_DIGEST = Buffer.alloc(DIGEST_BYTES);

/** What was sent of one file: of each block the first half of its sha256, or zeros for zeros. */
export class FileBlocks {
  readonly size: bigint;
  readonly #digests: Buffer;

  constructor(size: bigint) {
    this.size = size;
    this.#digests = Buffer.alloc(FileBlocks.bytesFor(size));
  }

  static bytesFor(size: bigint): number {
    return Number((size + BigInt(BLOCK_BYTES) - 1n) / BigInt(BLOCK_BYTES)) * DIGEST_BYTES;
  }

  get bytes(): number {
    return this.#digests.length;
  }

  /** Remembers a block, the last of a file perhaps a shorter one. */
  set(index: number, block: Buffer): void {
    const isEmpty = block.equals(ZEROS.subarray(0, block.length));
    const digest = isEmpty ? NO_DIGEST : createHash('sha256').update(block).digest();
    digest.copy(this.#digests, index * DIGEST_BYTES, 0, DIGEST_BYTES);
  }

  /** Whether another version of the file has the same there. What lies behind the end of a file reads as zeros once it has
   *  grown. */
  equals(index: number, other: FileBlocks): boolean {
    return this.#at(index).equals(other.#at(index));
  }

  #at(index: number): Buffer {
    const at = index * DIGEST_BYTES;
    return at < this.#digests.length ? this.#digests.subarray(at, at + DIGEST_BYTES) : NO_DIGEST;
  }
}

/** What was sent of the files of one file system, by inode. A file of which too much would have to be remembered is not. */
export class SentBlocks {
  readonly #files = new Map<bigint, FileBlocks>();
  readonly #bytesMax: number;
  #bytes = 0;

  /** @param bytesMax  of hashes */
  constructor(bytesMax = HASH_BYTES_MAX) {
    this.#bytesMax = bytesMax;
  }

  get(inode: bigint): FileBlocks | undefined {
    return this.#files.get(inode);
  }

  /** To be filled while the file is sent, in place of what was known of it. */
  begin(inode: bigint, size: bigint): FileBlocks | undefined {
    this.forget(inode);
    if (this.#bytes + FileBlocks.bytesFor(size) > this.#bytesMax) return undefined;
    const blocks = new FileBlocks(size);
    this.#files.set(inode, blocks);
    this.#bytes += blocks.bytes;
    return blocks;
  }

  forget(inode: bigint): void {
    this.#bytes -= this.#files.get(inode)?.bytes ?? 0;
    this.#files.delete(inode);
  }

  /** Forgets the files that are gone. */
  keepOnly(state: TreeState): void {
    const there = new Set([...state.values()].map(({ inode }) => inode));
    for (const inode of this.#files.keys()) if (!there.has(inode)) this.forget(inode);
  }
}
