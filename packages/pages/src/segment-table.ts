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

/** Little-endian: hostPid and pid, then address, targetAddress and pages in two words each. */
const ENTRY_WORDS = 8;
const ENTRY_BYTES = 4 * ENTRY_WORDS;
const HOST_PID = 0;
const PID = 1;
const ADDRESS = 2;
const TARGET = 4;
const PAGES = 6;
const WORD = 2 ** 32;
/** Where the memory of a process ends (Documentation/arch/x86/x86_64/mm.rst). */
export const ADDRESS_END = 2 ** 47;
const PID_MAX = 0x7fffffff;

/** A list of segments in 32 bytes each, as a process of many gigabytes can have very many. */
export class SegmentTable {
  readonly #words: Uint32Array;
  readonly count: number;
  readonly totalPages: number;

  private constructor(words: Uint32Array) {
    this.#words = words;
    this.count = words.length / ENTRY_WORDS;
    let total = 0;
    for (let i = 0; i < this.count; i++) total += this.pages(i);
    this.totalPages = total;
  }

  static from(segments: Iterable<Segment>): SegmentTable {
    let words = new Uint32Array(64 * ENTRY_WORDS);
    let at = 0;
    for (const { hostPid, address, pid, targetAddress, pages } of segments) {
      if (at === words.length) words = grown(words);
      words[at + HOST_PID] = hostPid;
      words[at + PID] = pid;
      put(words, at + ADDRESS, Number(address));
      put(words, at + TARGET, Number(targetAddress));
      put(words, at + PAGES, pages);
      at += ENTRY_WORDS;
    }
    return SegmentTable.#checked(words.subarray(0, at));
  }

  /** @throws FerryError pages.invalid when the bytes, which may come from a peer, are not a sane list */
  static decode(bytes: Buffer): SegmentTable {
    if (bytes.length % ENTRY_BYTES !== 0) {
      throw new FerryError('pages.invalid', `A segment list of ${bytes.length} bytes is not valid`);
    }
    const aligned = bytes.byteOffset % 4 === 0 ? bytes : Uint8Array.from(bytes);
    const { buffer, byteOffset, length } = aligned;
    return SegmentTable.#checked(new Uint32Array(buffer, byteOffset, length / 4));
  }

  static #checked(words: Uint32Array): SegmentTable {
    if (words.length / ENTRY_WORDS > pageLimits.segments) {
      throw new FerryError('pages.invalid', 'A segment list has too many entries');
    }
    for (let at = 0; at < words.length; at += ENTRY_WORDS) checkEntry(words, at);
    return new SegmentTable(words);
  }

  /** The segments of both, in this order. */
  followedBy(other: SegmentTable): SegmentTable {
    if (other.count === 0) return this;
    if (this.count === 0) return other;
    const words = new Uint32Array(this.#words.length + other.#words.length);
    words.set(this.#words);
    words.set(other.#words, this.#words.length);
    return SegmentTable.#checked(words);
  }

  /** For another process or host; `decode` takes it. */
  encode(): Buffer {
    const { buffer, byteOffset, byteLength } = this.#words;
    return Buffer.from(buffer, byteOffset, byteLength);
  }

  get totalBytes(): number {
    return this.totalPages * PAGE_SIZE;
  }

  /** The first `count` segments, and the others. */
  split(count: number): [SegmentTable, SegmentTable] {
    const at = Math.min(Math.max(count, 0), this.count) * ENTRY_WORDS;
    return [
      new SegmentTable(this.#words.subarray(0, at)),
      new SegmentTable(this.#words.subarray(at)),
    ];
  }

  /** Without some of its pages.
   *  @param isLeftOut  by their place among all pages of the table */
  without(isLeftOut: (place: number) => boolean): SegmentTable {
    const words = this.#words;
    let left = new Uint32Array(words.length);
    let end = 0;
    let place = 0;
    for (let at = 0; at < words.length; at += ENTRY_WORDS) {
      const pages = numberAt(words, at + PAGES);
      for (let page = 0, run = 0; page < pages; page += 1, place += 1) {
        if (isLeftOut(place)) {
          run = 0;
          continue;
        }
        if (run === 0) {
          if (end === left.length) left = grown(left);
          left[end + HOST_PID] = words[at + HOST_PID]!;
          left[end + PID] = words[at + PID]!;
          put(left, end + ADDRESS, numberAt(words, at + ADDRESS) + page * PAGE_SIZE);
          put(left, end + TARGET, numberAt(words, at + TARGET) + page * PAGE_SIZE);
          end += ENTRY_WORDS;
        }
        run += 1;
        put(left, end - ENTRY_WORDS + PAGES, run);
      }
    }
    return SegmentTable.#checked(left.subarray(0, end));
  }

  /** Processes, as numbered in the container, that segments are written into. */
  targets(): Set<number> {
    const pids = new Set<number>();
    for (let i = 0; i < this.count; i++) pids.add(this.targetPid(i));
    return pids;
  }

  targetPid(index: number): number {
    return this.#words[index * ENTRY_WORDS + PID]!;
  }

  targetAddress(index: number): number {
    return numberAt(this.#words, index * ENTRY_WORDS + TARGET);
  }

  pages(index: number): number {
    return numberAt(this.#words, index * ENTRY_WORDS + PAGES);
  }

  /** The pages from `firstPage` of segment `index` on, where they are read. */
  sourceRun(index: number, firstPage: number, pages: number): ProcessPages {
    const at = index * ENTRY_WORDS;
    const address = numberAt(this.#words, at + ADDRESS) + firstPage * PAGE_SIZE;
    return { hostPid: this.#words[at + HOST_PID]!, address, pages };
  }

  /** The same where they are written; `hostPid` is the number in the container. */
  targetRun(index: number, firstPage: number, pages: number): ProcessPages {
    const address = this.targetAddress(index) + firstPage * PAGE_SIZE;
    return { hostPid: this.targetPid(index), address, pages };
  }
}

function grown(words: Uint32Array): Uint32Array<ArrayBuffer> {
  const more = new Uint32Array(2 * words.length);
  more.set(words);
  return more;
}

function numberAt(words: Uint32Array, at: number): number {
  return words[at]! + words[at + 1]! * WORD;
}

function put(words: Uint32Array, at: number, value: number): void {
  words[at] = value;
  words[at + 1] = value / WORD;
}

function checkEntry(words: Uint32Array, at: number): void {
  const pages = numberAt(words, at + PAGES);
  const pid = words[at + PID]!;
  const isSane =
    pages > 0 &&
    pid > 0 &&
    pid <= PID_MAX &&
    fits(words, at + ADDRESS, pages) &&
    fits(words, at + TARGET, pages);
  if (!isSane) {
    throw new FerryError('pages.invalid', `Segment ${at / ENTRY_WORDS} of a list is not valid`);
  }
}

function fits(words: Uint32Array, at: number, pages: number): boolean {
  const start = numberAt(words, at);
  return words[at]! % PAGE_SIZE === 0 && start + pages * PAGE_SIZE <= ADDRESS_END;
}
