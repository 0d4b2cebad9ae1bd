import { lstatSync, readlinkSync } from 'node:fs';
import type { TreeEntry } from '@ferry/image';
import { call, cString, listDirectory, OwnedFd, sys } from '@ferry/linux';

const O_RDONLY_NOFOLLOW = 0o2400000;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const RUN_MAX = 4 << 20;
const S_IFMT = 0o170000n;
const S_IFDIR = 0o040000n;
const S_IFREG = 0o100000n;
const S_IFLNK = 0o120000n;

/** Everything on one file system below a directory, parents first. What is mounted over it is not entered. */
export function readTree(top: string): TreeEntry[] {
  const entries: TreeEntry[] = [];
  const links = new Map<bigint, string>();
  const { dev } = lstatSync(top, { bigint: true });
  const visit = (path: string): void => {
    const full = path === '' ? top : `${top}/${path}`;
    const stat = lstatSync(full, { bigint: true });
    const covered = stat.dev !== dev;
    const type = stat.mode & S_IFMT;
    const known = covered || type === S_IFDIR ? undefined : links.get(stat.ino);
    const entry: TreeEntry = {
      path,
      mode: Number(stat.mode),
      uid: Number(stat.uid),
      gid: Number(stat.gid),
      atimeNs: stat.atimeNs,
      mtimeNs: stat.mtimeNs,
      rdev: stat.rdev,
      target: '',
      hardLink: false,
      size: 0n,
      data: [],
      attributes: {},
    };
    entries.push(entry);
    // The mount point below a mount cannot be seen; it is a directory or a file as what covers it.
    if (covered) return;
    if (known !== undefined) {
      Object.assign(entry, { hardLink: true, target: known });
      return;
    }
    if (stat.nlink > 1n) links.set(stat.ino, path);
    if (type === S_IFLNK) entry.target = readlinkSync(full);
    else entry.attributes = attributesOf(full);
    if (type === S_IFREG) {
      entry.size = stat.size;
      entry.data = dataOf(full, stat.size);
    }
    if (type !== S_IFDIR) return;
    for (const name of listDirectory(full)) visit(path === '' ? name : `${path}/${name}`);
  };
  visit('');
  return entries;
}

/** How many bytes of files a tree holds. */
export function contentSize(top: string): bigint {
  const { dev } = lstatSync(top, { bigint: true });
  let bytes = 0n;
  const visit = (path: string): void => {
    const stat = lstatSync(path, { bigint: true });
    if (stat.dev !== dev) return;
    if ((stat.mode & S_IFMT) === S_IFREG) bytes += stat.blocks * 512n;
    if ((stat.mode & S_IFMT) !== S_IFDIR) return;
    for (const name of listDirectory(path)) visit(`${path}/${name}`);
  };
  visit(top);
  return bytes;
}

function dataOf(path: string, size: bigint): TreeEntry['data'] {
  using fd = new OwnedFd(call('open', cString(path), O_RDONLY_NOFOLLOW, 0));
  const data: TreeEntry['data'] = [];
  for (let at = 0n; at < size; ) {
    const from = sys('lseek', fd.number, at, SEEK_DATA);
    if (from < 0) break;
    const hole = sys('lseek', fd.number, from, SEEK_HOLE);
    const end = hole < 0 ? Number(size) : hole;
    for (let offset = from; offset < end; ) {
      const bytes = Buffer.alloc(Math.min(RUN_MAX, end - offset));
      const n = call('pread64', fd.number, bytes, bytes.length, offset);
      if (n === 0) break;
      data.push({ offset: BigInt(offset), bytes: bytes.subarray(0, n) });
      offset += n;
    }
    at = BigInt(end);
  }
  return data;
}

function attributesOf(path: string): Record<string, Buffer> {
  const list = Buffer.alloc(65_536);
  const length = sys('llistxattr', cString(path), list, list.length);
  const attributes: Record<string, Buffer> = {};
  if (length <= 0) return attributes;
  for (const name of list.toString('utf8', 0, length).split('\0')) {
    if (name === '') continue;
    const value = Buffer.alloc(65_536);
    const n = sys('lgetxattr', cString(path), cString(name), value, value.length);
    if (n >= 0) attributes[name] = Buffer.from(value.subarray(0, n));
  }
  return attributes;
}
