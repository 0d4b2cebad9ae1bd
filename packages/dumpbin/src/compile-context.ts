import { FerryError, invariant } from '@ferry/core';
import type { FileObject, Process, SharedMemory, TreeImage } from '@ferry/image';
import type { EmitContext } from './files/emit.js';
import { highestTransientFd, solitaryFiles } from './files/registry.js';
import { SERVICE } from './layout.js';

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
} as const;

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

  constructor(image: TreeImage, pages: PageOrigin) {
    this.image = image;
    this.pages = pages;
    let highest = Math.max(63, highestTransientFd(image));
    this.#solitary = solitaryFiles(image);
    for (const process of image.processes) {
      for (const { fd, fileId } of process.descriptors) {
        highest = Math.max(highest, fd);
        const owners = this.#owners.get(fileId) ?? [];
        if (!owners.includes(process.pid)) owners.push(process.pid);
        this.#owners.set(fileId, owners);
      }
    }
    this.serviceBase = Math.ceil((highest + 1) / 64) * 64;
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
    return this.serviceBase + SERVICE.objects + position;
  }

  /** Where the description of a shared memory object stands in every process. */
  sharedMemoryFd(id: number): number {
    const position = this.image.sharedMemory.findIndex((object) => object.id === id);
    invariant(position >= 0, `No shared memory object ${id}`);
    return this.serviceBase + SERVICE.objects + this.image.files.length + position;
  }

  sharedMemory(id: number): SharedMemory {
    const object = this.image.sharedMemory.find((candidate) => candidate.id === id);
    invariant(object !== undefined, `No shared memory object ${id}`);
    return object;
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
    const alone = owners.length === 1 && this.#solitary.has(file.id);
    return alone ? owners[0]! : this.image.rootPid;
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

  get living(): Process[] {
    return this.image.processes.filter((process) => process.state !== 'zombie');
  }

  /** Tasks that meet at the barriers in front of the end: every thread, and the keeper. */
  get taskCount(): number {
    return this.living.reduce((sum, process) => sum + process.threads.length, 0) + 1;
  }
}
