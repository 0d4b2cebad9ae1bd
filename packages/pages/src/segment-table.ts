import { FerryError } from '@ferry/core';
import { PAGE_SIZE, type ProcessPages } from '@ferry/linux';
import { pageLimits } from './limits.js';

/** Consecutive pages whose content moves. */
export interface Segment {
  /** The process to read them from, in our PID namespace; 0 where that is not known (at the destination). */
  readonly hostPid: number;
  readonly address: bigint;
  /** The process to write them into, as numbered in the container, and where. */
  readonly pid: number;
  readonly targetAddress: bigint;
  readonly pages: number;
}

const ENTRY_BYTES = 32;

/** A list of segments in 32 bytes each, as a process of many gigabytes can have very many. */
export class SegmentTable {
  readonly #bytes: Buffer;
  readonly count: number;
  readonly totalPages: number;

  private constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.count = bytes.length / ENTRY_BYTES;
    let total = 0;
    for (let i = 0; i < this.count; i++) total += this.pages(i);
    this.totalPages = total;
  }

  static from(segments: Iterable<Segment>): SegmentTable {
    let bytes = Buffer.alloc(64 * ENTRY_BYTES);
    let at = 0;
    for (const segment of segments) {
      if (at === bytes.length) bytes = Buffer.concat([bytes, Buffer.alloc(bytes.length)]);
      bytes.writeUInt32LE(segment.hostPid, at);
      bytes.writeUInt32LE(segment.pid, at + 4);
      bytes.writeBigUInt64LE(segment.address, at + 8);
      bytes.writeBigUInt64LE(segment.targetAddress, at + 16);
      bytes.writeBigUInt64LE(BigInt(segment.pages), at + 24);
      at += ENTRY_BYTES;
    }
    return SegmentTable.decode(bytes.subarray(0, at));
  }

  /** @throws FerryError pages.invalid when the bytes, which may come from a peer, are not a sane list */
  static decode(bytes: Buffer): SegmentTable {
    if (bytes.length % ENTRY_BYTES !== 0 || bytes.length / ENTRY_BYTES > pageLimits.segments) {
      throw new FerryError('pages.invalid', `A segment list of ${bytes.length} bytes is not valid`);
    }
    for (let at = 0; at < bytes.length; at += ENTRY_BYTES) checkEntry(bytes, at);
    return new SegmentTable(bytes);
  }

  /** For another process or host; `decode` takes it. */
  encode(): Buffer {
    return this.#bytes;
  }

  get totalBytes(): number {
    return this.totalPages * PAGE_SIZE;
  }

  /** The first `count` segments, and the others. */
  split(count: number): [SegmentTable, SegmentTable] {
    const at = Math.min(Math.max(count, 0), this.count) * ENTRY_BYTES;
    return [
      new SegmentTable(this.#bytes.subarray(0, at)),
      new SegmentTable(this.#bytes.subarray(at)),
    ];
  }

  /** Processes, as numbered in the container, that segments are written into. */
  targets(): Set<number> {
    const pids = new Set<number>();
    for (let i = 0; i < this.count; i++) pids.add(this.#bytes.readUInt32LE(i * ENTRY_BYTES + 4));
    return pids;
  }

  pages(index: number): number {
    return Number(this.#bytes.readBigUInt64LE(index * ENTRY_BYTES + 24));
  }

  /** The pages from `firstPage` of segment `index` on, where they are read. */
  sourceRun(index: number, firstPage: number, pages: number): ProcessPages {
    const at = index * ENTRY_BYTES;
    const address = this.#bytes.readBigUInt64LE(at + 8) + BigInt(firstPage * PAGE_SIZE);
    return { hostPid: this.#bytes.readUInt32LE(at), address, pages };
  }

  /** The same where they are written; `hostPid` is the number in the container. */
  targetRun(index: number, firstPage: number, pages: number): ProcessPages {
    const at = index * ENTRY_BYTES;
    const address = this.#bytes.readBigUInt64LE(at + 16) + BigInt(firstPage * PAGE_SIZE);
    return { hostPid: this.#bytes.readUInt32LE(at + 4), address, pages };
  }
}

function checkEntry(bytes: Buffer, at: number): void {
  const pages = bytes.readBigUInt64LE(at + 24);
  const size = pages * BigInt(PAGE_SIZE);
  const end = 1n << 47n;
  const starts = [bytes.readBigUInt64LE(at + 8), bytes.readBigUInt64LE(at + 16)];
  const sane = starts.every((start) => start % BigInt(PAGE_SIZE) === 0n && start + size <= end);
  const pid = bytes.readUInt32LE(at + 4);
  if (pages === 0n || pages > end / BigInt(PAGE_SIZE) || !sane || pid === 0 || pid > 0x7fffffff) {
    throw new FerryError('pages.invalid', `Segment ${at / ENTRY_BYTES} of a list is not valid`);
  }
}
