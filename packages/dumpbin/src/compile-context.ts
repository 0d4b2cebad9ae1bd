import { FerryError, invariant } from '@ferry/core';
import type { FileObject, Process, SharedMemory, TreeImage, UserNamespace } from '@ferry/image';
import type { EmitContext } from './files/emit.js';
import { filesByPath, highestTransientFd, solitaryFiles } from './files/registry.js';
import { SERVICE } from './layout.js';
import type { ProgramBuilder } from './program.js';

/** Where page contents come from: the process's own dump file, or a writer outside (live migration). */
export type PageOrigin = 'embedded' | 'external';

/** Rendezvous of all tasks of the tree, in the order in which they are passed (plan.h: PLAN_BARRIER). */
export const BARRIER = {
  tree: 0,
  groups: 1,
  laidOut: 2,
  pages: 3,
  installed: 4,
  ready: 5,
  go: 6,
  next: 7,
  adjusted: 8,
  files: 9,
  tableFree: 10,
  tableFilled: 11,
  tableUnused: 12,
  tableClosed: 13,
  granted: 14,
} as const;

const NAMESPACE_FD = { proc: 0, oldRoot: 1, network: 2, outerNetlink: 3, spaces: 8 } as const;

/** Types of namespaces that a process changes without being born into them. */
export const HOMES: readonly string[] = ['uts', 'ipc', 'net', 'mnt', 'time', 'cgroup'];

/** Counters in the shared page (plan.h), and those of them for two processes or a few. */
const BARRIER_COUNT = 512;
const FIRST_FREE_BARRIER = 16;

/** What a context takes over from programs that have run in the same processes before. */
export interface Inherited {
  /** The lowest service base: that of the earlier programs. */
  readonly serviceBase: number;
  /** Where shared memory objects stand among the created descriptions, by id. */
  readonly sharedPlaces: ReadonlyMap<number, number>;
  /** How many tasks have passed each barrier: its counter is never set back. */
  readonly passed: ReadonlyMap<number, number>;
}

/** What all programs of one tree agree on. Pure. */
export class CompileContext implements EmitContext {
  readonly image: TreeImage;
  readonly pages: PageOrigin;
  readonly serviceBase: number;
  readonly #files = new Map<number, FileObject>();
  readonly #positions = new Map<number, number>();
  readonly #owners = new Map<number, number[]>();
  readonly #done = new Set<string>();
  readonly #solitary: ReadonlySet<number>;
  readonly #openedOutside: ReadonlySet<number>;
  readonly #sharedPlaces: ReadonlyMap<number, number>;
  readonly #sharedEnd: number;
  readonly #passedBefore: ReadonlyMap<number, number>;
  readonly #passed: Map<number, number>;
  readonly #barriers = new Map<string, number>();
  /** Processes that share a table of descriptors, owners among them. */
  readonly #tableSharers: readonly number[];

  constructor(image: TreeImage, pages: PageOrigin, inherited?: Inherited) {
    this.image = image;
    this.pages = pages;
    let highest = Math.max(63, highestTransientFd(image));
    this.#solitary = solitaryFiles(image);
    this.#openedOutside = new Set(this.rootUserNamespace && filesByPath(image));
    for (const process of image.processes) {
      for (const { fd, fileId } of process.descriptors) {
        highest = Math.max(highest, fd);
        const owners = this.#owners.get(fileId) ?? [];
        if (!owners.includes(process.pid)) owners.push(process.pid);
        this.#owners.set(fileId, owners);
      }
    }
    this.serviceBase = Math.max(inherited?.serviceBase ?? 0, Math.ceil((highest + 1) / 64) * 64);
    this.#sharedPlaces =
      inherited?.sharedPlaces ?? new Map(image.sharedMemory.map(({ id }, i) => [id, i]));
    this.#passedBefore = inherited?.passed ?? new Map();
    this.#passed = new Map(this.#passedBefore);
    this.#sharedEnd = Math.max(0, ...[...this.#sharedPlaces.values()].map((place) => place + 1));
    this.#tableSharers = tableSharers(image);
    for (const [i, file] of image.files.entries()) {
      this.#files.set(file.id, file);
      this.#positions.set(file.id, i);
    }
  }

  file(fileId: number): FileObject {
    const file = this.#files.get(fileId);
    if (file === undefined)
      throw new FerryError('image.file', `The image has no file object ${fileId}`);
    return file;
  }

  fdOf(fileId: number): number {
    const position = this.#positions.get(fileId);
    invariant(position !== undefined, `No file object ${fileId}`);
    return this.serviceBase + SERVICE.objects + this.#sharedEnd + position;
  }

