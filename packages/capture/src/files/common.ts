import type { FileObject } from '@ferry/image';
import { call, ERRNO, type OwnedFd, sys } from '@ferry/linux';
import type { Descriptor, FileContext } from './context.js';
import { lstatPath, parseStat } from './read-descriptors.js';

export const O_ACCMODE = 0o3;
export const O_WRONLY = 0o1;
export const O_RDWR = 0o2;
export const O_NONBLOCK = 0o4000;
export const O_ASYNC = 0o20000;
export const O_DIRECT = 0o40000;
export const O_CLOEXEC = 0o2000000;
const O_PATH = 0o10000000;

const S_IFMT = 0o170000;
const TYPES = new Map([
  [0o140000, 'socket'],
  [0o120000, 'link'],
  [0o100000, 'regular'],
  [0o60000, 'block'],
  [0o40000, 'directory'],
  [0o20000, 'character'],
  [0o10000, 'fifo'],
] as const);
export type FileType = 'socket' | 'link' | 'regular' | 'block' | 'directory' | 'character' | 'fifo';

/** The file type of stat(2); undefined for anonymous inodes, which have none. */
export function typeOf(descriptor: Pick<Descriptor, 'stat'>): FileType | undefined {
  return TYPES.get((descriptor.stat.mode & S_IFMT) as 0o10000);
}

/** `descriptor 7 -> /dev/fb0`, for blockers. */
export function objectText(descriptor: Pick<Descriptor, 'fd' | 'link'>): string {
  return `descriptor ${descriptor.fd} -> ${descriptor.link}`;
}

/** Whether a descriptor only names a file (O_PATH): whatever the file is, nothing of it is open. */
export function isPathOnly(descriptor: Pick<Descriptor, 'flags'>): boolean {
  return (descriptor.flags & O_PATH) !== 0;
}

export function canRead(flags: number): boolean {
  return (flags & O_ACCMODE) !== O_WRONLY;
}

export function canWrite(flags: number): boolean {
  return (flags & O_ACCMODE) !== 0;
}

/** Reports a descriptor as a blocker: what a capture returns when it cannot carry it. */
export function refuse(
  descriptor: Descriptor,
  ctx: FileContext,
  blocker: { code: string; reason: string; remedy: string },
): undefined {
  ctx.block({ ...blocker, object: objectText(descriptor) }, descriptor);
}

/** major:minor of a device number of stat(2). */
export function deviceNumbers(device: bigint): { major: number; minor: number } {
  const major = Number(((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n));
  const minor = Number((device & 0xffn) | ((device >> 12n) & 0xffffff00n));
  return { major, minor };
}

export const POLLIN = 1;
export const POLLOUT = 4;
export const POLLERR = 8;
export const POLLHUP = 16;

/** What poll(2) says of a file at once. POLLERR and POLLHUP are always asked for. */
export function pollNow(fd: number, events: number): number {
  const pollfd = Buffer.alloc(8);
  pollfd.writeInt32LE(fd, 0);
  pollfd.writeInt16LE(events, 4);
  call('poll', pollfd, 1, 0);
  return pollfd.readInt16LE(6);
}

/** Standard input, output or error of the tree that leads to whoever started it: of the ids of one inode, the one that
 *  was found first stands at 0, 1 or 2 of the outermost process that has it. undefined when none does. */
export function standardFdOf(ids: readonly number[], ctx: FileContext): number | undefined {
  for (const id of ids) {
    const fd = ctx.holdersOf(id)[0]?.fd;
    if (fd !== undefined && fd <= 2) return fd;
  }
  return undefined;
}

/** A descriptor that leads to whoever started the tree, or a description opened anew from it (/dev/stdout). */
export function externalKind(
  descriptor: Descriptor,
  standardFd: number,
  ctx: FileContext,
): FileObject['kind'] {
  const id = ctx.idOf(descriptor.process.pid, descriptor.fd);
  const inherited = id !== undefined && (ctx.holdersOf(id)[0]?.fd ?? 3) <= 2;
  const own = inherited ? ctx.holdersOf(id)[0]!.fd : standardFd;
  return {
    $case: 'external',
    value: { standardFd: own, description: descriptor.link, reopened: !inherited },
  };
}

/** What stands at a path now, for comparison with an open file; symbolic links are not followed. */
export function isAtPath(path: string, descriptor: Descriptor): boolean {
  const there = lstatPath(path);
  const { device, inode } = descriptor.stat;
  return there !== undefined && there.device === device && there.inode === inode;
}

/** Size and the like of an open file, now. */
export function statFd(fd: OwnedFd): ReturnType<typeof parseStat> {
  const raw = Buffer.alloc(144);
  call('fstat', fd.number, raw);
  return parseStat(raw);
}

/** An integer that ioctl(2) writes. */
export function ioctlInt(fd: OwnedFd, request: number): number {
  const value = Buffer.alloc(4);
  call('ioctl', fd.number, request, value);
  return value.readInt32LE(0);
}

/** Whether a raw result is this errno. */
export function isErrno(result: number, name: keyof typeof ERRNO): boolean {
  return result === -ERRNO[name];
}

/** f_type of the file system an open file is on. */
export function fileSystemOf(descriptor: Descriptor, ctx: FileContext): number {
  const known = ctx.shared('fileSystems', () => new Map<bigint, number>());
  const { device } = descriptor.stat;
  let magic = known.get(device);
  if (magic === undefined) {
    const raw = Buffer.alloc(120);
    magic = sys('fstatfs', descriptor.dup().number, raw) < 0 ? 0 : Number(raw.readBigInt64LE(0));
    known.set(device, magic);
  }
  return magic;
}

export const FILE_SYSTEM = {
  proc: 0x9fa0,
  sysfs: 0x62656572,
  cgroup: 0x27e0eb,
  cgroup2: 0x63677270,
  tracefs: 0x74726163,
  debugfs: 0x64626720,
  securityfs: 0x73636673,
  bpf: 0xcafe4a11,
  mqueue: 0x19800202,
} as const;

const PSEUDO: readonly number[] = Object.values(FILE_SYSTEM);

/** Whether the kernel makes up a file's content, so that its size and time mean nothing. */
export function isPseudo(magic: number): boolean {
  return PSEUDO.includes(magic);
}
