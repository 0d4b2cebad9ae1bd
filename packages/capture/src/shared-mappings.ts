import type { SharedMemory, TreeImage } from '@ferry/image';
import { type AddressRange, type Mapping, parseMappings, tryReadProc } from '@ferry/linux';
import { mapFilesPath } from './memory.js';
import { objectKind } from './memory-objects.js';
import type { PageSegment } from './segments.js';

const PAGE = 4096n;

/** A mapping that shows a part of a shared memory object, from `offset` of it on. */
export interface ShownPart extends AddressRange {
  readonly hostPid: number;
  readonly offset: bigint;
}

/** A part of an object, and where a skeleton has it mapped writable. */
export interface Room {
  readonly pid: number;
  readonly address: bigint;
  readonly from: bigint;
  readonly to: bigint;
}

/** An object of the layout, and where it was found. */
export interface FoundObject {
  readonly object: SharedMemory;
  /** Names the object in all address spaces, as long as it lives. */
  readonly key: string;
  /** Opens it. */
  readonly path: string;
}

/** What shared mappings of these processes show, by object. A process that has ended shows nothing. */
export function shownParts(hostPids: readonly number[]): Map<string, ShownPart[]> {
  const shown = new Map<string, ShownPart[]>();
  for (const hostPid of hostPids) {
    for (const mapping of parseMappings(tryReadProc(`/proc/${hostPid}/maps`) ?? '')) {
      const key = keyOf(mapping);
      if (key === undefined) continue;
      const { start, end, offset } = mapping;
      const parts = shown.get(key) ?? [];
      const last = parts.at(-1);
      const goesOn = last?.hostPid === hostPid && last.end === start;
      // What mprotect(2) has cut in two is one part.
      if (goesOn && last.offset + (last.end - last.start) === offset) {
        parts[parts.length - 1] = { ...last, end };
      } else parts.push({ hostPid, start, end, offset });
      shown.set(key, parts);
    }
  }
  return shown;
}

function keyOf(mapping: Mapping): string | undefined {
  if (!mapping.shared) return undefined;
  const kind = objectKind(mapping);
  return kind === undefined ? undefined : `${kind} ${mapping.device} ${mapping.inode}`;
}

/** The objects of a stopped tree's layout that its processes map shared. */
export function foundObjects(layout: TreeImage): FoundObject[] {
  const found = new Map<number, FoundObject>();
  for (const { hostPid, mm } of layout.processes) {
    const vmas = (mm?.vmas ?? []).filter(({ kind, shared }) => kind === 'shared' && shared);
    if (vmas.length === 0) continue;
    const ids = new Map(vmas.map(({ start, sharedMemoryId }) => [start, sharedMemoryId]));
    for (const mapping of parseMappings(tryReadProc(`/proc/${hostPid}/maps`) ?? '')) {
      const object = layout.sharedMemory.find(({ id }) => id === ids.get(mapping.start));
      const key = keyOf(mapping);
      if (object === undefined || key === undefined || found.has(object.id)) continue;
      found.set(object.id, { object, key, path: mapFilesPath(hostPid, mapping) });
    }
  }
  return [...found.values()];
}

/** Where a skeleton with this layout takes pages of an object: each page at one place, always the same. Ascending. */
export function roomsOf(layout: TreeImage, object: SharedMemory): Room[] {
  const rooms: Room[] = [];
  for (const { pid, mm } of layout.processes) {
    for (const vma of mm?.vmas ?? []) {
      const isIts = vma.kind === 'shared' && vma.sharedMemoryId === object.id;
      if (!isIts || !vma.shared || !vma.fileWritable) continue;
      const from = vma.fileOffset;
      const size = ((object.size + PAGE - 1n) / PAGE) * PAGE;
      const to = lower(from + (vma.end - vma.start), size);
      for (const gap of gaps({ start: from, end: to }, rooms)) {
        const address = vma.start + (gap.start - from);
        rooms.push({ pid, address, from: gap.start, to: gap.end });
        rooms.sort((a, b) => (a.from < b.from ? -1 : 1));
      }
    }
  }
  return rooms;
}

function gaps({ start, end }: AddressRange, rooms: readonly Room[]): AddressRange[] {
  const left: AddressRange[] = [];
  let at = start;
  for (const { from, to } of rooms) {
    if (to <= at || from >= end) continue;
    if (from > at) left.push({ start: at, end: from });
    at = to;
  }
  if (at < end) left.push({ start: at, end });
  return left;
}

/** The parts of a run of an object that can be read through a mapping and have their place in a skeleton. */
export function segmentsOf(
  run: AddressRange,
  rooms: readonly Room[],
  shown: readonly ShownPart[],
): { segment: PageSegment; part: AddressRange }[] {
  const found: { segment: PageSegment; part: AddressRange }[] = [];
  for (const room of rooms) {
    const end = lower(run.end, room.to);
    for (let at = higher(run.start, room.from); at < end; ) {
      const source = shown.find(
        ({ offset, start, end: last }) => offset <= at && at < offset + (last - start),
      );
      if (source === undefined) break;
      const to = lower(end, source.offset + (source.end - source.start));
      const segment = {
        ...{ hostPid: source.hostPid, address: source.start + (at - source.offset) },
        ...{ pid: room.pid, targetAddress: room.address + (at - room.from) },
        pages: Number((to - at) / PAGE),
      };
      found.push({ segment, part: { start: at, end: to } });
      at = to;
    }
  }
  return found;
}

/** Whether every part of `before` is shown by `now` as it was. */
export function stillShown(before: readonly ShownPart[], now: readonly ShownPart[]): boolean {
  return before.every((old) =>
    now.some(
      ({ hostPid, start, end, offset }) =>
        hostPid === old.hostPid &&
        start <= old.start &&
        end >= old.end &&
        offset - start === old.offset - old.start,
    ),
  );
}

function lower(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

function higher(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
