import type { KeyObject } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { FerryError } from '@ferry/core';
import { hash64 } from '@ferry/linux';
import { isSealed, SealedReader, SealedStream, SealedWriter } from './sealed-file.js';

/** A container's complete state in one file.
 *
 *      "FERRYCKP"  version (u32)  0 (u32)
 *      records: section (u32)  length (u32)  XXH64 of the data (u64)  data, at most 2 MiB
 *
 *  A section is the data of all its records, one after the other; sections come in the order of `sections`, and the
 *  file ends with the record `end`, whose data is how many records there are. Numbers are little-endian. The whole may be
 *  the content of a sealed file (sealed-file.ts). */
const MAGIC = 'FERRYCKP';
export const CHECKPOINT_VERSION = 2;
const HEAD_BYTES = 16;
const RECORD_HEAD_BYTES = 16;
const RECORD_BYTES_MAX = 2 << 20;

/** In file order. `layer` records are preceded by one `layerDigest` each; `programs` begins with the root's offset. */
export const sections = [
  'manifest',
  'loader',
  'layerDigest',
  'layer',
  'upper',
  'log',
  'mounts',
  'image',
  'segments',
  'programs',
  'pages',
  'end',
] as const;
export type Section = (typeof sections)[number];

export interface CheckpointRecord {
  readonly section: Section;
  readonly data: Buffer;
}

/** Writes a file from its start. What it wrote before a failure is the caller's to remove. */
export class CheckpointFileWriter {
  readonly #file: FileHandle;
  readonly #sealed: SealedWriter | undefined;
  #records = 0;
  #bytes = 0;

  private constructor(file: FileHandle, sealed: SealedWriter | undefined) {
    this.#file = file;
    this.#sealed = sealed;
  }

  /** @param sealFor  public half of the key that will open it; undefined: not encrypted */
  static async create(path: string, sealFor?: Buffer): Promise<CheckpointFileWriter> {
    const file = await open(path, 'wx', 0o600);
    const sealed = sealFor === undefined ? undefined : await SealedWriter.begin(file, sealFor);
    const writer = new CheckpointFileWriter(file, sealed);
    const head = Buffer.alloc(HEAD_BYTES);
    head.write(MAGIC, 'latin1');
    head.writeUInt32LE(CHECKPOINT_VERSION, 8);
    await writer.#put([head]);
    return writer;
  }

  get bytes(): number {
    return this.#sealed?.bytes ?? this.#bytes;
  }

  /** Appends data to a section, as one record. */
  async record(section: Section, data: Buffer): Promise<void> {
    const head = Buffer.alloc(RECORD_HEAD_BYTES);
    head.writeUInt32LE(sections.indexOf(section) + 1, 0);
    head.writeUInt32LE(data.length, 4);
    head.writeBigUInt64LE(hash64(data), 8);
    this.#records += 1;
    await this.#put([head, data]);
  }

  /** Appends data of any size, in as many records as it takes. */
  async all(section: Section, chunks: AsyncIterable<Buffer> | Iterable<Buffer>): Promise<void> {
    for await (const chunk of chunks) {
      for (let at = 0; at < chunk.length; at += RECORD_BYTES_MAX) {
        await this.record(section, chunk.subarray(at, at + RECORD_BYTES_MAX));
      }
    }
  }

