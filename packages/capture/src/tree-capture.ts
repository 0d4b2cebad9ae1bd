import { type Blocker, FerryError } from '@ferry/core';
import type { PageRead } from '@ferry/dumpbin';
import {
  type FileObject,
  type FileReference,
  type HostFacts,
  IdMap,
  IMAGE_FORMAT,
  type Ipc,
  type Process,
  type TreeImage,
  useInnerIds,
  type Vma,
} from '@ferry/image';
import {
  childrenOf,
  livingTask,
  readLink,
  readProc,
  sys,
  threadsOf,
  tryReadProc,
} from '@ferry/linux';
import { DirtyTracker } from './dirty-tracker.js';
import {
  type CapturedFiles,
  type CollectedDescriptors,
  captureFiles,
  collectDescriptors,
} from './files/descriptors.js';
import { passingBlockers } from './files/passing-blockers.js';
import { passesByItself } from './frozen-blockers.js';
import { FrozenTree } from './frozen-tree.js';
import { gadgetFinder } from './gadgets.js';
import { hostFactsOf } from './host-facts.js';
import { finishConnects } from './interrupted-connect.js';
import { describeMapping } from './memory.js';
import { MemoryObjects } from './memory-objects.js';
import type { GivenMount } from './namespaces/added-mounts.js';
import { ControlGroups } from './namespaces/cgroups.js';
import type { GivenNetwork } from './namespaces/given-network.js';
import { heldNamespaces, heldTunDevices } from './namespaces/held.js';
import type { NamespaceProcess } from './namespaces/links.js';
import { type CapturedNamespaces, captureNamespaces } from './namespaces/namespaces.js';
import { NotedMappings } from './noted-mappings.js';
import { onlyOnce } from './only-once.js';
import { PageSources } from './page-sources.js';
import { PidView } from './pid-view.js';
import { privatePages } from './private-pages.js';
import { type CaptureContext, captureProcesses } from './process.js';
import { isLiving, type LookedAt, lookAtProcesses } from './process-looks.js';
import { type TreeLabels, treeLabels } from './security-labels.js';
import { type PageSegment, pageSegments } from './segments.js';
import { leaveOwed, type SharedPages, type TreeView } from './shared-tracker.js';
import { sharingBlockers } from './sharing.js';
import { sharedSessionBlockers } from './sharing-sessions.js';
import { runTogether } from './steps.js';
import { captureIpc, QueueMounts, type SemaphoreValues, semaphoreSets } from './sysv-ipc.js';
import { UndoLists, undoListBlockers } from './undo-lists.js';

/** What a look at a running tree tells, without stopping it. */
export interface ScanReport {
  readonly blockers: Blocker[];
  readonly facts: HostFacts;
  readonly processes: LookedAt[];
  readonly residentBytes: bigint;
  readonly mappedFiles: FileReference[];
  readonly labels: TreeLabels;
}

export interface TreeCaptureOptions {
  /** Standard descriptors whose other end is outside the tree are handed over by the restoring side: inodes of the
   *  pipes that are the container's log. */
  readonly externalInodes?: readonly bigint[];
  /** Whoever restores makes the namespaces of the root (a container's runtime): they are not carried. */
  readonly namespacesGiven?: boolean;
  /** Then: what is mounted for the tree; without, mounts that it has added are not looked for. */
  readonly givenMounts?: readonly GivenMount[];
  /** Likewise what is set below /proc/sys, by path. */
  readonly givenSettings?: Readonly<Record<string, string>>;
  /** Likewise what is put into its network. */
  readonly givenNetwork?: GivenNetwork;
}

/** How long the tree runs before each further attempt to capture it. */
const PAUSES_MS = [1, 2, 5, 10, 20];
/** How often what blocks a running tree is looked at again. */
const LOOKS_AGAIN = 2;
/** How many of these are for messages that will be lost when nobody reads them. */
const READER_PAUSES = 2;
/** A process that is about to end does so when it gets a processor. */
const ENDING_MS_MAX = 5000;

type Phase = 'running' | 'frozen' | 'done';

