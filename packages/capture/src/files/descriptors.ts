import { type Blocker, invariant, SysError } from '@ferry/core';
import type { FileDescriptor, FileObject } from '@ferry/image';
import { objectText } from './common.js';
import type { Descriptor, FileCapture, FileContext, FileOwnerProcess } from './context.js';
import { groupByDescription, isSameDescription } from './identify.js';
import { locksOf } from './locks.js';
import { ownerOf } from './owner.js';
import { DescriptorReader } from './read-descriptors.js';
import { fileCaptures } from './registry.js';

/** Every descriptor of a tree, with those that share an open file description brought together. Closing it closes the
 *  duplicates that captures made. */
export interface CollectedDescriptors extends Disposable {
  readonly processes: readonly FileOwnerProcess[];
  /** By pid (as the image has it), ascending by number. */
  readonly tables: ReadonlyMap<number, readonly Descriptor[]>;
  /** One per open file description. */
  readonly descriptions: readonly { id: number; descriptor: Descriptor; all: Descriptor[] }[];
  readonly reader: DescriptorReader;
}

/** Lists all descriptors of all processes of a tree and identifies shared descriptions. `scanning`: the processes run;
 *  what they close meanwhile is left out.
 *  @throws SysError when /proc refuses (no CAP_SYS_PTRACE) */
export function collectDescriptors(
  processes: readonly FileOwnerProcess[],
  options: { scanning: boolean },
): CollectedDescriptors {
  const reader = new DescriptorReader();
  const tables = new Map<number, readonly Descriptor[]>();
  const all: Descriptor[] = [];
  for (const process of processes) {
    const table = reader.readTable(process);
    tables.set(process.pid, table);
    for (const descriptor of table) all.push(descriptor);
  }
  const groups = groupByDescription(all, options.scanning);
  // Epoll instances come last: what they watch is restored before them.
  const ordered = [
    ...groups.filter(([first]) => !isEpoll(first!)),
    ...groups.filter(([first]) => isEpoll(first!)),
  ];
  return {
    processes,
    tables,
    descriptions: ordered.map((group, i) => ({ id: i + 1, descriptor: group[0]!, all: group })),
    reader,
    [Symbol.dispose]: () => reader[Symbol.dispose](),
  };
}

function isEpoll(descriptor: Descriptor): boolean {
  return descriptor.link === 'anon_inode:[eventpoll]';
}

export interface CaptureFilesOptions {
  /** The scan before the freeze: see FileContext.scanning. */
  readonly scanning: boolean;
  readonly externalInodes?: readonly bigint[];
  readonly sharedMemoryId: FileContext['sharedMemoryId'];
}

export interface CapturedFiles {
  readonly files: FileObject[];
  /** The descriptor table of a process (pid as the image has it). */
  descriptorsOf(pid: number): FileDescriptor[];
  readonly blockers: Blocker[];
  /** Undoes what captures left changed in the objects and closes every duplicate. Once only. */
  release(outcome: 'thawed' | 'killed'): void;
}

/** Captures every open file description of a tree. What cannot be carried is a blocker; in a scan, what vanishes while
 *  it is looked at is passed over. On an exception everything is released. */
export function captureFiles(
  collected: CollectedDescriptors,
  options: CaptureFilesOptions,
): CapturedFiles {
  const capture = new FilesCapture(collected, options);
  try {
    return capture.run();
  } catch (error) {
    capture.release('thawed');
    throw error;
  }
}

interface Description {
  readonly id: number;
  readonly descriptor: Descriptor;
  readonly all: readonly Descriptor[];
}

class FilesCapture implements FileContext {
  readonly scanning: boolean;
  readonly processes: readonly FileOwnerProcess[];
  readonly externalInodes: readonly bigint[];
  readonly descriptions: Description[];
  readonly sharedMemoryId: FileContext['sharedMemoryId'];
  readonly #collected: CollectedDescriptors;
  readonly #byId = new Map<number, Description>();
  readonly #byFd = new Map<number, Map<number, number>>();
  readonly #byInode = new Map<string, number[]>();
  readonly #shared = new Map<string, unknown>();
  readonly #blockers: Blocker[] = [];
  #undo: ((outcome: 'thawed' | 'killed') => void)[] = [];
  #nextId = 1;

  constructor(collected: CollectedDescriptors, options: CaptureFilesOptions) {
    this.#collected = collected;
    this.scanning = options.scanning;
    this.sharedMemoryId = options.sharedMemoryId;
    this.processes = collected.processes;
    this.externalInodes = options.externalInodes ?? [];
    this.descriptions = [];
    for (const pid of collected.tables.keys()) this.#byFd.set(pid, new Map());
    for (const { id, descriptor, all } of collected.descriptions) {
      this.#add(id, descriptor, all);
      for (const { process, fd } of all) this.#byFd.get(process.pid)!.set(fd, id);
    }
  }

