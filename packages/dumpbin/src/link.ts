import { randomBytes } from 'node:crypto';
import { FerryError } from '@ferry/core';
import { hash64 } from '@ferry/linux';
import { CHUNK, FLAG, HEADER_SIZE, PAGE, PLAN_MAGIC, PLAN_VERSION } from './layout.js';
import type { DataRef, ProgramBuilder } from './program.js';
import type { Restorer } from './restorer.js';

/** What a linked program needs to know besides its operations. */
export interface LinkOptions {
  readonly restorer: Restorer;
  readonly region: bigint;
  /** Whole length of the region: at least `regionLengthOf` of every program of the tree. */
  readonly regionLength: number;
  readonly pid: number;
  readonly flags: number;
  readonly serviceBase: number;
  /** Random; the same for all programs of one dump. */
  readonly identity: bigint;
  readonly info?: { at: DataRef; length: number };
  readonly children?: { at: DataRef; count: number };
  /** struct plan_namespaces, with its texts. */
  readonly namespaces?: DataRef;
  /** Page contents that follow the image in the file. */
  readonly pages?: { length: number; chunkHashes: DataRef };
}

/** A program with its addresses settled. */
export interface LinkedProgram {
  /** Header, operations and data: what stands behind the blob. */
  readonly image: Buffer;
  readonly dataAddress: bigint;
  /** Offset of the data area in `image`. */
  readonly dataOffset: number;
  /** Blob and image. */
  readonly imageLength: number;
}

export function newIdentity(): bigint {
  return randomBytes(8).readBigUInt64LE(0);
}

function align(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}

/** Room that a program needs at run time: blob, image, zeroed memory and the shared page, in bytes. */
export function regionLengthOf(program: ProgramBuilder, restorer: Restorer): number {
  const { ops, data, zeroed } = program.sizes;
  const image = restorer.blob.length + align(HEADER_SIZE + ops, 64) + data;
  return align(image + zeroed, PAGE) + PAGE;
}

/** Where a program's data area stands. */
export function dataAddressOf(program: ProgramBuilder, restorer: Restorer, region: bigint): bigint {
  const offset = restorer.blob.length + align(HEADER_SIZE + program.sizes.ops, 64);
  return region + BigInt(offset);
}

/** Settles addresses and lays out header, operations and data. Hashes are filled in by `sealHeader`. */
export function linkProgram(program: ProgramBuilder, options: LinkOptions): LinkedProgram {
  const { restorer, region } = options;
  if (regionLengthOf(program, restorer) > options.regionLength) {
    throw new FerryError(
      'dumpbin.region',
      `The program of process ${options.pid} outgrew its region`,
    );
  }
  const opsOffset = restorer.blob.length + HEADER_SIZE;
  const dataAddress = dataAddressOf(program, restorer, region);
  const dataOffset = Number(dataAddress - region) - restorer.blob.length;
  const imageLength = restorer.blob.length + dataOffset + program.sizes.data;
  const { ops, data } = program.link({
    dataAddress,
    region,
    regionLength: options.regionLength,
    pagesOffset: pagesOffsetOf(imageLength),
  });
  const image = Buffer.alloc(dataOffset + data.length);
  ops.copy(image, HEADER_SIZE);
  data.copy(image, dataOffset);
  const at = (ref: DataRef | undefined): bigint =>
    ref === undefined ? region : program.resolve(ref, dataAddress);
  const pagesLength = options.pages?.length ?? 0;
  const words: [number, bigint][] = [
    [0, PLAN_MAGIC],
    [32, hash64(restorer.blob)],
    [40, hash64(ops)],
    [56, BigInt(restorer.blob.length)],
    [64, region],
    [72, BigInt(options.regionLength)],
    [80, BigInt(opsOffset)],
    [88, BigInt(restorer.blob.length + dataOffset)],
    [96, BigInt(imageLength)],
    [104, BigInt(ops.length / 72)],
    [112, BigInt(pagesOffsetOf(imageLength))],
    [120, BigInt(pagesLength)],
    [128, at(options.pages?.chunkHashes)],
    [136, BigInt(Math.ceil(pagesLength / CHUNK))],
    [144, at(options.info?.at)],
    [152, BigInt(options.info?.length ?? 0)],
    [160, at(options.children?.at)],
    [168, BigInt(options.children?.count ?? 0)],
    [184, options.identity],
    [192, options.namespaces === undefined ? 0n : at(options.namespaces)],
  ];
  for (const [offset, word] of words) image.writeBigUInt64LE(word, offset);
  image.writeUInt32LE(PLAN_VERSION, 8);
  image.writeUInt32LE(options.flags, 12);
  image.writeUInt32LE(options.pid, 176);
  image.writeUInt32LE(options.serviceBase, 180);
  return { image, dataAddress, dataOffset, imageLength };
}

