const PAGE_BITS = 12n;
const BLOCK_PAGES = 512;
const WORDS = BLOCK_PAGES / 32;
const FULL = 0xffffffff;

/** Consecutive pages. */
export interface PageRange {
  readonly start: bigint;
  readonly end: bigint;
}

/** A set of pages of one address space, one bit each: 64 bytes for the 2 MiB around any page that is in it. */
export class PageSet {
  readonly #blocks = new Map<number, Uint32Array>();

  add(range: PageRange): void {
    this.#put(range, true);
  }

  remove(range: PageRange): void {
    for (const part of this.within(range)) this.#put(part, false);
  }

  #put({ start, end }: PageRange, isIn: boolean): void {
    const last = Number(end >> PAGE_BITS);
    for (let page = Number(start >> PAGE_BITS); page < last; ) {
      const block = Math.floor(page / BLOCK_PAGES);
      const from = page - block * BLOCK_PAGES;
      const to = Math.min(BLOCK_PAGES, from + last - page);
      fill(this.#block(block), from, to, isIn);
      page += to - from;
    }
  }

  /** The members among [start, end), as ascending runs. */
  within({ start, end }: PageRange): PageRange[] {
    const runs: { start: bigint; end: bigint }[] = [];
    const first = Number(start >> PAGE_BITS);
    const last = Number(end >> PAGE_BITS);
    for (const block of this.#blocksBetween(first, last)) {
      const words = this.#blocks.get(block)!;
      const base = block * BLOCK_PAGES;
      const to = Math.min(BLOCK_PAGES, last - base);
      for (let at = Math.max(0, first - base); at < to; ) {
        const from = seek(words, at, to, 0);
        if (from === to) break;
        at = seek(words, from, to, FULL);
        const run = {
          start: BigInt(base + from) << PAGE_BITS,
          end: BigInt(base + at) << PAGE_BITS,
        };
        const previous = runs.at(-1);
        if (previous?.end === run.start) previous.end = run.end;
        else runs.push(run);
      }
    }
    return runs;
  }

  /** All members, as ascending runs. */
  all(): PageRange[] {
    return this.within({ start: 0n, end: 1n << 57n });
  }

  /** Blocks in use; a range may be much larger than what is in it. */
  #blocksBetween(first: number, last: number): number[] {
    const from = Math.floor(first / BLOCK_PAGES);
    const to = Math.floor((last - 1) / BLOCK_PAGES);
    const found: number[] = [];
    if (to - from < this.#blocks.size) {
      for (let block = from; block <= to; block++) if (this.#blocks.has(block)) found.push(block);
      return found;
    }
    for (const block of this.#blocks.keys()) if (block >= from && block <= to) found.push(block);
    return found.sort((a, b) => a - b);
  }

  #block(number: number): Uint32Array {
    let block = this.#blocks.get(number);
    if (block === undefined) {
      block = new Uint32Array(WORDS);
      this.#blocks.set(number, block);
    }
    return block;
  }
}

function fill(words: Uint32Array, from: number, to: number, isIn: boolean): void {
  for (let at = from; at < to; ) {
    if (at % 32 === 0 && to - at >= 32) {
      words[at >> 5] = isIn ? FULL : 0;
      at += 32;
    } else {
      if (isIn) words[at >> 5]! |= 1 << (at & 31);
      else words[at >> 5]! &= ~(1 << (at & 31));
      at += 1;
    }
  }
}

/** The first page from `at` on whose bit is not as in `skip` (all 0 or all 1); `to` when there is none. */
function seek(words: Uint32Array, from: number, to: number, skip: number): number {
  for (let at = from; at < to; ) {
    const word = words[at >> 5]! >>> 0;
    if (at % 32 === 0 && word === skip) {
      at += 32;
      continue;
    }
    if ((((word >>> (at & 31)) & 1) === 1) !== (skip === FULL)) return at;
    at += 1;
  }
  return to;
}
