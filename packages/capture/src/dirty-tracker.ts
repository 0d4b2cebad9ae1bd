import { readdirSync } from 'node:fs';
import { errorText } from '@ferry/core';
import type { PageRun, Process, SharedMemory, TreeImage, Vma } from '@ferry/image';
import {
  parseMappings,
  readProc,
  sysError,
  TRACKING_FLAGS,
  UserfaultEvents,
  WriteTracking,
} from '@ferry/linux';
import type { FrozenProcess, FrozenTree } from './frozen-tree.js';
import {
  CallPlace,
  remoteSyscall,
  restoreThread,
  saveThread,
  writtenByCalls,
} from './injection.js';
import { PageSet } from './page-set.js';
import { type CarriedPages, pageRuns, privatePages } from './private-pages.js';
import type { PageSegment } from './segments.js';
import {
  type SharedPages,
  type SharedRest,
  SharedTracker,
  type TreeView,
} from './shared-tracker.js';
import { runAlone } from './steps.js';
import { TrackedSpace } from './tracked-space.js';

/** Notes which pages of a tree's processes are written, from a moment on in which all of it stood. Ending it, and the end
 *  of the process that does it, leave nothing behind in the tree. */
export class DirtyTracker implements Disposable {
  readonly #spaces = new Map<number, TrackedSpace>();
  /** For mappings that are shared, by process. */
  readonly #sharing = new Map<number, WriteTracking>();
  #events: UserfaultEvents | undefined;
  #shared: SharedTracker | undefined;
  /** Processes whose memory has to be sent while they stand, and why. */
  readonly warnings: string[] = [];

  /** Starts with every process of a stopped tree, whose layout `image` is. */
  static start(frozen: FrozenTree, image: TreeImage): DirtyTracker {
    const tracker = new DirtyTracker();
    for (const process of image.processes) {
      const stopped = frozen.processes.get(process.hostPid);
      if (process.mm === undefined || stopped === undefined || stopped.zombie) continue;
      try {
        tracker.#add(process, stopped);
      } catch (error) {
        tracker.warnings.push(
          `Writes of ${process.comm} (${process.pid}) cannot be tracked: ${errorText(error)}`,
        );
      }
    }
    tracker.#startShared(image);
    return tracker;
  }

  /** Shared memory that cannot be followed is sent while the tree stands. */
  #startShared(image: TreeImage): void {
    if (this.#events === undefined) return;
    try {
      this.#shared = new SharedTracker(image, this.#sharing, () => this.#events!.count);
    } catch (error) {
      this.warnings.push(`Writes to shared memory cannot be tracked: ${errorText(error)}`);
    }
  }

