import { closeSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { hash64 } from '@ferry/linux';
import type { CompiledTree } from './compile.js';
import type { CompiledDump } from './draft.js';
import { CHUNK, PAGE } from './layout.js';
import { sealHeader } from './link.js';
import type { PageRead } from './memory-steps.js';
import type { Restorer } from './restorer.js';

/** Reads `into.length` bytes of a run of pages, `offset` bytes into it. */
export type PageReader = (pid: number, read: PageRead, offset: number, into: Buffer) => void;

export interface WriteProgress {
  readonly bytesDone: number;
  readonly bytesTotal: number;
}

/** Writes `PID.dump` for every process of a compiled tree into `folder`. Blocks; reads each page once.
 *  @returns bytes written */
export function writeDumpFiles(
  folder: string,
  tree: CompiledTree,
  options: {
    restorer: Restorer;
    readPages: PageReader;
    progress?: (progress: WriteProgress) => void;
  },
): number {
  const bytesTotal = tree.dumps.reduce((sum, dump) => sum + dump.pagesLength, 0);
  const hashes = new Map<number, bigint>();
  let bytesDone = 0;
  let written = 0;
  for (const dump of tree.dumps) {
    const fd = openSync(join(folder, `${dump.pid}.dump`), 'wx', 0o700);
    try {
      let at = dump.pagesOffset;
      let index = 0;
      for (const chunk of pageChunks(dump, options.readPages)) {
        dump.linked.image.writeBigUInt64LE(hash64(chunk), dump.chunkHashesAt + index++ * 8);
        writeFully(fd, chunk, at);
        at += chunk.length;
        bytesDone += chunk.length;
        options.progress?.({ bytesDone, bytesTotal });
      }
      hashes.set(dump.pid, sealDump(dump, hashes));
      writeFully(fd, dumpHead(dump, options.restorer), 0);
      written += at;
    } finally {
      closeSync(fd);
    }
  }
  return written;
}

/** Fills in the table of children (root only) and the header's hashes; returns the header's hash. */
function sealDump(dump: CompiledDump, hashes: ReadonlyMap<number, bigint>): bigint {
  const { image } = dump.linked;
  if (dump.childrenAt !== undefined) {
    const count = Number(image.readBigUInt64LE(168));
    for (let i = 0; i < count; i++) {
      const at = dump.childrenAt + i * 16;
      image.writeBigUInt64LE(hashes.get(image.readUInt32LE(at)) ?? 0n, at + 8);
    }
  }
  return sealHeader(dump.linked, dump.elfHeader);
}

/** ELF header, restorer and program of a dump file: all of it in front of the page contents. */
function dumpHead(dump: CompiledDump, restorer: Restorer): Buffer {
  const head = Buffer.concat([dump.elfHeader, restorer.blob, dump.linked.image]);
  return Buffer.concat([head, Buffer.alloc(dump.pagesOffset - head.length)]);
}

/** The dump files of a tree without page contents, one after the other: what a loader takes its programs from.
 *  @returns the store and the offset of the root's file, which the loader is told */
export function buildStore(
  tree: CompiledTree,
  restorer: Restorer,
): { store: Buffer; rootOffset: bigint } {
  const hashes = new Map<number, bigint>();
  const parts: Buffer[] = [];
  let length = 0;
  let rootOffset = 0n;
  for (const dump of tree.dumps) {
    hashes.set(dump.pid, sealDump(dump, hashes));
    if (dump.pid === tree.rootPid) rootOffset = BigInt(length);
    const head = dumpHead(dump, restorer);
    parts.push(head);
    length += head.length;
  }
  return { store: Buffer.concat(parts), rootOffset };
}

/** The page contents of a dump file in chunks of CHUNK bytes. The same buffer is used again and again. */
function* pageChunks(dump: CompiledDump, readPages: PageReader): Generator<Buffer> {
  const buffer = Buffer.allocUnsafeSlow(CHUNK);
  let filled = 0;
  for (const read of dump.pageReads) {
    const length = Number(read.pages) * PAGE;
    for (let offset = 0; offset < length; ) {
      const step = Math.min(length - offset, CHUNK - filled);
      readPages(dump.pid, read, offset, buffer.subarray(filled, filled + step));
      offset += step;
      filled += step;
      if (filled === CHUNK) {
        yield buffer;
        filled = 0;
      }
    }
  }
  if (filled > 0) yield buffer.subarray(0, filled);
}

function writeFully(fd: number, bytes: Buffer, position: number): void {
  for (let done = 0; done < bytes.length; ) {
    done += writeSync(fd, bytes, done, bytes.length - done, position + done);
  }
}
