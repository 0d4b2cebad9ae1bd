import { createHash } from 'node:crypto';
import { FerryError } from '@ferry/core';

/** Reads a stream of chunks by exact lengths, and hashes what was read. */
export class ByteReader {
  readonly #source: AsyncIterator<Buffer>;
  #chunk: Buffer = Buffer.alloc(0);
  #hash = createHash('sha256');

  constructor(source: AsyncIterable<Buffer>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** Exactly `length` bytes; a view, valid until the next read.
   *  @throws FerryError container.archive when the stream ends before */
  async read(length: number): Promise<Buffer> {
    const first = await this.readSome(length);
    if (first.length === length) return first;
    const whole = Buffer.allocUnsafe(length);
    let done = first.copy(whole);
    while (done < length) done += (await this.readSome(length - done)).copy(whole, done);
    return whole;
  }

  /** Between 1 and `max` bytes (none for 0). */
  async readSome(max: number): Promise<Buffer> {
    if (max === 0) return Buffer.alloc(0);
    while (this.#chunk.length === 0) {
      if (!(await this.#pull())) {
        throw new FerryError('container.archive', 'The archive ends in the middle of a record');
      }
    }
    const part = this.#chunk.subarray(0, max);
    this.#chunk = this.#chunk.subarray(part.length);
    this.#hash.update(part);
    return part;
  }

  async u8(): Promise<number> {
    return (await this.read(1)).readUInt8();
  }

  async u16(): Promise<number> {
    return (await this.read(2)).readUInt16LE();
  }

  async u32(): Promise<number> {
    return (await this.read(4)).readUInt32LE();
  }

  async u64(): Promise<bigint> {
    return (await this.read(8)).readBigUInt64LE();
  }

  /** sha256, in hex, of all that was read since the start or the last `restartHash`. */
  digest(): string {
    return this.#hash.copy().digest('hex');
  }

  restartHash(): void {
    this.#hash = createHash('sha256');
  }

  /** True when the stream has ended and all of it was read. */
  async atEnd(): Promise<boolean> {
    while (this.#chunk.length === 0) if (!(await this.#pull())) return true;
    return false;
  }

  /** Tells the source that no more is wanted. */
  async close(): Promise<void> {
    await this.#source.return?.();
  }

  async #pull(): Promise<boolean> {
    const next = await this.#source.next();
    if (next.done) return false;
    this.#chunk = next.value;
    return true;
  }
}
