import { invariant } from '@ferry/core';
import { call, cString, ERRNO, OwnedFd, pidfdGetFd, pidfdOpen, sys, sysError } from '@ferry/linux';
import type { Descriptor, DescriptorStat, FileOwnerProcess } from './context.js';

const O_CLOEXEC = 0o2000000;
const O_DIRECTORY = 0o200000;
const PATH_MAX = 4096;
const STAT_SIZE = 144;
const RLIMIT_NOFILE = 7;
const S_IFDIR = 0o40000;
const COMMON_INODE = /^anon_inode:\[(eventfd|eventpoll|timerfd|signalfd)\]$/;

/** Reads the descriptor tables of processes: three lookups relative to /proc/PID/fd and fdinfo for each descriptor,
 *  with buffers that are reused, since node:fs takes several times as long. */
export class DescriptorReader implements Disposable {
  readonly #name = Buffer.alloc(16);
  readonly #link = Buffer.alloc(PATH_MAX);
  readonly #stat = Buffer.alloc(STAT_SIZE);
  #info = Buffer.alloc(65536);
  readonly #alike = new Map<string, DescriptorStat>();
  readonly #handles = new Map<number, OwnedFd>();
  readonly #duplicates: OwnedFd[] = [];

  /** All descriptors of a process in ascending order; none when it is gone or a zombie. A descriptor that is closed
   *  while this reads (only possible in a process that runs) is left out. */
  readTable(process: FileOwnerProcess): Descriptor[] {
    using table = openDirectory(`/proc/${process.hostPid}/fd`);
    using infos = openDirectory(`/proc/${process.hostPid}/fdinfo`);
    if (table === undefined || infos === undefined) return [];
    const found: Descriptor[] = [];
    for (const fd of numbersIn(table).sort((a, b) => a - b)) {
      const descriptor = this.#read(process, fd, table, infos);
      if (descriptor !== undefined) found.push(descriptor);
    }
    return found;
  }

  /** One descriptor; undefined when it is not open. */
  read(process: FileOwnerProcess, fd: number): Descriptor | undefined {
    using table = openDirectory(`/proc/${process.hostPid}/fd`);
    using infos = openDirectory(`/proc/${process.hostPid}/fdinfo`);
    if (table === undefined || infos === undefined) return undefined;
    return this.#read(process, fd, table, infos);
  }