  get objectsEnd(): number {
    return this.serviceBase + SERVICE.objects + this.#sharedEnd + this.image.files.length;
  }

  /** Where the description of a shared memory object stands in every process. */
  sharedMemoryFd(id: number): number {
    const place = this.#sharedPlaces.get(id);
    invariant(place !== undefined, `No shared memory object ${id}`);
    return this.serviceBase + SERVICE.objects + place;
  }

  /** Descriptors that are only open while namespaces are made, above all that last. */
  namespaceFd(which: keyof typeof NAMESPACE_FD): number {
    return this.objectsEnd + NAMESPACE_FD[which];
  }

  mountFd(mountId: number): number {
    const position = this.#mountIds().indexOf(mountId);
    invariant(position >= 0, `No mount ${mountId}`);
    return this.#mounts + position;
  }

  /** Of a file that a mount covers, opened before that came (O_PATH); until all files are made. */
  coveredFd(fileId: number): number {
    const position = this.#positions.get(fileId);
    invariant(position !== undefined, `No file object ${fileId}`);
    return this.#mounts + this.#mountIds().length + position;
  }

  /** Of the peer groups outside that mounts belong to. */
  peerFd(index: number): number {
    return this.#mounts + this.#mountIds().length + this.image.files.length + index;
  }

  /** Of a namespace that the root is not in, until the tree runs. */
  spaceFd(namespaceId: number): number {
    const position = this.image.namespaces.findIndex(({ id }) => id === namespaceId);
    invariant(position >= 0, `No namespace ${namespaceId}`);
    return this.namespaceFd('spaces') + HOMES.length + position;
  }

  /** Likewise of the root's own. */
  homeFd(type: string): number {
    const position = HOMES.indexOf(type);
    invariant(position >= 0, `No namespace of type ${type}`);
    return this.namespaceFd('spaces') + position;
  }

  /** Of the dump file of another process than the root, where it is opened before the root enters its user namespace. */
  dumpFd({ pid }: Process): number {
    return this.#dumps + this.living.findIndex((process) => process.pid === pid);
  }

  /** The user namespace that the root is born in, when it is carried. */
  get rootUserNamespace(): { id: number; space: UserNamespace } | undefined {
    const ids = new Set(this.process(this.image.rootPid).namespaceIds);
    for (const { id, content } of this.image.namespaces) {
      if (ids.has(id) && content?.$case === 'user') return { id, space: content.value };
    }
    return undefined;
  }

  /** Whether each process finds its dump file open: that of the host's root is closed to the root of a namespace. */
  get opensDumpsEarly(): boolean {
    return this.pages === 'embedded' && this.rootUserNamespace !== undefined;
  }