  run(): CapturedFiles {
    const files: FileObject[] = [];
    // The list grows while it is walked: captures adopt what is in flight.
    for (let i = 0; i < this.descriptions.length; i++) {
      const file = this.#captureOne(this.descriptions[i]!);
      if (file !== undefined) files.push(file);
    }
    return {
      files,
      descriptorsOf: (pid) => this.#descriptorsOf(pid),
      blockers: this.#blockers,
      release: (outcome) => this.release(outcome),
    };
  }

  release(outcome: 'thawed' | 'killed'): void {
    const actions = this.#undo.reverse();
    this.#undo = [];
    const errors: unknown[] = [];
    for (const action of actions) {
      try {
        action(outcome);
      } catch (error) {
        errors.push(error);
      }
    }
    this.#collected[Symbol.dispose]();
    if (errors.length === 1) throw errors[0];
    if (errors.length > 1) throw new AggregateError(errors, 'Several files could not be released');
  }

  idOf(pid: number, fd: number): number | undefined {
    return this.#byFd.get(pid)?.get(fd);
  }

  referencesTo(id: number): number {
    return this.holdersOf(id).length;
  }

  descriptorOf(id: number): Descriptor {
    const description = this.#byId.get(id);
    invariant(description !== undefined, `No description ${id}`);
    return description.descriptor;
  }

  holdersOf(id: number): readonly Descriptor[] {
    return this.#byId.get(id)?.all ?? [];
  }

  idsOfInode(device: bigint, inode: bigint): readonly number[] {
    return this.#byInode.get(`${device}:${inode}`) ?? [];
  }

  adopt(descriptor: Descriptor): number {
    for (const id of this.idsOfInode(descriptor.stat.device, descriptor.stat.inode)) {
      if (isSameDescription(this.descriptorOf(id), descriptor)) return id;
    }
    const id = this.#nextId;
    this.#add(id, descriptor, []);
    return id;
  }

  onRelease(action: (outcome: 'thawed' | 'killed') => void): void {
    this.#undo.push(action);
  }

  shared<T>(key: string, make: () => T): T {
    if (!this.#shared.has(key)) this.#shared.set(key, make());
    return this.#shared.get(key) as T;
  }

  block(blocker: Omit<Blocker, 'pid' | 'command'>, descriptor: Descriptor): void {
    const { hostPid: pid, command } = descriptor.process;
    this.#blockers.push({ ...blocker, pid, command });
  }

  #add(id: number, descriptor: Descriptor, all: readonly Descriptor[]): void {
    const description = { id, descriptor, all };
    this.descriptions.push(description);
    this.#byId.set(id, description);
    this.#nextId = Math.max(this.#nextId, id + 1);
    const key = `${descriptor.stat.device}:${descriptor.stat.inode}`;
    const same = this.#byInode.get(key);
    if (same === undefined) this.#byInode.set(key, [id]);
    else same.push(id);
  }

  #captureOne({ id, descriptor, all }: Description): FileObject | undefined {
    try {
      const capture = captureFor(descriptor);
      if (capture === undefined) {
        this.#blockUnknown(descriptor);
        return undefined;
      }
      const kind = capture.capture(descriptor, this);
      if (kind === undefined) return undefined;
      const { flags, position } = descriptor;
      const owner = ownerOf(descriptor, this);
      return { id, flags, position, owner, locks: locksOf(descriptor, all, this), kind };
    } catch (error) {
      // Closed, or its process ended, since it was listed.
      if (this.scanning && error instanceof SysError && isGone(error)) return undefined;
      throw error;
    }
  }

  #blockUnknown(descriptor: Descriptor): void {
    this.block(
      {
        code: 'file.unknown',
        object: objectText(descriptor),
        reason: 'this kind of file cannot be carried yet',
        remedy: 'close it, or start the program so that it does not open it',
      },
      descriptor,
    );
  }

  #descriptorsOf(pid: number): FileDescriptor[] {
    const table = this.#collected.tables.get(pid) ?? [];
    return table.map(({ fd, closeOnExec }) => ({ fd, closeOnExec, fileId: this.idOf(pid, fd)! }));
  }
}

function captureFor(descriptor: Descriptor): FileCapture | undefined {
  return fileCaptures.find((capture) => capture.matches(descriptor));
}

function isGone(error: SysError): boolean {
  return ['ENOENT', 'ESRCH', 'EBADF', 'EACCES'].includes(error.errno);
}
