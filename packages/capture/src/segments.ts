import { FerryError } from '@ferry/core';
import type { TreeImage } from '@ferry/image';

/** A run of pages to be carried: where it is read on the source and where it belongs in the restored tree. */
export interface PageSegment {
  readonly hostPid: number;
  readonly address: bigint;
  readonly pid: number;
  readonly targetAddress: bigint;
  readonly pages: number;
}

/** Private memory of every process, and each shared memory object once, through a process that maps the run. */
export function pageSegments(image: TreeImage): PageSegment[] {
  const segments: PageSegment[] = [];
  for (const process of image.processes) {
    for (const run of process.mm?.runs ?? []) {
      segments.push({
        hostPid: process.hostPid,
        address: run.address,
        pid: process.pid,
        targetAddress: run.address,
        pages: Number(run.pages),
      });
    }
  }
  for (const object of image.sharedMemory) {
    for (const run of object.runs.filter(({ content }) => content === undefined))
      segments.push(...sharedSegments(image, object.id, run.address, Number(run.pages)));
  }
  return segments;
}

interface Part {
  readonly hostPid: number;
  readonly pid: number;
  readonly start: bigint;
  readonly from: bigint;
  readonly to: bigint;
}

/** Splits a run of an object (`offset`, `pages`) over the mappings that show it.
 *  @throws FerryError capture.memoryNotMapped for a part that no process maps writable and shared */
function sharedSegments(
  image: TreeImage,
  id: number,
  offset: bigint,
  pages: number,
): PageSegment[] {
  const parts: Part[] = image.processes.flatMap((process) =>
    (process.mm?.vmas ?? [])
      .filter((vma) => vma.kind === 'shared' && vma.sharedMemoryId === id)
      .filter((vma) => vma.shared && vma.fileWritable)
      .map((vma) => ({
        hostPid: process.hostPid,
        pid: process.pid,
        start: vma.start,
        from: vma.fileOffset,
        to: vma.fileOffset + (vma.end - vma.start),
      })),
  );
  const segments: PageSegment[] = [];
  const end = offset + BigInt(pages) * 4096n;
  for (let at = offset; at < end; ) {
    const part = parts.find((candidate) => candidate.from <= at && at < candidate.to);
    if (part === undefined) {
      throw new FerryError(
        'capture.memoryNotMapped',
        `Shared memory object ${id} holds more than can be moved without a mapping of it`,
        { remedy: 'map it whole and writable in one process, or make it smaller' },
      );
    }
    const stop = part.to < end ? part.to : end;
    const address = part.start + (at - part.from);
    segments.push({
      hostPid: part.hostPid,
      address,
      pid: part.pid,
      targetAddress: address,
      pages: Number((stop - at) / 4096n),
    });
    at = stop;
  }
  return segments;
}
