import type { PageRun } from '@ferry/image';
import { call, cString, OwnedFd, sys, sysError } from '@ferry/linux';

const PAGE = 4096n;
/** Content that no mapping shows goes into the image up to this many bytes for each object. */
export const LOOSE_BYTES_MAX = 16n << 20n;

interface Part {
  readonly from: bigint;
  readonly to: bigint;
}

/** Splits the runs of a shared memory object into those that a mapping of the tree shows and the others, which get
 *  their content: pages are moved through mappings, and a descriptor alone shows none.
 *  Runs stay without content when there is more than LOOSE_BYTES_MAX of it: a dump to disk reads them from the object,
 *  a migration refuses them (segments.ts). */
export function withContent(
  path: string,
  runs: readonly PageRun[],
  shown: readonly Part[],
): PageRun[] {
  const split = runs.flatMap((run) => splitRun(run, shown));
  const loose = split.filter((piece) => !piece.isShown);
  const bytes = loose.reduce((sum, { run }) => sum + run.pages * PAGE, 0n);
  if (bytes === 0n || bytes > LOOSE_BYTES_MAX) return [...runs];
  using fd = new OwnedFd(call('open', cString(path), 0o2000000, 0));
  return split.map(({ run, isShown }) => {
    return isShown ? run : { ...run, content: readAt(fd, run) };
  });
}

function splitRun(run: PageRun, shown: readonly Part[]): { run: PageRun; isShown: boolean }[] {
  const end = run.address + run.pages * PAGE;
  const edges = shown.flatMap(({ from, to }) => [from, to]);
  const cuts = [run.address, ...edges.filter((at) => at > run.address && at < end), end];
  const sorted = [...new Set(cuts)].sort((a, b) => (a < b ? -1 : 1));
  return sorted.slice(0, -1).map((from, i) => ({
    run: { ...run, address: from, pages: (sorted[i + 1]! - from) / PAGE },
    isShown: shown.some((part) => part.from <= from && from < part.to),
  }));
}

function readAt(fd: OwnedFd, run: PageRun): Buffer {
  const bytes = Buffer.alloc(Number(run.pages * PAGE));
  for (let done = 0; done < bytes.length; ) {
    const at = Number(run.address) + done;
    const n = sys('pread64', fd.number, bytes.subarray(done), bytes.length - done, at);
    if (n < 0) throw sysError('pread64', -n, 'a shared memory object');
    if (n === 0) break; // its last page ends within it
    done += n;
  }
  return bytes;
}