/** The capture of one process tree: scan, (track, dirtyPages...,) freeze, capture, then thaw or kill. Synchronous: ptrace belongs to the thread
 *  that seized. Disposing thaws whatever is still frozen. */
export class TreeCapture implements Disposable {
  readonly #rootPid: number;
  /** By which it is reached (`livingTask`). */
  #root: number;
  readonly #options: TreeCaptureOptions;
  readonly #gadgets = gadgetFinder;
  readonly #noted = new NotedMappings();
  readonly #queueMounts = new QueueMounts();
  /** What queries have left in the stopped processes. */
  readonly #leftovers: CaptureContext['leftovers'] = [];
  #frozen: FrozenTree | undefined;
  #phase: Phase = 'running';
  /** How often it was stopped. */
  #stops = 0;
  #release: ((outcome: 'thawed' | 'killed') => void) | undefined;
  /** Every blocker that the last capture met is one that passes. */
  #mayPass = false;
  #image: TreeImage | undefined;
  /** Of what was captured last. */
  #added: CapturedNamespaces['added'] | undefined;
  #checkFiles: CapturedFiles['check'] | undefined;
  #tracker: DirtyTracker | undefined;
  #objects = new MemoryObjects();
  readonly #sources = new PageSources((pid, id) => this.#pathOfPages(pid, id));
  /** The same for all its processes, and as long as the host is up. */
  #knownFacts: HostFacts | undefined;

  constructor(rootHostPid: number, options: TreeCaptureOptions = {}) {
    this.#rootPid = rootHostPid;
    this.#root = rootHostPid;
    this.#options = options;
    if (tryReadProc(`/proc/${rootHostPid}/stat`) === undefined) {
      throw new FerryError('capture.noProcess', `Process ${rootHostPid} does not exist`, {
        remedy: 'check the PID (ps -e); a container process has another PID inside its container',
      });
    }
  }

  static open(rootHostPid: number, options?: TreeCaptureOptions): TreeCapture {
    return new TreeCapture(rootHostPid, options);
  }

  /** Looks at the running tree: what could not be carried, what a destination must have. Changes nothing. What blocks is
   *  looked at again: a child that was forked meanwhile makes its parent's pipe look as if it led outside. */
  scan(): ScanReport {
    const key = ({ code, pid, object }: Blocker) => `${code} ${pid} ${object}`;
    let report = this.#look();
    for (let i = 0; i < LOOKS_AGAIN && report.blockers.length > 0; i++) {
      const before = new Set(report.blockers.map(key));
      report = this.#look();
      report = { ...report, blockers: report.blockers.filter((found) => before.has(key(found))) };
    }
    return report;
  }

