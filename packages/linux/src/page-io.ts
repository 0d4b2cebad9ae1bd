import { FerryError } from '@ferry/core';
import { native, type PageWork } from './native.js';
import { sysError } from './sys.js';

export const PAGE_SIZE = 4096;
/** struct page_run of native/pages.c: three 64-bit fields. */
const RUN_WORDS = 6;
const WORD = 2 ** 32;

/** Consecutive pages of one process. */
export interface ProcessPages {
  /** In our PID namespace. */
  readonly hostPid: number;
  /** Below 2^47: exact as a number, and there are too many of them for bigints. */
  readonly address: number;
  readonly pages: number;
}

/** How a batch of pages travels. */
export type PageEncoding = 'raw' | 'lz4';

export interface ReadBatch {
  readonly encoding: PageEncoding;
  /** Bytes of the payload: at the start of `packed` for lz4, of `raw` for raw. */
  readonly length: number;
  /** XXH64 of the uncompressed pages. */
  readonly hash: bigint;
}

/** Bytes of a page's own hash, and of the key. */
export const PAGE_HASH_BYTES = 16;

/** Wanted of pages that are read: SipHash-2-4 with 128 bits, under a key. */
export interface PageHashes {
  readonly key: Buffer;
  /** Room for PAGE_HASH_BYTES a page, in the order of the runs. */
  readonly into: Buffer;
  /** Of which pages, by their place among all of the runs; undefined: of all. */
  readonly places?: Uint32Array;
}

const NOTHING = Buffer.alloc(0);
const NO_HASHES: PageHashes = { key: NOTHING, into: NOTHING };

/** Packs runs for one native call. */
export function packRuns(runs: readonly ProcessPages[]): Buffer {
  const words = new Uint32Array(runs.length * RUN_WORDS);
  let at = 0;
  for (const { hostPid, address, pages } of runs) {
    words[at] = hostPid;
    words[at + 2] = address;
    words[at + 3] = address / WORD;
    words[at + 4] = pages;
    words[at + 5] = pages / WORD;
    at += RUN_WORDS;
  }
  return Buffer.from(words.buffer);
}

/** Reads pages of processes (running or stopped) and compresses them, on a thread of the pool.
 *  @param raw  scratch of at least the pages' size; holds the result when it did not compress into `packed`
 *  @param packed  where the compressed pages go; less room than their size makes the raw form the fallback
 *  @param options  `acceleration` of LZ4_compress_fast: 1 packs best, larger is faster; `lenient`: pages and processes
 *    that are not there count as zeros; `hashes` of the pages as they were read
 *  @throws SysError ESRCH when a process is gone, EFAULT when a page is not there */
export async function readPages(
  runs: readonly ProcessPages[],
  raw: Buffer,
  packed: Buffer,
  options: {
    readonly acceleration?: number;
    readonly lenient?: boolean;
    readonly hashes?: PageHashes | undefined;
  } = {},
): Promise<ReadBatch> {
  const { acceleration = 1, lenient = false, hashes = NO_HASHES } = options;
  const { key, into, places } = hashes;
  const hashed = places === undefined ? NOTHING : bytesOf(places);
  const how = [acceleration, lenient ? 1 : 0] as const;
  const work = await native.readPages(packRuns(runs), raw, packed, ...how, into, key, hashed);
  if (work.status !== 0) throw failure('process_vm_readv', runs, work);
  return { encoding: work.encoding === 1 ? 'lz4' : 'raw', length: work.length, hash: work.hash };
}

function bytesOf({ buffer, byteOffset, byteLength }: Uint32Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}

/** Unpacks `payload`, checks the hash of the pages, then writes them into the processes, on a thread of the pool.
 *  Hostile payloads are safe: sizes are bounded by `runs`, and nothing is written unless the hash is right.
 *  @param scratch  at least the pages' size
 *  @throws FerryError pages.damaged; SysError as readPages */
export async function writePages(
  runs: readonly ProcessPages[],
  payload: Buffer,
  scratch: Buffer,
  batch: { readonly encoding: PageEncoding; readonly hash: bigint },
): Promise<void> {
  const encoding = batch.encoding === 'lz4' ? 1 : 0;
  const work = await native.writePages(packRuns(runs), payload, scratch, encoding, batch.hash);
  if (work.status === 1) {
    throw new FerryError('pages.damaged', 'A batch of pages was damaged on its way', {
      remedy: 'try again; if it happens again, check the network and the memory of both hosts',
    });
  }
  if (work.status !== 0) throw failure('process_vm_writev', runs, work);
}

function failure(syscall: string, runs: readonly ProcessPages[], work: PageWork): Error {
  const run = runs[work.failedRun];
  const where = `page ${work.failedAddress.toString(16)} of process ${run?.hostPid}`;
  return sysError(syscall, work.errno, where);
}
