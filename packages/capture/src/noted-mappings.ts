import { SysError } from '@ferry/core';
import { type Mapping, type ProcStatus, parseMappings, procStatus, readProc } from '@ferry/linux';
import { showsNoFile } from './memory.js';

/** A process with less memory than this is asked for its flags whenever they are wanted. */
const LARGE_BYTES = 64n << 20n;
const REFRESH_MS = 1000;

interface Note {
  readonly mappings: readonly Mapping[];
  readonly locked: string;
  readonly atMs: number;
}

/** The mappings of processes, with the flags that only smaps tells (proc_pid_smaps(5)). Reading smaps walks every page
 *  table, some 8 ms per GiB of small pages, which a freeze has no time for. So those of large processes are noted while
 *  they run; in a freeze the list of mappings is read, which is quick, and each takes the flags that were noted for where
 *  it stands. What stands where nothing was noted, or has other permissions now, or other locked memory, has smaps read
 *  after all. What this can miss: a madvise(2) on a whole mapping in the last second before the freeze. */
export class NotedMappings {
  readonly #notes = new Map<number, Note>();

  /** Looks at a process that runs, unless that was done a moment ago, or it has ended. */
  note(hostPid: number, nowMs = performance.now()): void {
    const known = this.#notes.get(hostPid);
    if (known !== undefined && nowMs - known.atMs < REFRESH_MS) return;
    try {
      const status = procStatus(`/proc/${hostPid}/status`);
      if (residentBytes(status) < LARGE_BYTES) return;
      this.set(hostPid, parseMappings(readProc(`/proc/${hostPid}/smaps`)), nowMs);
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      this.#notes.delete(hostPid);
    }
  }

  /** Remembers what was just read of a process. */
  set(hostPid: number, mappings: readonly Mapping[], nowMs = performance.now()): void {
    const status = procStatus(`/proc/${hostPid}/status`);
    if (residentBytes(status) < LARGE_BYTES) this.#notes.delete(hostPid);
    else this.#notes.set(hostPid, { mappings, locked: lockedOf(status), atMs: nowMs });
  }

  /** The mappings of a stopped process. */
  of(hostPid: number): Mapping[] {
    const note = this.#notes.get(hostPid);
    if (note !== undefined && note.locked === lockedOf(procStatus(`/proc/${hostPid}/status`))) {
      const known = withFlags(parseMappings(readProc(`/proc/${hostPid}/maps`)), note.mappings);
      if (known !== undefined) return known;
    }
    return parseMappings(readProc(`/proc/${hostPid}/smaps`));
  }
}

function residentBytes(status: ProcStatus): bigint {
  return BigInt(/^\d+/.exec(status.get('VmRSS') ?? '')?.[0] ?? 0) * 1024n;
}

function lockedOf(status: ProcStatus): string {
  return status.get('VmLck') ?? '';
}

/** Gives each mapping of `now` the flags of those of `noted` that it overlaps; undefined where that is not certain. Both
 *  in ascending order. Neighbours are merged and mappings grow only where their flags are the same (mm/vma.c). */
export function withFlags(
  now: readonly Mapping[],
  noted: readonly Mapping[],
): Mapping[] | undefined {
  const out: Mapping[] = [];
  let first = 0;
  for (const mapping of now) {
    while (first < noted.length && noted[first]!.end <= mapping.start) first++;
    let flags: readonly string[] | undefined;
    for (let i = first; i < noted.length && noted[i]!.start < mapping.end; i++) {
      const other = noted[i]!;
      if (!isAlike(mapping, other)) return undefined;
      if (flags !== undefined && flags.join() !== other.flags.join()) return undefined;
      flags = other.flags;
    }
    if (flags === undefined) return undefined;
    out.push({ ...mapping, flags });
  }
  return out;
}

function isAlike(a: Mapping, b: Mapping): boolean {
  return (
    a.read === b.read &&
    a.write === b.write &&
    a.execute === b.execute &&
    a.shared === b.shared &&
    a.device === b.device &&
    a.inode === b.inode &&
    a.name === b.name &&
    (showsNoFile(a) || a.offset - a.start === b.offset - b.start)
  );
}
