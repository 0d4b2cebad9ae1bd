import { PAGE_HASH_BYTES } from '@ferry/linux';

const HASH_WORDS = PAGE_HASH_BYTES / 4;
const FIRST_ROOM = 1024;

/** Hashes of pages, by process and page number, in some 40 bytes each. */
export class PageHashStore {
  readonly #max: number;
  /** By PID, then by page number: the place among the hashes. */
  readonly #places = new Map<number, Map<number, number>>();
  #hashes = new Uint32Array(FIRST_ROOM * HASH_WORDS);
  #count = 0;

  /** @param max  of this many pages at most */
  constructor(max: number) {
    this.#max = max;
  }

  /** Pages that it knows. */
  get count(): number {
    return this.#count;
  }

  /** Remembers hash `index` of `hashes`. */
  set(pid: number, page: number, hashes: Uint32Array, index: number): void {
    let places = this.#places.get(pid);
    if (places === undefined) {
      places = new Map();
      this.#places.set(pid, places);
    }
    const place = places.get(page) ?? this.#add(places, page);
    if (place === undefined) return;
    for (let word = 0; word < HASH_WORDS; word += 1) {
      this.#hashes[place * HASH_WORDS + word] = hashes[index * HASH_WORDS + word]!;
    }
  }

  #add(places: Map<number, number>, page: number): number | undefined {
    if (this.#count === this.#max) return undefined;
    const place = this.#count;
    if ((place + 1) * HASH_WORDS > this.#hashes.length) {
      const more = new Uint32Array(2 * this.#hashes.length);
      more.set(this.#hashes);
      this.#hashes = more;
    }
    places.set(page, place);
    this.#count += 1;
    return place;
  }

  /** What `place` takes; undefined when nothing is known of that process. */
  placesOf(pid: number): ReadonlyMap<number, number> | undefined {
    return this.#places.get(pid);
  }

  /** Whether hash `index` of `hashes` is the one that is kept at `place`. */
  isSame(place: number, hashes: Uint32Array, index: number): boolean {
    for (let word = 0; word < HASH_WORDS; word += 1) {
      if (this.#hashes[place * HASH_WORDS + word] !== hashes[index * HASH_WORDS + word])
        return false;
    }
    return true;
  }
}

/** Hashes as words. */
export function hashWords(hashes: Buffer): Uint32Array {
  return new Uint32Array(hashes.buffer, hashes.byteOffset, hashes.length / 4);
}