  #look(): ScanReport {
    this.#root = livingTask(this.#rootPid);
    const context = this.#context();
    const looks = { context, noted: this.#noted, gadgets: this.#gadgets };
    const { processes, blockers, labels, residentBytes } = lookAtProcesses(this.#list(), looks);
    blockers.push(...this.#sharedBlockers(processes));
    if (isLiving(this.#root)) this.#queueMounts.prepare(this.#root);
    return {
      // A process that ended meanwhile blocks nothing: what was half gone when it was looked at is gone now.
      blockers: blockers.filter(({ pid }) => isLiving(pid)),
      facts: this.#facts(this.#root),
      processes,
      residentBytes,
      mappedFiles: [...context.references.values()],
      labels: treeLabels(labels),
    };
  }

  /** Of those that live: when one of them ends meanwhile, of the others, from the beginning. */
  #sharedBlockers(processes: LookedAt[]): Blocker[] {
    const living = processes.filter(({ hostPid }) => isLiving(hostPid));
    if (living.length === 0) return [];
    try {
      return this.#blockersOfAll(living);
    } catch (error) {
      if (living.every(({ hostPid }) => isLiving(hostPid))) throw error;
      return this.#sharedBlockers(living);
    }
  }

  /** What cannot be carried of what processes have together. */
  #blockersOfAll(processes: LookedAt[]): Blocker[] {
    const collected = collectDescriptors(processes, { scanning: true });
    const spaces = this.#namespaces(processes, collected, true);
    const files = captureFiles(collected, {
      ...this.#fileOptions(true, { objects: new MemoryObjects(), pids: new PidView(this.#root) }),
      namespaceId: spaces.idOf,
    });
    files.release('thawed');
    return [
      ...sharingBlockers(processes),
      ...sharedSessionBlockers(processes),
      ...undoListBlockers(processes),
      ...files.blockers,
      ...spaces.blockers,
      ...spaces.added(),
    ];
  }

  /** Stops every thread of the tree. */
  freeze(): void {
    this.#expect('running');
    this.#stop();
    this.#phase = 'frozen';
  }

  /** The image of the frozen tree, without page contents. What blocks it but passes by itself (a connection that waits
   *  to be accepted) is given some milliseconds, in which the tree runs.
   *  @throws FerryError capture.blocked when something cannot be carried; the tree stays frozen until `thaw` */
  capture(): TreeImage {
    const image = this.captureUnchecked();
    this.check();
    return image;
  }

  /** As `capture`, for whoever has something to do with the image meanwhile: nothing may be restored for good before
   *  `check` has found nothing.
   *  @param beforeSockets  returns, once, when nothing reaches the tree's sockets any more */
  captureUnchecked(beforeSockets: () => void = () => {}): TreeImage {
    // An attempt may fail before it comes to its sockets: then the next one waits.
    const wait = onlyOnce(beforeSockets);
    return this.#persist((i) =>
      this.#captureOnce({ awaitsReaders: i < READER_PAUSES, beforeSockets: wait }),
    );
  }

  /** What the image does not depend on, and yet makes it good for nothing.
   *  @throws FerryError capture.blocked */
  check(): void {
    this.#expect('frozen');
    const blockers = [...(this.#added?.() ?? []), ...(this.#checkFiles?.() ?? [])];
    if (blockers.length > 0) throw blockedBy(blockers);
  }

  /** Tries again, after the tree has run for a moment, as long as what stands in the way passes by itself. */
  #persist<T>(attempt: (i: number) => T): T {
    const deadline = performance.now() + ENDING_MS_MAX;
    const pauses = [...PAUSES_MS];
    for (let i = 0; ; i++) {
      try {
        return attempt(i);
      } catch (error) {
        const ending = this.#isEnding() && performance.now() < deadline;
        const pauseMs = pauses.shift() ?? (ending ? PAUSES_MS.at(-1) : undefined);
        const mayPass = this.#mayPass || passesByItself(error);
        if (pauseMs === undefined || !(mayPass || ending)) throw error;
        this.#runOn(pauseMs);
      }
    }
  }

  /** Whether a process of the stopped tree was caught between its last instruction and its end: it has no memory left. */
  #isEnding(): boolean {
    return [...(this.#frozen?.processes.values() ?? [])].some(
      ({ hostPid, zombie }) => !zombie && (tryReadProc(`/proc/${hostPid}/maps`) ?? '') === '',
    );
  }

  /** Stops the tree for as long as it takes to learn its layout, and has writes to its memory tracked from then on. Later
   *  captures list only the pages that `dirtyPages` has not given since.
   *  @returns processes and mappings, without descriptors and without pages; for how long the tree stood; what of it
   *    could not be tracked */
  track(): { layout: TreeImage; stopMs: number; warnings: readonly string[] } {
    const before = performance.now();
    this.freeze();
    let layout: TreeImage;
    try {
      layout = this.#persist(() => this.#layoutOf(this.#frozen!));
      this.untrack();
      this.#tracker = DirtyTracker.start(this.#frozen!, layout);
    } finally {
      this.thaw();
    }
    return { layout, stopMs: performance.now() - before, warnings: this.#tracker.warnings };
  }

  /** Pages of the tree that were written since they were last given here, or never given. Only those that the layout which
   *  `track` gave has room for. Of a frozen tree the next capture has the rest. */
  dirtyPages(): PageSegment[] {
    if (this.#tracker === undefined) throw new FerryError('capture.phase', 'Nothing is tracked');
    if (this.#phase === 'frozen' && this.#frozen !== undefined) {
      return this.#tracker.lastLook(this.#frozen, (hostPid) => this.#vmasOf(hostPid));
    }
    for (const hostPid of this.#tracker.hostPids) this.#noted.note(hostPid);
    return this.#tracker.take();
  }

  #vmasOf(hostPid: number): Vma[] {
    const objects = new MemoryObjects();
    return this.#noted
      .of(hostPid)
      .map((mapping) => describeMapping(hostPid, mapping, objects, new Map()));
  }

  /** Whether memory is followed that is shared: of that more may have to be looked at than what is noted as written. */
  get followsShared(): boolean {
    return this.#tracker?.followsShared ?? false;
  }

  /** The same of shared memory, each object once. */
  dirtySharedPages(): SharedPages {
    if (this.#tracker === undefined) throw new FerryError('capture.phase', 'Nothing is tracked');
    return this.#tracker.takeShared(this.#view());
  }

  #view(): TreeView {
    if (this.#phase !== 'frozen' || this.#frozen === undefined) {
      return { hostPids: this.#list(), stop: undefined };
    }
    return { hostPids: [...this.#frozen.processes.keys()], stop: this.#stops };
  }

  #layoutOf(frozen: FrozenTree): TreeImage {
    this.#mayPass = false;
    const pagesOf: CaptureContext['pagesOf'] = (hostPid, _pid, vmas) => ({
      ...privatePages(hostPid, vmas),
      runs: [],
    });
    const context = { ...this.#context(), pagesOf };
    const processes = captureProcesses(this.#ordered(frozen), context);
    return this.#withInnerIds(this.#imageOf(processes, [], context.objects));
  }

  /** Lets the frozen tree run for a while. */
  #runOn(pauseMs: number): void {
    this.putBack();
    this.#tracker?.forget();
    this.#frozen?.release();
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, pauseMs);
    this.#stop();
  }

  #stop(): void {
    this.#stops += 1;
    this.#frozen = FrozenTree.freeze(this.#rootPid);
    this.#root = [...this.#frozen.processes.keys()][0] ?? this.#root;
  }

  /** Undoes what the last capture did to the tree, which stays frozen: it can be captured again. */
  putBack(): void {
    this.#sources.close();
    this.#release?.('thawed');
    this.#release = undefined;
    this.#takeLeftoversAway();
  }

  #takeLeftoversAway(): void {
    runTogether(this.#leftovers.splice(0).map((takeAway) => takeAway()));
  }

  #captureOnce({
    awaitsReaders,
    beforeSockets,
  }: {
    awaitsReaders: boolean;
    beforeSockets: () => void;
  }): TreeImage {
    this.#expect('frozen');
    this.#mayPass = false;
    const frozen = this.#frozen!;
    const context = this.#context();
    this.#objects = context.objects;
    const ordered = this.#ordered(frozen);
    using lists = new UndoLists();
    const sets = semaphoreSets(this.#root);
    const semaphoresOf = (hostPid: number): SemaphoreValues[] =>
      sets.length > 0 && lists.has(hostPid) ? sets : [];
    const processes = captureProcesses(ordered, { ...context, semaphoresOf });
    beforeSockets();
    const named = (p: Process) => ({ pid: p.pid, hostPid: p.hostPid, command: p.comm });
    const everybody = processes.map(named);
    const owners = processes.filter((p) => p.state !== 'zombie').map(named);
    const collected = collectDescriptors(owners, { scanning: false });
    const spaces = this.#namespaces(everybody, collected, false);
    const { namespaces } = spaces;
    const files = captureFiles(collected, {
      ...this.#fileOptions(false, context),
      awaitsReaders,
      namespaceId: spaces.idOf,
    });
    this.#release = files.release;
    const blockers = [...files.blockers, ...spaces.blockers];
    if (blockers.length > 0) {
      this.#mayPass = blockers.every(({ code }) => passingBlockers.has(code));
      throw blockedBy(blockers);
    }
    this.#added = spaces.added;
    this.#checkFiles = files.check;
    const groups = new ControlGroups(this.#root);
    const filesById = new Map(files.files.map((file) => [file.id, file]));
    for (const process of processes) {
      // Those that it has in common with its parent stand there.
      const descriptors = files.descriptorsOf(process.pid);
      if (process.filesOwnerPid === 0) process.descriptors = descriptors;
      finishConnects(process, descriptors, filesById, (thread) =>
        frozen.processes
          .get(process.hostPid)
          ?.threads.find(({ hostTid }) => hostTid === thread.hostTid)
          ?.traced.registers(),
      );
      Object.assign(process, spaces.of(process.hostPid));
      this.#putIntoGroups(process, groups);
      if (process.fs !== undefined) Object.assign(process.fs, files.foldersOf(process.pid));
      Object.assign(process, files.terminalOf(process.pid));
    }
    this.#image = this.#withInnerIds({
      ...this.#imageOf(processes, files.files, context.objects),
      namespaces,
    });
    return this.#image;
  }

  /** What a layout has is made by whoever is in the root's user namespace, too. */
  #withInnerIds(image: TreeImage): TreeImage {
    const ids = idMapsOf(this.#root);
    if (ids !== undefined) useInnerIds(image, ids);
    return image;
  }

  #imageOf(processes: Process[], files: FileObject[], objects: MemoryObjects): TreeImage {
    const root = processes[0]!;
    root.ppid = 0;
    const ipc = this.#captureIpc(objects);
    // First: what `objects` opens looks as if somebody else had opened it.
    const rest = this.#tracker?.finishShared(this.#view());
    const sharedMemory = objects.finish();
    for (const object of sharedMemory) leaveOwed(object, rest?.(object));
    return {
      format: IMAGE_FORMAT,
      host: this.#facts(this.#root),
      rootPid: root.pid,
      processes,
      files,
      sharedMemory,
      realtimeNs: clockNs(0),
      monotonicNs: clockNs(1),
      boottimeNs: clockNs(7),
      ownPidNamespace: root.pid === 1,
      hostname: '',
      namespaces: [],
      ipc,
    };
  }

  /** Before the shared memory objects are finished: it adds segments to them. */
  #captureIpc(objects: MemoryObjects): Ipc {
    const { ipc, release } = captureIpc(this.#root, objects, this.#queueMounts);
    const releaseFiles = this.#release;
    this.#release = (outcome) => {
      release();
      releaseFiles?.(outcome);
    };
    return ipc;
  }

  /** Where the page contents of a captured image are to be read, and where they belong. */
  segments(image: TreeImage): PageSegment[] {
    return pageSegments(image);
  }

  /** Reads a run of pages of the frozen tree into `into`, `offset` bytes into the run. For `writeDumpFiles`. */
  readPages(pid: number, read: PageRead, offset: number, into: Buffer): void {
    this.#sources.read(pid, read, offset, into);
  }

  /** Lets the tree run on as if nothing had been. */
  thaw(): void {
    if (this.#phase !== 'frozen') return;
    this.#phase = 'running';
    this.#tracker?.forget();
    this.#sources.close();
    try {
      this.#release?.('thawed');
    } finally {
      this.#release = undefined;
      try {
        this.#takeLeftoversAway();
      } finally {
        this.#frozen?.release();
      }
    }
  }

  /** Ends the tracking that `track` began. Repeatable; the end of this process does it as well. */
  untrack(): void {
    this.#tracker?.[Symbol.dispose]();
    this.#tracker = undefined;
  }

  /** Ends every process of the tree and waits until they are gone. */
  kill(): void {
    this.#expect('frozen');
    this.#phase = 'done';
    this.#sources.close();
    this.#frozen?.kill();
    this.#release?.('killed');
  }

  [Symbol.dispose](): void {
    this.untrack();
    this.thaw();
    this.#queueMounts[Symbol.dispose]();
  }

  #pathOfPages(pid: number, sharedMemoryId: number): string {
    if (sharedMemoryId !== 0) return this.#objects.pathOf(sharedMemoryId);
    const hostPid = this.#image?.processes.find((process) => process.pid === pid)?.hostPid ?? pid;
    return `/proc/${hostPid}/mem`;
  }

  #expect(phase: Phase): void {
    if (this.#phase !== phase) {
      throw new FerryError('capture.phase', `The tree is ${this.#phase}, not ${phase}`);
    }
  }

