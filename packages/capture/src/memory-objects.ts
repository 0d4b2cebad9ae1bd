import { FerryError } from '@ferry/core';
import type { SharedMemory } from '@ferry/image';
import { type Mapping, type OwnedFd, sys } from '@ferry/linux';
import { fileReference, mapFilesPath, sharedRuns } from './memory.js';

const F_GET_SEALS = 1034;

/** Where the pages of a shared memory object can be read: a process that maps it whole or in part. */
export interface SharedMapping {
  readonly hostPid: number;
  readonly pid: number;
  readonly start: bigint;
  readonly end: bigint;
  readonly offset: bigint;
}

interface KnownObject {
  readonly image: SharedMemory;
  readonly path: string;
}

/** Memory objects that mappings and descriptors of the tree share, each once, by device and inode. */
export class MemoryObjects {
  readonly #objects = new Map<string, KnownObject>();

  /** The id of the shared object behind a mapping; undefined when it is an ordinary file's. */
  match(hostPid: number, mapping: Mapping): number | undefined {
    const kind = objectKind(mapping);
    if (kind === undefined) return undefined;
    const path = mapFilesPath(hostPid, mapping);
    const file = fileReference(path, mapping.name);
    if (file === undefined) return undefined;
    return this.#add(file.device, file.inode, path, {
      kind,
      name:
        kind === 'memfd' ? mapping.name.replace(/^\/memfd:/, '').replace(/ \(deleted\)$/, '') : '',
      size: file.size,
      mode: file.mode & 0o7777,
    });
  }

  /** The id of the object behind a memfd descriptor, open as `fd` in our process. */
  forDescriptor(device: bigint, inode: bigint, kind: string, name: string, fd: OwnedFd): number {
    const path = `/proc/self/fd/${fd.number}`;
    const file = fileReference(path, name);
    const seals = sys('fcntl', fd.number, F_GET_SEALS);
    const id = this.#add(device, inode, path, {
      kind,
      name,
      size: file?.size ?? 0n,
      mode: (file?.mode ?? 0) & 0o7777,
    });
    const object = [...this.#objects.values()].find((known) => known.image.id === id);
    if (object !== undefined && seals > 0) object.image.seals = seals;
    return id;
  }

  /** Where our process can open the object. */
  pathOf(id: number): string {
    const object = [...this.#objects.values()].find((known) => known.image.id === id);
    if (object === undefined)
      throw new FerryError('image.sharedMemory', `No shared memory object ${id}`);
    return object.path;
  }

  #add(
    device: bigint,
    inode: bigint,
    path: string,
    fields: { kind: string; name: string; size: bigint; mode: number },
  ): number {
    const key = `${device}:${inode}`;
    const known = this.#objects.get(key);
    if (known !== undefined) return known.image.id;
    const image: SharedMemory = {
      id: this.#objects.size + 1,
      ...fields,
      device,
      inode,
      seals: 0,
      uid: 0,
      gid: 0,
      memfdFlags: 0,
      runs: [],
    };
    this.#objects.set(key, { image, path });
    return image.id;
  }

  /** All objects, with the runs of pages that hold data; `address` of a run is its offset in the object. */
  finish(): SharedMemory[] {
    for (const { image, path } of this.#objects.values()) image.runs = sharedRuns(path, image.size);
    return [...this.#objects.values()].map((object) => object.image);
  }
}

function objectKind(mapping: Mapping): string | undefined {
  if (mapping.name.startsWith('/memfd:')) return 'memfd';
  if (mapping.name === '/dev/zero (deleted)') return 'anonymous';
  return undefined;
}
