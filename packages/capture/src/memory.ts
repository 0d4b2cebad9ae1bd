import { readdirSync } from 'node:fs';
import type { FileReference, Mm, PageRun, Vma } from '@ferry/image';
import {
  call,
  cString,
  type Mapping,
  OwnedFd,
  type ProcStat,
  readLink,
  readProcBytes,
  sys,
} from '@ferry/linux';
import type { MemoryObjects } from './memory-objects.js';

const PAGE = 4096n;
const PROT = { read: 1, write: 2, execute: 4 } as const;
const DELETED = ' (deleted)';
const KERNEL_AREAS: Record<string, string> = {
  '[vdso]': 'vdso',
  '[vvar]': 'vvar',
  '[vvar_vclock]': 'vvar',
  '[vsyscall]': 'vsyscall',
};

/** stat(2) of a path, as a reference; the name is the mapped file's own. */
export function fileReference(path: string, name: string): FileReference | undefined {
  const stat = Buffer.alloc(144);
  if (sys('stat', cString(path), stat) < 0) return undefined;
  const deleted = stat.readBigUInt64LE(16) === 0n;
  return {
    path: name.endsWith(DELETED) ? name.slice(0, -DELETED.length) : name,
    device: stat.readBigUInt64LE(0),
    inode: stat.readBigUInt64LE(8),
    mode: stat.readUInt32LE(24),
    size: stat.readBigInt64LE(48) as bigint,
    mtimeNs: stat.readBigInt64LE(88) * 1_000_000_000n + stat.readBigInt64LE(96),
    deleted: deleted || name.endsWith(DELETED),
  };
}

/** Where the kernel shows the very file that is mapped, deleted ones too (proc_pid_map_files(5)). */
export function mapFilesPath(hostPid: number, mapping: Mapping): string {
  return `/proc/${hostPid}/map_files/${mapping.start.toString(16)}-${mapping.end.toString(16)}`;
}

/** One mapping in the form of the image. Files are looked at once each (`references`). */
export function describeMapping(
  hostPid: number,
  mapping: Mapping,
  objects: MemoryObjects,
  references: Map<string, FileReference>,
): Vma {
  const base = baseVma(mapping);
  const area = KERNEL_AREAS[mapping.name];
  if (area !== undefined) return { ...base, kind: area };
  if (showsNoFile(mapping)) return { ...base, kind: 'anonymous', anonName: anonName(mapping) };
  if (isHugeAnonymous(mapping) && !mapping.shared) {
    const hugePageShift = hugeShift(mapFilesPath(hostPid, mapping));
    return { ...base, kind: 'anonymous', hugePageShift };
  }
  if (isAioRing(mapping)) return { ...base, kind: 'aio' };
  if (isPacketRing(hostPid, mapping)) {
    return { ...base, kind: 'packetRing', file: socketReference(mapping) };
  }
  const key = `${mapping.device}:${mapping.inode}`;
  const object = objects.match(hostPid, mapping);
  if (object !== undefined) return { ...base, kind: 'shared', sharedMemoryId: object };
  let file = references.get(key);
  if (file === undefined) {
    file = fileReference(mapFilesPath(hostPid, mapping), mapping.name);
    if (file !== undefined) references.set(key, file);
  }
  return { ...base, kind: 'file', file };
}

function baseVma(mapping: Mapping): Vma {
  return {
    start: mapping.start,
    end: mapping.end,
    prot:
      (mapping.read ? PROT.read : 0) |
      (mapping.write ? PROT.write : 0) |
      (mapping.execute ? PROT.execute : 0),
    shared: mapping.shared,
    kind: '',
    fileOffset: mapping.offset,
    file: undefined,
    sharedMemoryId: 0,
    growsDown: mapping.flags.includes('gd'),
    // Set while a migration tracks writes; a program's own use of it is refused (blockers.ts).
    flags: mapping.flags.filter((flag) => flag !== 'uw'),
    anonName: '',
    fileWritable: mapping.flags.includes('mw'),
    hugePageShift: 0,
  };
}

