import { FerryError } from '@ferry/core';
import type { SharedMemory, SysvSegment } from '@ferry/image';
import { call, cString, type Mapping, OwnedFd, sys } from '@ferry/linux';
import { withContent } from './loose-content.js';
import {
  fileReference,
  hugeShift,
  isHugeAnonymous,
  isSegmentName,
  mapFilesPath,
  sharedRuns,
  showsNoFile,
} from './memory.js';

const F_GET_SEALS = 1034;
const O_RDONLY_CLOEXEC = 0o2000000;
// include/uapi/linux/memfd.h
const MFD_HUGETLB = 4;
const MFD_HUGE_SHIFT = 26;
const MFD_ALLOW_SEALING = 2;

/** A part of a shared memory object that a process shows writable: through it pages travel. */
interface ShownPart {
  readonly from: bigint;
  readonly to: bigint;
}

interface KnownObject {
  readonly image: SharedMemory;
  readonly path: string;
  readonly shown: ShownPart[];
}

interface ObjectFields {
  readonly kind: string;
  readonly name: string;
}

/** Memory objects that mappings and descriptors of the tree share, each once, by device and inode. */
export class MemoryObjects {
  readonly #objects = new Map<string, KnownObject>();

  /** The id of the shared object behind a mapping; undefined when it is an ordinary file's. */
  match(hostPid: number, mapping: Mapping): number | undefined {
    const fields = objectFields(mapping);
    if (fields === undefined) return undefined;
    const object = this.#add(mapFilesPath(hostPid, mapping), fields, mapping.name);
    if (object === undefined) return undefined;
    if (mapping.shared && mapping.flags.includes('mw')) {
      const to = mapping.offset + (mapping.end - mapping.start);
      object.shown.push({ from: mapping.offset, to });
    }
    return object.image.id;
  }

  /** The id of the object behind a memfd or deleted file, open as `fd` in our process. */
  forDescriptor(_device: bigint, _inode: bigint, kind: string, name: string, fd: OwnedFd): number {
    const object = this.#add(`/proc/self/fd/${fd.number}`, { kind, name }, name);
    return object?.image.id ?? 0;
  }

  /** A System V segment that no process of the tree needs to have attached; readable at `path` in our process. */
  addSegment(path: string, sysv: SysvSegment): void {
    const object = this.#add(path, { kind: 'sysv', name: '' }, '');
    if (object !== undefined) object.image.sysv = sysv;
  }

  /** The objects found so far. */
  get images(): SharedMemory[] {
    return [...this.#objects.values()].map((object) => object.image);
  }

  /** Where our process can open the object. */
  pathOf(id: number): string {
    const object = [...this.#objects.values()].find((known) => known.image.id === id);
    if (object === undefined)
      throw new FerryError('image.sharedMemory', `No shared memory object ${id}`);
    return object.path;
  }

  #add(path: string, fields: ObjectFields, linkName: string): KnownObject | undefined {
    const file = fileReference(path, linkName);
    if (file === undefined) return undefined;
    // Segments have numbers of their own on the same device.
    const space = fields.kind === 'sysv' ? 'sysv ' : '';
    const key = `${space}${file.device}:${file.inode}`;
    const known = this.#objects.get(key);
    if (known !== undefined) return known;
    const owner = ownerOf(path);
    const shift = hugeShift(path);
    const image: SharedMemory = {
      id: this.#objects.size + 1,
      ...fields,
      size: file.size,
      mode: file.mode & 0o7777,
      device: file.device,
      inode: file.inode,
      mtimeNs: file.mtimeNs,
      ...owner,
      seals: 0,
      memfdFlags: 0,
      hugePageShift: shift > 12 && fields.kind !== 'deletedFile' ? shift : 0,
      sysv: undefined,
      runs: [],
      emptied: [],
    };
    if (fields.kind === 'memfd') readSeals(image, path);
    const object = { image, path, shown: [] };
    this.#objects.set(key, object);
    return object;
  }

  /** All objects, with the runs of pages that hold data; `address` of a run is its offset in the object. */
  finish(): SharedMemory[] {
    for (const { image, path, shown } of this.#objects.values()) {
      image.runs = withContent(path, sharedRuns(path, image.size), shown);
    }
    return this.images;
  }
}

/** Seals and the flags of memfd_create(2) that give them back. */
function readSeals(image: SharedMemory, path: string): void {
  using fd = new OwnedFd(call('open', cString(path), O_RDONLY_CLOEXEC, 0));
  image.seals = Math.max(0, sys('fcntl', fd.number, F_GET_SEALS));
  image.memfdFlags = MFD_ALLOW_SEALING;
  if (image.hugePageShift > 0) {
    image.memfdFlags |= MFD_HUGETLB | (image.hugePageShift << MFD_HUGE_SHIFT);
  }
}

function ownerOf(path: string): { uid: number; gid: number } {
  const stat = Buffer.alloc(144);
  if (sys('stat', cString(path), stat) < 0) return { uid: 0, gid: 0 };
  return { uid: stat.readUInt32LE(28), gid: stat.readUInt32LE(32) };
}

const DELETED = ' (deleted)';

/** What kind of shared memory object a mapping shows; undefined when it shows none. */
export function objectKind(mapping: Mapping): string | undefined {
  return objectFields(mapping)?.kind;
}

function objectFields(mapping: Mapping): ObjectFields | undefined {
  const { name } = mapping;
  if (showsNoFile(mapping) || name.startsWith('/[aio]')) return undefined;
  if (name.startsWith('/memfd:')) {
    return { kind: 'memfd', name: name.slice('/memfd:'.length).replace(/ \(deleted\)$/, '') };
  }
  if (name === `/dev/zero${DELETED}`) return { kind: 'anonymous', name: '' };
  if (isSegmentName(name)) return { kind: 'sysv', name: '' };
  if (isHugeAnonymous(mapping)) {
    return mapping.shared ? { kind: 'hugetlb', name: '' } : undefined;
  }
  if (name.startsWith('/') && name.endsWith(DELETED)) {
    return { kind: 'deletedFile', name: name.slice(0, -DELETED.length) };
  }
  return undefined;
}