/** Where page contents start in a dump file whose blob and image take `imageLength` bytes. */
export function pagesOffsetOf(imageLength: number): number {
  return PAGE + align(imageLength, PAGE);
}

/** Fills in the hashes of data and header, after the last change of the data area; returns the header's hash. */
export function sealHeader(linked: LinkedProgram, elfHeader: Buffer): bigint {
  const { image, dataOffset } = linked;
  image.writeBigUInt64LE(hash64(elfHeader), 24);
  image.writeBigUInt64LE(hash64(image.subarray(dataOffset)), 48);
  image.writeBigUInt64LE(0n, 16);
  const hash = hash64(image.subarray(0, HEADER_SIZE));
  image.writeBigUInt64LE(hash, 16);
  return hash;
}

/** The first page of a dump file: an ELF64 executable with one segment that holds blob and image at `address`. */
export function elfHeader(address: bigint, imageLength: number): Buffer {
  const page = Buffer.alloc(PAGE);
  page.write('\x7fELF\x02\x01\x01', 0, 'latin1');
  page.writeUInt16LE(2, 16); // ET_EXEC
  page.writeUInt16LE(62, 18); // EM_X86_64
  page.writeUInt32LE(1, 20);
  page.writeBigUInt64LE(address, 24); // entry
  page.writeBigUInt64LE(64n, 32); // program headers
  page.writeUInt16LE(64, 52);
  page.writeUInt16LE(56, 54);
  page.writeUInt16LE(2, 56);
  writeProgramHeader(page, 64, { type: 1, flags: 7, offset: PAGE, address, length: imageLength });
  // PT_GNU_STACK without the execute flag: no READ_IMPLIES_EXEC personality (binfmt_elf).
  writeProgramHeader(page, 120, { type: 0x6474e551, flags: 6, offset: 0, address: 0n, length: 0 });
  return page;
}

function writeProgramHeader(
  page: Buffer,
  at: number,
  header: { type: number; flags: number; offset: number; address: bigint; length: number },
): void {
  page.writeUInt32LE(header.type, at);
  page.writeUInt32LE(header.flags, at + 4);
  page.writeBigUInt64LE(BigInt(header.offset), at + 8);
  page.writeBigUInt64LE(header.address, at + 16);
  page.writeBigUInt64LE(header.address, at + 24);
  page.writeBigUInt64LE(BigInt(header.length), at + 32);
  page.writeBigUInt64LE(BigInt(header.length), at + 40);
  page.writeBigUInt64LE(BigInt(PAGE), at + 48);
}

/** An executable with the restorer but no program: the loader of a container restore (plan.h: PLAN_LOADER). */
export function loaderFile(restorer: Restorer): Buffer {
  const address = 0x100000000n;
  const header = Buffer.alloc(PAGE);
  header.writeBigUInt64LE(PLAN_MAGIC, 0);
  header.writeUInt32LE(PLAN_VERSION, 8);
  header.writeUInt32LE(FLAG.loader, 12);
  header.writeBigUInt64LE(BigInt(restorer.blob.length), 56);
  const length = restorer.blob.length + PAGE;
  return Buffer.concat([elfHeader(address, length), restorer.blob, header]);
}
