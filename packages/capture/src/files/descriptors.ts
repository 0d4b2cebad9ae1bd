import { type Blocker, invariant, SysError } from '@ferry/core';
import type { FileDescriptor, FileObject } from '@ferry/image';
import { AF } from '@ferry/linux';
import { objectText } from './common.js';
import type { Descriptor, FileCapture, FileContext, FileOwnerProcess } from './context.js';
import { groupByDescription, isSameDescription } from './identify.js';
import { locksOf } from './locks.js';
import { lostFolder } from './lost-folder.js';
import { mountNamespaceOf } from './mount-prefix.js';
import { ownerOf } from './owner.js';
import { DescriptorReader } from './read-descriptors.js';
import { fileCaptures } from './registry.js';
import { NO_TERMINAL, type SessionTerminal, sessionTerminal } from './session-terminal.js';
import { SocketNetworks } from './socket-networks.js';
import { refuseOtherNamespace } from './socket-refusals.js';
import { readSocketsAhead, socketKind } from './socket-table.js';
import { isTun } from './tun.js';
import { adoptInFlight } from './unix-queue.js';

/** Every descriptor of a tree, with those that share an open file description brought together. Closing it closes the
 *  duplicates that captures made. */
export interface CollectedDescriptors extends Disposable {
  readonly processes: readonly FileOwnerProcess[];
  /** By pid (as the image has it), ascending by number. */
  readonly tables: ReadonlyMap<number, readonly Descriptor[]>;
  /** One per open file description. */
  readonly descriptions: readonly { id: number; descriptor: Descriptor; all: Descriptor[] }[];
  readonly reader: DescriptorReader;
  readonly networks: SocketNetworks;
}

/** Lists all descriptors of all processes of a tree and identifies shared descriptions. `scanning`: the processes run;
 *  what they close meanwhile is left out.
 *  @throws SysError when /proc refuses (no CAP_SYS_PTRACE) */
export function collectDescriptors(
  processes: readonly FileOwnerProcess[],
  options: { scanning: boolean },
): CollectedDescriptors {
  const reader = new DescriptorReader();
  const networks = new SocketNetworks();
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
    networks,
    [Symbol.dispose]: () => {
      networks[Symbol.dispose]();
      reader[Symbol.dispose]();
    },
  };
}

function isEpoll(descriptor: Descriptor): boolean {
  return descriptor.link === 'anon_inode:[eventpoll]';
}

export interface CaptureFilesOptions {
  /** The scan before the freeze: see FileContext.scanning. */
  readonly scanning: boolean;
  readonly externalInodes?: readonly bigint[];
  readonly pids: FileContext['pids'];
  readonly sharedMemoryId: FileContext['sharedMemoryId'];
  /** What a program has not read blocks, for it to read it; without, it is lost where it may be. */
  readonly awaitsReaders?: boolean;
  /** See FileContext. */
  readonly namespaceId: FileContext['namespaceId'];
}

export interface CapturedFiles {
  readonly files: FileObject[];
  /** The descriptor table of a process (pid as the image has it). */
  descriptorsOf(pid: number): FileDescriptor[];
  /** File objects that stand for a working and a root directory which have no path any more; 0 for others. */
  foldersOf(pid: number): { cwdFileId: number; rootFileId: number };
  /** Its controlling terminal: see Process. */
  terminalOf(pid: number): SessionTerminal;
  readonly blockers: Blocker[];
  /** What was left to be looked at once the image is there, before `release`. */
  check(): Blocker[];
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
  readonly pids: FileContext['pids'];
  readonly networks: FileContext['networks'];
  readonly namespaceId: FileContext['namespaceId'];
  readonly #collected: CollectedDescriptors;
  readonly #byId = new Map<number, Description>();
  readonly #byFd = new Map<number, Map<number, number>>();
  readonly #byInode = new Map<string, number[]>();
  readonly #shared = new Map<string, unknown>();
  readonly #blockers: Blocker[] = [];
  readonly #later: (() => void)[] = [];
  readonly #lost = new Map<Descriptor, string>();
  readonly #awaitsReaders: boolean;
  #undo: ((outcome: 'thawed' | 'killed') => void)[] = [];
  #nextId = 1;

  constructor(collected: CollectedDescriptors, options: CaptureFilesOptions) {
    this.#collected = collected;
    this.scanning = options.scanning;
    this.sharedMemoryId = options.sharedMemoryId;
    this.networks = collected.networks;
    this.pids = options.pids;
    this.namespaceId = options.namespaceId;
    this.processes = collected.processes;
    this.externalInodes = options.externalInodes ?? [];
    this.#awaitsReaders = options.awaitsReaders ?? false;
    this.descriptions = [];
    for (const pid of collected.tables.keys()) this.#byFd.set(pid, new Map());
    for (const { id, descriptor, all } of collected.descriptions) {
      this.#add(id, descriptor, all);
      for (const { process, fd } of all) this.#byFd.get(process.pid)!.set(fd, id);
    }
  }