  get #dumps(): number {
    return this.namespaceFd('spaces') + HOMES.length + this.image.namespaces.length;
  }

  get #mounts(): number {
    return this.#dumps + (this.opensDumpsEarly ? this.living.length : 0);
  }

  #mountIds(): number[] {
    return this.image.namespaces.flatMap(({ content }) =>
      content?.$case === 'mnt' ? content.value.mounts.map(({ id }) => id) : [],
    );
  }

  sharedMemory(id: number): SharedMemory {
    const object = this.image.sharedMemory.find((candidate) => candidate.id === id);
    invariant(object !== undefined, `No shared memory object ${id}`);
    return object;
  }

  /** How many processes share a table of descriptors with another one. */
  get tableSharerCount(): number {
    return this.#tableSharers.length;
  }

  sharesTable({ pid }: Process): boolean {
    return this.#tableSharers.includes(pid);
  }

  /** The restorer's descriptors that every process has for itself: those that share a table have other numbers. */
  ownFd(which: 'self' | 'left', { pid }: Process): number {
    const index = this.#tableSharers.indexOf(pid);
    // The root's dump file is where whoever started it has put it, and a store is the same for all.
    const isGiven = pid === this.image.rootPid || this.pages === 'external';
    if (index < 0 || (which === 'self' && isGiven)) return this.service(which);
    return this.objectsEnd + index * 2 + (which === 'self' ? 0 : 1);
  }

  /** Of a process whose memory comes later: all are in one table of descriptors when they are made. */
  userfaultFd(process: Process): number {
    return this.objectsEnd + this.#tableSharers.length * 2 + this.living.indexOf(process);
  }

  once(key: string): boolean {
    if (this.#done.has(key)) return false;
    this.#done.add(key);
    return true;
  }

  service(which: keyof typeof SERVICE): number {
    return this.serviceBase + SERVICE[which];
  }

  /** The process that recreates a file object: its only owner for simple kinds, else the root. */
  creatorOf(file: FileObject): number {
    const owners = this.#owners.get(file.id) ?? [];
    const alone =
      owners.length === 1 && this.#solitary.has(file.id) && !this.#openedOutside.has(file.id);
    return alone ? owners[0]! : this.image.rootPid;
  }

  /** Whether a file is opened before the root is somebody in its user namespace: it may belong to others, who had opened
   *  it for the tree. */
  isOpenedOutside({ id }: FileObject): boolean {
    return this.#openedOutside.has(id);
  }

  filesCreatedBy(pid: number): FileObject[] {
    return this.image.files.filter((file) => this.creatorOf(file) === pid);
  }

  /** The process and descriptor through which `installed` steps of a file run: its first owner's first. */
  installer(file: FileObject): { pid: number; fd: number } | undefined {
    const pid = this.#owners.get(file.id)?.[0];
    const process = this.image.processes.find((candidate) => candidate.pid === pid);
    const fd = process?.descriptors.find((descriptor) => descriptor.fileId === file.id)?.fd;
    return pid === undefined || fd === undefined ? undefined : { pid, fd };
  }

  process(pid: number): Process {
    const process = this.image.processes.find((candidate) => candidate.pid === pid);
    invariant(process !== undefined, `No process ${pid}`);
    return process;
  }

  /** What a barrier operation takes when `count` tasks meet there. */
  meeting(barrier: keyof typeof BARRIER, count: number): [number, number] {
    const index = BARRIER[barrier];
    const total = (this.#passedBefore.get(index) ?? 0) + count;
    this.#passed.set(index, total);
    return [index, total];
  }

  /** Carried network namespaces whose devices are made by the steps so far, by Namespace.id. */
  readonly networksMade = new Set<number>();

  /** Processes that exist while the root makes the files, with their programs; undefined: none does. */
  delegates: ReadonlyMap<number, ProgramBuilder> | undefined;

  delegate(
    b: ProgramBuilder,
    { pid, name }: { pid: number; name: string },
    steps: (theirs: ProgramBuilder) => void,
  ): boolean {
    const theirs = this.delegates?.get(pid);
    if (theirs === undefined) return false;
    const index = this.#barrierOf(`delegate ${pid}`);
    this.#meet([b, theirs], index, `${name}: as process ${pid}`);
    steps(theirs);
    this.#meet([b, theirs], index, `${name}: done by process ${pid}`);
    return true;
  }

  /** Those that wait for `what` (`awaits`) may go on. */
  announces(b: ProgramBuilder, what: string): void {
    b.op('barrier', [this.#barrierOf(what), 1], `${what}: there`);
  }

  awaits(b: ProgramBuilder, what: string): void {
    b.op('barrier', [this.#barrierOf(what), 1, 1], `${what}: wait for it`);
  }

  #barrierOf(key: string): number {
    const index = this.#barriers.get(key) ?? FIRST_FREE_BARRIER + this.#barriers.size;
    if (index >= BARRIER_COUNT) {
      throw new FerryError('dumpbin.barriers', 'Too many processes have to wait for each other');
    }
    this.#barriers.set(key, index);
    return index;
  }

  #meet(programs: readonly ProgramBuilder[], index: number, step: string): void {
    const total = (this.#passed.get(index) ?? 0) + programs.length;
    this.#passed.set(index, total);
    for (const program of programs) program.op('barrier', [index, total], step);
  }

  /** As `meeting`, for the one after all of these programs' own: later programs complete it. */
  nextMeeting(barrier: keyof typeof BARRIER, count: number): [number, number] {
    const index = BARRIER[barrier];
    return [index, (this.#passed.get(index) ?? 0) + count];
  }

  /** Counters of the barriers once these programs have run. */
  get passed(): ReadonlyMap<number, number> {
    return this.#passed;
  }

  get living(): Process[] {
    return this.image.processes.filter((process) => process.state !== 'zombie');
  }

  /** Tasks that meet at the barriers in front of the end: every thread, and the keeper. */
  get taskCount(): number {
    return this.living.reduce((sum, process) => sum + process.threads.length, 0) + 1;
  }
}

/** Processes with a table of descriptors in common (clone(2) CLONE_FILES without CLONE_THREAD). */
function tableSharers(image: TreeImage): number[] {
  const sharers = image.processes.filter(({ filesOwnerPid }) => filesOwnerPid !== 0);
  const pids = new Set(sharers.flatMap(({ pid, filesOwnerPid }) => [filesOwnerPid, pid]));
  return [...pids];
}