  /** Ends the file and waits until it is on disk. */
  async finish(): Promise<void> {
    const count = Buffer.alloc(8);
    count.writeBigUInt64LE(BigInt(this.#records));
    await this.record('end', count);
    await this.#sealed?.finish();
    await this.#file.sync();
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  async #put(buffers: Buffer[]): Promise<void> {
    if (this.#sealed !== undefined) return await this.#sealed.write(...buffers);
    const length = buffers.reduce((sum, buffer) => sum + buffer.length, 0);
    const { bytesWritten } = await this.#file.writev(buffers);
    if (bytesWritten !== length) {
      // A short write means a full disk; the rest's failure says so.
      await this.#file.write(Buffer.concat(buffers), bytesWritten);
    }
    this.#bytes += length;
  }
}

/** Reads a file from its start, checking each record. The file may come from anywhere. */
export class CheckpointFileReader {
  readonly #file: FileHandle;
  readonly #path: string;
  #sealed: SealedStream | undefined;
  #at = HEAD_BYTES;
  #records = 0;
  #next: CheckpointRecord | undefined;

  private constructor(file: FileHandle, path: string) {
    this.#file = file;
    this.#path = path;
  }

  /** @param key  opens it, where it is encrypted
   *  @throws FerryError checkpoint.format, checkpoint.version, key.* */
  static async open(path: string, key?: KeyObject): Promise<CheckpointFileReader> {
    const file = await open(path, 'r');
    const reader = new CheckpointFileReader(file, path);
    try {
      let head = await reader.#read(HEAD_BYTES, 0);
      if (isSealed(head)) {
        reader.#sealed = new SealedStream(await SealedReader.open(file, key));
        head = await reader.#read(HEAD_BYTES, 0);
      }
      if (head.toString('latin1', 0, 8) !== MAGIC) {
        throw new FerryError('checkpoint.format', 'This is not a checkpoint of a container', {
          remedy: 'give a file that "ferry checkpoint" has written',
        });
      }
      const version = head.readUInt32LE(8);
      if (version !== CHECKPOINT_VERSION) {
        throw new FerryError(
          'checkpoint.version',
          `The checkpoint has format ${version}, this agent reads ${CHECKPOINT_VERSION}`,
          { remedy: 'restore it with the version of Ferry that wrote it' },
        );
      }
      return reader;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** The section of the next record. */
  async peek(): Promise<Section> {
    this.#next ??= await this.#record();
    return this.#next.section;
  }

  /** The records of `section` that come now; none when another section comes. */
  async *records(section: Section): AsyncGenerator<Buffer, void, undefined> {
    while ((await this.peek()) === section) {
      const { data } = this.#next!;
      this.#next = undefined;
      yield data;
    }
  }

  /** The whole of a small section.
   *  @throws FerryError checkpoint.damaged when it is larger than `bytesMax` */
  async whole(section: Section, bytesMax: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    let length = 0;
    for await (const data of this.records(section)) {
      parts.push(data);
      length += data.length;
      if (length > bytesMax) throw this.#damaged(`section ${section} is too large`);
    }
    return Buffer.concat(parts);
  }

  /** Reads to the end and checks that nothing is missing.
   *  @throws FerryError checkpoint.damaged */
  async finish(): Promise<void> {
    if ((await this.peek()) !== 'end') throw this.#damaged(`unexpected ${await this.peek()}`);
    const { data } = this.#next!;
    if (data.length !== 8 || data.readBigUInt64LE() !== BigInt(this.#records - 1)) {
      throw this.#damaged('records are missing');
    }
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  async #record(): Promise<CheckpointRecord> {
    const head = await this.#read(RECORD_HEAD_BYTES, this.#at);
    const section = sections[head.readUInt32LE(0) - 1];
    const length = head.readUInt32LE(4);
    if (section === undefined || length > RECORD_BYTES_MAX) throw this.#damaged('no record here');
    const data = await this.#read(length, this.#at + RECORD_HEAD_BYTES);
    if (hash64(data) !== head.readBigUInt64LE(8)) throw this.#damaged('a hash does not fit');
    this.#at += RECORD_HEAD_BYTES + length;
    this.#records += 1;
    return { section, data };
  }

  async #read(length: number, at: number): Promise<Buffer> {
    if (this.#sealed !== undefined) {
      const data = await this.#sealed.read(length);
      if (data.length < length) throw this.#damaged('it ends too early');
      return data;
    }
    const buffer = Buffer.allocUnsafe(length);
    for (let done = 0; done < length; ) {
      const { bytesRead } = await this.#file.read(buffer, done, length - done, at + done);
      if (bytesRead === 0) throw this.#damaged('it ends too early');
      done += bytesRead;
    }
    return buffer;
  }

  #damaged(how: string): FerryError {
    const at = `at byte ${this.#at} of ${this.#path}`;
    return new FerryError('checkpoint.damaged', `The checkpoint is damaged ${at}: ${how}`, {
      remedy: 'use another copy of the file',
    });
  }
}