  run(): CapturedFiles {
    const files: FileObject[] = [];
    const folders = new Map(
      this.processes.map((process) => [
        process.pid,
        {
          cwdFileId: this.#adoptFolder(process, 'cwd'),
          rootFileId: this.#adoptFolder(process, 'root'),
        },
      ]),
    );
    const terminals = new Map(
      this.processes.map((process) => [
        process.pid,
        sessionTerminal(process, this, (descriptor) => this.#adoptUnheld(descriptor)),
      ]),
    );
    // The list grows while it is walked: what is in flight may have something in flight in it.
    for (let i = 0; !this.scanning && i < this.descriptions.length; i++) {
      adoptInFlight(this.descriptions[i]!.descriptor, this);
    }
    readSocketsAhead(
      this.descriptions.map(({ descriptor }) => descriptor),
      this,
    );
    for (let i = 0; i < this.descriptions.length; i++) {
      const file = this.#captureOne(this.descriptions[i]!);
      if (file !== undefined) files.push(file);
    }
    return {
      files,
      descriptorsOf: (pid) => this.#descriptorsOf(pid),
      terminalOf: (pid) => terminals.get(pid) ?? NO_TERMINAL,
      foldersOf: (pid) => folders.get(pid) ?? { cwdFileId: 0, rootFileId: 0 },
      blockers: this.#blockers,
      check: () => this.#check(),
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

  checkLater(check: () => void): void {
    this.#later.push(check);
  }

  #check(): Blocker[] {
    const before = this.#blockers.length;
    for (const check of this.#later.splice(0)) check();
    return this.#blockers.slice(before);
  }

  shared<T>(key: string, make: () => T): T {
    if (!this.#shared.has(key)) this.#shared.set(key, make());
    return this.#shared.get(key) as T;
  }

  block(blocker: Omit<Blocker, 'pid' | 'command'>, { process }: Pick<Descriptor, 'process'>): void {
    const { hostPid: pid, command } = process;
    this.#blockers.push({ ...blocker, pid, command });
  }

  lose(what: string, descriptor: Descriptor, { passes } = { passes: true }): void {
    if (this.scanning) return;
    if (!this.#awaitsReaders || !passes) {
      this.#lost.set(descriptor, what);
      return;
    }
    const reason = `${what} wait to be read`;
    const remedy = 'try again once the program has read them';
    this.block({ code: 'file.unread', object: objectText(descriptor), reason, remedy }, descriptor);
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

  #adoptFolder(process: FileOwnerProcess, name: 'cwd' | 'root'): number {
    const folder = lostFolder(process, name, this);
    if (folder === undefined) return 0;
    const { device, inode } = folder.stat;
    return this.shared(`lostFolder:${device}:${inode}`, () => this.#adoptUnheld(folder));
  }

  /** What no descriptor of the tree refers to, and yet is needed. */
  #adoptUnheld(descriptor: Descriptor): number {
    const id = this.#nextId;
    this.#add(id, descriptor, []);
    return id;
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
      const lost = this.#lost.get(descriptor) ?? '';
      const locks = locksOf(descriptor, all, this);
      const places = this.#placesOf(descriptor);
      if (places.networkNamespaceId === undefined && kind.$case !== 'external') {
        return refuseOtherNamespace(descriptor, this);
      }
      const { networkNamespaceId = 0, mountNamespaceId } = places;
      return {
        id,
        flags,
        position,
        owner,
        locks,
        lost,
        networkNamespaceId,
        mountNamespaceId,
        kind,
      };
    } catch (error) {
      // Closed, or its process ended, since it was listed.
      if (this.scanning && error instanceof SysError && isGone(error)) return undefined;
      throw error;
    }
  }

  /** The namespaces that it must be made in; undefined: one that is not carried. */
  #placesOf(descriptor: Descriptor): {
    networkNamespaceId: number | undefined;
    mountNamespaceId: number;
  } {
    const kind = socketKind(descriptor);
    const isOfNetwork = kind !== undefined || isTun(descriptor);
    const network = isOfNetwork ? this.networks.of(descriptor)?.link : undefined;
    const hasPath = descriptor.link.startsWith('/') || kind?.domain === AF.unix;
    const mount = hasPath ? mountNamespaceOf(descriptor, this).link : undefined;
    return {
      networkNamespaceId: network === undefined ? 0 : this.namespaceId(network),
      mountNamespaceId: (mount === undefined ? 0 : this.namespaceId(mount)) ?? 0,
    };
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