/** Private anonymous memory and the kernel's own. The inode of a System V segment is its number (ipc/shm.c: newseg), 0 for the
 *  first one of a namespace. */
export function showsNoFile({ inode, name }: Mapping): boolean {
  return inode === 0n && !isSegmentName(name);
}

/** The name of each mapping of a System V segment: proc_pid_maps(5). */
export function isSegmentName(name: string): boolean {
  return name.startsWith('/SYSV');
}

/** MAP_HUGETLB without a file of its own. */
export function isHugeAnonymous(mapping: Mapping): boolean {
  return mapping.name.startsWith('/anon_hugepage');
}

/** The ring of an io_setup(2) context. */
export function isAioRing(mapping: Mapping): boolean {
  return mapping.name.startsWith('/[aio]');
}

/** A ring of a packet socket (PACKET_RX_RING, PACKET_TX_RING) that the process still has as a descriptor: sockets of no
 *  other family can be mapped so by their owner. */
export function isPacketRing(hostPid: number, mapping: Mapping): boolean {
  if (!mapping.name.startsWith('socket:[')) return false;
  const folder = `/proc/${hostPid}/fd`;
  try {
    return readdirSync(folder).some((fd) => readLink(`${folder}/${fd}`) === mapping.name);
  } catch {
    return false; // it has ended, or closes files as it is looked at
  }
}

function socketReference({ name, inode }: Mapping): FileReference {
  return { path: name, device: 0n, inode, size: 0n, mtimeNs: 0n, mode: 0, deleted: false };
}

/** log2 of the page size of a file of hugetlbfs: its block size (statfs(2)). 0 when it cannot be told. */
export function hugeShift(path: string): number {
  const statfs = Buffer.alloc(120);
  if (sys('statfs', cString(path), statfs) < 0) return 0;
  return Math.log2(Number(statfs.readBigInt64LE(8)));
}

function anonName(mapping: Mapping): string {
  return /^\[anon:(.*)\]$/.exec(mapping.name)?.[1] ?? '';
}

/** Data of a shared memory object, from its own holes (lseek(2) SEEK_DATA): what any process wrote, mapped or not. */
export function sharedRuns(path: string, size: bigint): PageRun[] {
  using fd = new OwnedFd(call('open', cString(path), 0o2000000, 0));
  return dataRuns(fd, size);
}

/** The same of an object that is open here; moves the position. */
export function dataRuns(fd: OwnedFd, size: bigint): PageRun[] {
  const runs: PageRun[] = [];
  for (let at = 0n; at < size; ) {
    const data = sys('lseek', fd.number, at, 3);
    if (data < 0) break;
    const hole = sys('lseek', fd.number, data, 4);
    const end = hole < 0 ? size : BigInt(hole);
    const from = (BigInt(data) / PAGE) * PAGE;
    runs.push({ address: from, pages: (end - from + PAGE - 1n) / PAGE });
    at = end;
  }
  return runs;
}

/** The process's memory layout and its mappings, without its pages. */
export function describeMm(hostPid: number, stat: ProcStat, brk: bigint, vmas: Vma[]): Mm {
  return {
    startCode: stat.startCode,
    endCode: stat.endCode,
    startData: stat.startData,
    endData: stat.endData,
    startBrk: stat.startBrk,
    brk,
    startStack: stat.startStack,
    argStart: stat.argStart,
    argEnd: stat.argEnd,
    envStart: stat.envStart,
    envEnd: stat.envEnd,
    auxv: readProcBytes(`/proc/${hostPid}/auxv`),
    exe: fileReference(`/proc/${hostPid}/exe`, readLink(`/proc/${hostPid}/exe`)),
    vmas,
    runs: [],
    mlockFuture: 0,
    syscallReturnAddress: 0n,
    sigreturnAddress: 0n,
    guards: [],
  };
}