  /** Host PIDs of the tree, parents before children. */
  #list(): number[] {
    const pids = [this.#root];
    for (const pid of pids) {
      try {
        pids.push(...childrenOf(pid, threadsOf(pid)));
      } catch (error) {
        if (tryReadProc(`/proc/${pid}/stat`) !== undefined) throw error;
      }
    }
    return pids;
  }

  /** Parents before children, siblings oldest first. */
  #ordered(frozen: FrozenTree) {
    const pids = [this.#root];
    for (const pid of pids) pids.push(...(frozen.processes.get(pid)?.children ?? []));
    return pids.flatMap((pid) => frozen.processes.get(pid) ?? []);
  }

  #context(): CaptureContext {
    return {
      objects: new MemoryObjects(),
      gadgets: this.#gadgets,
      leftovers: this.#leftovers,
      mappingsOf: (hostPid) => this.#noted.of(hostPid),
      references: new Map(),
      pagesOf: (hostPid, pid, vmas) =>
        this.#tracker?.finish(hostPid, pid, vmas) ?? privatePages(hostPid, vmas),
      pids: new PidView(this.#root),
      semaphoresOf: () => [],
    };
  }

  #fileOptions(scanning: boolean, { objects, pids }: Pick<CaptureContext, 'objects' | 'pids'>) {
    return {
      scanning,
      pids,
      externalInodes: this.#options.externalInodes ?? [],
      sharedMemoryId: objects.forDescriptor.bind(objects),
    };
  }

  #putIntoGroups(process: Process, groups: ControlGroups): void {
    const { hostPid, threads } = process;
    if (hostPid === this.#root) {
      const isGiven = this.#options.namespacesGiven ?? false;
      if (isGiven || groups.isApart) process.innerControlGroups = groups.ofRootInside();
      if (!isGiven) process.controlGroups = groups.ofRoot();
    } else process.controlGroups = groups.of(hostPid);
    for (const thread of threads.slice(1)) {
      thread.controlGroups = groups.ofThread(hostPid, thread.hostTid);
    }
  }

  /** Closes what was collected when it fails. */
  #namespaces(
    processes: readonly NamespaceProcess[],
    collected: CollectedDescriptors,
    scanning: boolean,
  ): CapturedNamespaces {
    const rootGiven = this.#options.namespacesGiven ?? false;
    try {
      const held = heldNamespaces(collected);
      const { givenMounts, givenSettings, givenNetwork } = this.#options;
      const given = { rootGiven, givenMounts, givenSettings, givenNetwork };
      const tunDevices = heldTunDevices(collected);
      return captureNamespaces(processes, { scanning, ...given, held, tunDevices });
    } catch (error) {
      collected[Symbol.dispose]();
      throw error;
    }
  }

  #facts(hostPid: number): HostFacts {
    this.#knownFacts ??= hostFactsOf(hostPid);
    return this.#knownFacts;
  }
}

/** How the user namespace of a process translates ids; undefined when we are in it. */
function idMapsOf(hostPid: number): { users: IdMap; groups: IdMap } | undefined {
  if (readLink(`/proc/${hostPid}/ns/user`) === readLink('/proc/self/ns/user')) return undefined;
  const map = (name: string) => new IdMap(readProc(`/proc/${hostPid}/${name}`));
  return { users: map('uid_map'), groups: map('gid_map') };
}

function blockedBy(blockers: readonly Blocker[]): FerryError {
  const texts = blockers.map((b) => `${b.command} (${b.pid}), ${b.object}: ${b.reason}`);
  return new FerryError('capture.blocked', texts.join('; '), {
    remedy: blockers.map((b) => b.remedy).join('; '),
  });
}

function clockNs(clock: number): bigint {
  const time = Buffer.alloc(16);
  sys('clock_gettime', clock, time);
  return time.readBigInt64LE(0) * 1_000_000_000n + time.readBigInt64LE(8);
}