  #add(process: Process, stopped: FrozenProcess): void {
    const { hostPid } = process;
    if (process.mm?.vmas.some(({ kind, shared }) => kind === 'shared' && shared)) {
      this.#events ??= new UserfaultEvents();
      this.#sharing.set(hostPid, trackWrites(stopped, this.#events));
    }
    const tracking = trackWrites(stopped);
    try {
      this.#spaces.set(hostPid, new TrackedSpace(process, process.mm!, tracking));
    } catch (error) {
      tracking[Symbol.dispose]();
      throw error;
    }
  }

  /** Of the processes that are tracked. */
  get hostPids(): number[] {
    return [...this.#spaces.keys()];
  }

  /** How many processes are tracked. */
  get size(): number {
    return this.#spaces.size;
  }

  /** What the skeletons lack now; from here on it counts as sent. The tree runs on. */
  take(): PageSegment[] {
    return this.#segments(takenOf);
  }

  /** With the tree stopped, the same of it as it stands. `finish` gives the rest.
   *  @param vmasOf  the mappings of a process */
  lastLook(frozen: FrozenTree, vmasOf: (hostPid: number) => readonly Vma[]): PageSegment[] {
    return this.#segments((space) => {
      const stopped = frozen.processes.get(space.hostPid);
      if (stopped === undefined || stopped.zombie) return [];
      return space.lastLook(vmasOf(space.hostPid), writtenByCalls(stopped));
    });
  }

  /** The tree runs on. */
  forget(): void {
    for (const space of this.#spaces.values()) space.forget();
  }

  #segments(look: (space: TrackedSpace) => readonly PageRun[]): PageSegment[] {
    return this.#living().flatMap((space) => {
      const { hostPid, pid } = space;
      return look(space).map(({ address, pages }) => ({
        ...{ hostPid, pid, address, targetAddress: address, pages: Number(pages) },
      }));
    });
  }

  /** Whether there is shared memory, of which more may have been written than is noted. */
  get followsShared(): boolean {
    return this.#shared !== undefined;
  }

  /** The same of shared memory. */
  takeShared(tree: TreeView): SharedPages {
    return this.#shared?.take(tree) ?? { written: [], doubtful: [] };
  }

  /** With the tree stopped: what is left to do for each shared memory object; undefined: all of it is owed. */
  finishShared(tree: TreeView): (object: SharedMemory) => SharedRest | undefined {
    return this.#shared?.finish(tree) ?? (() => undefined);
  }

  /** With the tree stopped: the same for one process, which is `vmas` now. One that is new, or runs another program than
   *  it did, is sent whole. */
  finish(hostPid: number, pid: number, vmas: readonly Vma[]): CarriedPages {
    const space = this.#spaces.get(hostPid);
    if (space?.isAlive()) return space.finish(vmas);
    const owed = new PageSet();
    const { runs, guards } = privatePages(hostPid, vmas);
    for (const run of runs) owed.add({ start: run.address, end: run.address + run.pages * 4096n });
    for (const former of this.#spaces.values()) {
      if (former.pid === pid) for (const range of former.sentWithin(vmas)) owed.add(range);
    }
    return { runs: pageRuns(owed.all()), guards };
  }

  #living(): TrackedSpace[] {
    return [...this.#spaces.values()].filter((space) => space.isAlive());
  }

  [Symbol.dispose](): void {
    this.#shared?.[Symbol.dispose]();
    this.#events?.[Symbol.dispose]();
    for (const tracking of this.#sharing.values()) tracking[Symbol.dispose]();
    this.#sharing.clear();
    for (const space of this.#spaces.values()) space[Symbol.dispose]();
    this.#spaces.clear();
  }
}

/** Nothing of a process that ends, or runs another program, while it is looked at. */
export function takenOf(space: Pick<TrackedSpace, 'take' | 'isAlive'>): readonly PageRun[] {
  try {
    return space.take();
  } catch (error) {
    if (space.isAlive()) throw error;
    return [];
  }
}

/** Has a stopped process make a userfaultfd and close it again, once we have a duplicate; it closes it by itself when we end
 *  in between.
 *  @param events  whom its events are told */
function trackWrites({ hostPid, threads }: FrozenProcess, events?: UserfaultEvents): WriteTracking {
  const [leader] = threads;
  if (leader === undefined) throw new Error('it has ended');
  const mappings = parseMappings(readProc(`/proc/${hostPid}/maps`));
  const saved = saveThread(leader.traced);
  const calls = CallPlace.prepare(hostPid, saved, mappings);
  // Nobody else opens anything: whoever shares its descriptors is stopped.
  const closing = calls.closing(saved, lowestFree(hostPid));
  try {
    const make = remoteSyscall(saved, closing, 'userfaultfd', [TRACKING_FLAGS]);
    const fd = Number(runAlone(make));
    if (fd < 0) throw sysError('userfaultfd', -fd, `process ${hostPid}`);
    try {
      return WriteTracking.adopt(hostPid, fd, events);
    } finally {
      runAlone(remoteSyscall(saved, calls, 'close', [fd]));
    }
  } finally {
    restoreThread(saved);
    closing.leave();
    calls.leave();
  }
}

/** The descriptor that the process opens next. */
function lowestFree(hostPid: number): number {
  const taken = new Set(readdirSync(`/proc/${hostPid}/fd`).map(Number));
  let fd = 0;
  while (taken.has(fd)) fd += 1;
  return fd;
}