  /** Closes every duplicate and process handle. */
  [Symbol.dispose](): void {
    for (const duplicate of this.#duplicates) duplicate[Symbol.dispose]();
    for (const handle of this.#handles.values()) handle[Symbol.dispose]();
    this.#duplicates.length = 0;
    this.#handles.clear();
  }

  #read(
    process: FileOwnerProcess,
    fd: number,
    table: OwnedFd,
    infos: OwnedFd,
  ): Descriptor | undefined {
    const name = this.#name;
    name[name.write(String(fd), 'latin1')] = 0;
    const length = sys('readlinkat', table.number, name, this.#link, PATH_MAX);
    if (length < 0) return gone(length, fd, process);
    const link = this.#link.toString('utf8', 0, length);
    const stat = this.#statOf(link, table, name);
    if (stat === undefined) return undefined;
    const info = this.#readInfo(infos, name);
    if (info === undefined) return undefined;
    const flags = fieldOf(info, 'flags:\t', 8);
    let duplicate: OwnedFd | undefined;
    return {
      process,
      fd,
      link,
      stat,
      info,
      position: positionOf(info),
      flags: flags & ~O_CLOEXEC,
      closeOnExec: (flags & O_CLOEXEC) !== 0,
      dup: () => {
        duplicate ??= this.#duplicate(process, fd);
        return duplicate;
      },
    };
  }

  /** Common anonymous files share one inode, and of sockets only the number in the link differs (of what captures look
   *  at): one stat(2) each is enough, where there may be thousands. */
  #statOf(link: string, table: OwnedFd, name: Buffer): DescriptorStat | undefined {
    const socket = link.startsWith('socket:[') ? link.slice(8, -1) : undefined;
    const family = socket !== undefined ? 'socket' : COMMON_INODE.test(link) ? link : '';
    const alike = this.#alike.get(family);
    if (alike !== undefined) {
      return socket === undefined ? alike : { ...alike, inode: BigInt(socket) };
    }
    if (sys('newfstatat', table.number, name, this.#stat, 0) < 0) return statOfLost(link);
    const stat = parseStat(this.#stat);
    if (family !== '') this.#alike.set(family, stat);
    return stat;
  }

  #readInfo(infos: OwnedFd, name: Buffer): string | undefined {
    const file = sys('openat', infos.number, name, O_CLOEXEC, 0);
    if (file < 0) return undefined;
    let length = 0;
    for (;;) {
      if (length === this.#info.length) this.#info = Buffer.concat([this.#info, this.#info]);
      const rest = length === 0 ? this.#info : this.#info.subarray(length);
      const n = sys('read', file, rest, rest.length);
      if (n > 0) length += n;
      // fdinfo is one record: a read that is not filled got all of it.
      if (n < rest.length) break;
    }
    sys('close', file);
    // Closed in between: the kernel gives an error for the record (fs/proc/fd.c: seq_show).
    return length === 0 ? undefined : this.#info.toString('latin1', 0, length);
  }

  #duplicate(process: FileOwnerProcess, fd: number): OwnedFd {
    let handle = this.#handles.get(process.hostPid);
    if (handle === undefined) {
      handle = pidfdOpen(process.hostPid);
      this.#handles.set(process.hostPid, handle);
    }
    let duplicate: OwnedFd;
    try {
      duplicate = pidfdGetFd(handle, fd);
    } catch (error) {
      if ((error as { errno?: string }).errno !== 'EMFILE') throw error;
      raiseDescriptorLimit();
      duplicate = pidfdGetFd(handle, fd);
    }
    this.#duplicates.push(duplicate);
    return duplicate;
  }
}

/** A folder of descriptors of a process that has ended is open and cannot be looked at (fs/proc/fd.c: proc_fd_getattr);
 *  whatever else cannot was closed in between. */
function statOfLost(link: string): DescriptorStat | undefined {
  const inode = BigInt(/^\/proc\/(\d+)\/.*fd(info)?$/.exec(link)?.[1] ?? 0);
  if (inode === 0n) return undefined;
  const none = { device: 0n, rdev: 0n, size: 0n, mtimeNs: 0n, links: 0, uid: 0, gid: 0 };
  return { ...none, inode, mode: S_IFDIR };
}

function gone(result: number, fd: number, process: FileOwnerProcess): undefined {
  if (result === -ERRNO.ENOENT || result === -ERRNO.ESRCH) return undefined;
  throw sysError('readlinkat', -result, `descriptor ${fd} of process ${process.hostPid}`);
}

/** Duplicates of many descriptors need room: the soft limit goes up to the hard one. */
function raiseDescriptorLimit(): void {
  const limit = Buffer.alloc(16);
  call('prlimit64', 0, RLIMIT_NOFILE, null, limit);
  limit.copy(limit, 0, 8, 16);
  call('prlimit64', 0, RLIMIT_NOFILE, limit, null);
}

function openDirectory(path: string): OwnedFd | undefined {
  const fd = sys('open', cString(path), O_DIRECTORY | O_CLOEXEC, 0);
  if (fd >= 0) return new OwnedFd(fd);
  // EACCES: a zombie's tables belong to nobody.
  if ([ERRNO.ENOENT, ERRNO.ESRCH, ERRNO.EACCES].includes(-fd)) return undefined;
  throw sysError('open', -fd, path);
}

function numbersIn(directory: OwnedFd): number[] {
  const entries = Buffer.alloc(65536);
  const found: number[] = [];
  for (;;) {
    const n = sys('getdents64', directory.number, entries, entries.length);
    if (n <= 0) return found;
    for (let at = 0; at < n; at += entries.readUInt16LE(at + 16)) {
      let number = 0;
      let i = at + 19;
      for (; entries[i]! >= 48 && entries[i]! <= 57; i++) number = number * 10 + entries[i]! - 48;
      if (i > at + 19) found.push(number);
    }
  }
}

/** struct stat of x86-64. */
export function parseStat(raw: Buffer): DescriptorStat {
  return {
    device: raw.readBigUInt64LE(0),
    inode: raw.readBigUInt64LE(8),
    links: raw.readUInt32LE(16),
    mode: raw.readUInt32LE(24),
    uid: raw.readUInt32LE(28),
    gid: raw.readUInt32LE(32),
    rdev: raw.readBigUInt64LE(40),
    size: raw.readBigUInt64LE(48),
    mtimeNs: raw.readBigInt64LE(88) * 1_000_000_000n + raw.readBigInt64LE(96),
  };
}

/** stat(2) of a path; undefined when there is nothing. */
export function statPath(path: string): DescriptorStat | undefined {
  const raw = Buffer.alloc(STAT_SIZE);
  return sys('stat', cString(path), raw) < 0 ? undefined : parseStat(raw);
}

/** lstat(2) of a path; undefined when there is nothing. */
export function lstatPath(path: string): DescriptorStat | undefined {
  const raw = Buffer.alloc(STAT_SIZE);
  return sys('lstat', cString(path), raw) < 0 ? undefined : parseStat(raw);
}

/** A number of fdinfo that stands behind `label`, in the given base. */
export function fieldOf(info: string, label: string, base: 8 | 10 | 16): number {
  const text = textOf(info, label);
  const value = Number.parseInt(text, base);
  invariant(Number.isSafeInteger(value), `fdinfo has no ${label.trim()}: ${info}`);
  return value;
}

/** As fieldOf, up to 64 bits wide; undefined when the kernel does not print it. */
export function wideFieldOf(info: string, label: string, base: 10 | 16): bigint | undefined {
  const text = textOf(info, label).trim();
  if (text === '') return undefined;
  return BigInt(base === 16 ? `0x${text}` : text);
}

function textOf(info: string, label: string): string {
  const at = info.startsWith(label) ? 0 : info.indexOf(`\n${label}`) + 1;
  if (at === 0 && !info.startsWith(label)) return '';
  const end = info.indexOf('\n', at);
  return info.slice(at + label.length, end < 0 ? undefined : end);
}

function positionOf(info: string): bigint {
  if (info.startsWith('pos:\t0\n')) return 0n;
  return BigInt.asUintN(64, BigInt(textOf(info, 'pos:\t') || '0'));
}
