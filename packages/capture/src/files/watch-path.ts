import { join } from 'node:path';
import { cString, OwnedFd, readLink, sys, tryReadProc } from '@ferry/linux';
import type { FileContext, FileOwnerProcess } from './context.js';
import { mountPrefix } from './mount-prefix.js';
import { findByInode } from './other-name.js';
import { lstatPath } from './read-descriptors.js';

const O_RDONLY_CLOEXEC = 0o2000000;
const O_PATH_CLOEXEC = 0o12000000;
const DELETED = ' (deleted)';

/** What fdinfo tells of a watched file (fs/notify/fdinfo.c). */
export interface WatchedFile {
  readonly inode: bigint;
  /** dev_t of the kernel: major << 20 | minor. */
  readonly device: number;
  /** struct file_handle: type and bytes, as hexadecimal digits. */
  readonly handleType: number;
  readonly handle: string;
}

/** A mount of the tree's namespace: its id, and where it is. */
export interface Mount {
  readonly id: number;
  readonly device: number;
  readonly path: string;
}

/** Reads ` ino:.. sdev:.. fhandle-bytes:.. fhandle-type:.. f_handle:..` of a line. */
export function parseWatchedFile(line: string): WatchedFile | undefined {
  const word = (name: string) => new RegExp(`(?:^| )${name}:([0-9a-f]+)`).exec(line)?.[1];
  const inode = word('ino');
  const device = word('sdev');
  if (inode === undefined || device === undefined) return undefined;
  return {
    inode: BigInt(`0x${inode}`),
    device: Number.parseInt(device, 16),
    handleType: Number.parseInt(word('fhandle-type') ?? '0', 16),
    handle: word('f_handle') ?? '',
  };
}

export function mountsOf(process: FileOwnerProcess, ctx: FileContext): Mount[] {
  return ctx.shared(`mounts:${process.hostPid}`, () => {
    const text = tryReadProc(`/proc/${process.hostPid}/mountinfo`) ?? '';
    return text.split('\n').flatMap((line) => {
      const [id, , device = '', , path] = line.split(' ');
      const [major, minor] = device.split(':').map(Number);
      if (path === undefined || minor === undefined) return [];
      return [{ id: Number(id), device: (major! << 20) | minor, path: unescaped(path) }];
    });
  });
}

/** mountinfo writes blanks and the like as octal numbers. */
function unescaped(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, digits) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

/** A path, as the tree sees it, that leads to a watched file: by the kernel's handle of it. */
export function pathByHandle(
  file: WatchedFile,
  process: FileOwnerProcess,
  ctx: FileContext,
): string | undefined {
  const prefix = mountPrefix({ process, info: '' }, ctx);
  const isIt = (path: string) => lstatPath(prefix + path)?.inode === file.inode;
  const mounts = mountsOf(process, ctx).filter(({ device }) => device === file.device);
  for (const { path } of mounts) {
    if (isIt(path)) return path;
  }
  for (const mount of mounts) {
    const path = byHandle(file, prefix + mount.path);
    if (path !== undefined && !path.endsWith(DELETED) && isIt(path)) return path;
  }
  return undefined;
}

/** Whether a process is not in the mount namespace of the tree's root, in which watches are set again. */
export function hasOtherMounts({ hostPid }: FileOwnerProcess, ctx: FileContext): boolean {
  const of = (pid: number) => ctx.shared(`mountsLink:${pid}`, () => mountNamespace(pid));
  const [own, root] = [of(hostPid), of(ctx.processes[0]!.hostPid)];
  return own !== '' && root !== '' && own !== root && hostPid !== process.pid;
}

function mountNamespace(hostPid: number): string {
  try {
    return readLink(`/proc/${hostPid}/ns/mnt`);
  } catch {
    return ''; // it has ended
  }
}

/** Whether a path leads to the same file for a process and for the root of the tree. */
export function isOfRoot(path: string, process: FileOwnerProcess, ctx: FileContext): boolean {
  const [own, root] = [process, ctx.processes[0]!].map((each) =>
    lstatPath(mountPrefix({ process: each, info: '' }, ctx) + path),
  );
  return own !== undefined && own.inode === root?.inode && own.device === root.device;
}

/** As pathByHandle, by a bounded search: for file systems without handles, as overlays are. One search for each of them. */
export function searchPath(
  file: WatchedFile,
  process: FileOwnerProcess,
  ctx: FileContext,
): string | undefined {
  const prefix = mountPrefix({ process, info: '' }, ctx);
  const mounts = mountsOf(process, ctx).filter(({ device }) => device === file.device);
  const top = mounts.map(({ path }) => path).sort((a, b) => a.length - b.length)[0];
  return top === undefined ? undefined : findByInode(top, file.inode, prefix);
}

/** open_by_handle_at(2), which needs CAP_DAC_READ_SEARCH, and file systems that can. */
function byHandle({ handle, handleType }: WatchedFile, mountPath: string): string | undefined {
  if (handle === '') return undefined;
  const bytes = Buffer.from(handle, 'hex');
  const raw = Buffer.alloc(8 + bytes.length);
  raw.writeUInt32LE(bytes.length, 0);
  raw.writeInt32LE(handleType, 4);
  bytes.copy(raw, 8);
  const opened = sys('open', cString(mountPath), O_RDONLY_CLOEXEC, 0);
  if (opened < 0) return undefined;
  using mount = new OwnedFd(opened);
  const fd = sys('open_by_handle_at', mount.number, raw, O_PATH_CLOEXEC);
  if (fd < 0) return undefined;
  using file = new OwnedFd(fd);
  return readLink(join('/proc/self/fd', `${file.number}`));
}
