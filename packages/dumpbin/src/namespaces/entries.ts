import type { TreeEntry } from '@ferry/image';
import type { ProgramBuilder } from '../program.js';

const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_EMPTY_PATH = 0x1000;
const O_WRONLY_CREAT_EXCL = 0o301;
const NS = 1_000_000_000n;

/** Files and directories of a fresh file system, below the directory `root` is open on. */
export function emitEntries(b: ProgramBuilder, entries: readonly TreeEntry[], root: number): void {
  for (const entry of entries) emitEntry(b, entry, root);
  // Times last and backwards: what is made in a directory changes its own.
  for (const entry of entries.toReversed()) {
    if (entry.hardLink) continue;
    const times = b.words(
      entry.atimeNs / NS,
      entry.atimeNs % NS,
      entry.mtimeNs / NS,
      entry.mtimeNs % NS,
    );
    const path = b.cstr(entry.path === '' ? '.' : entry.path);
    b.sys('utimensat', [root, path, times, AT_SYMLINK_NOFOLLOW], `times of ${entry.path}`);
  }
}

function emitEntry(b: ProgramBuilder, entry: TreeEntry, root: number): void {
  const { path, mode, uid, gid } = entry;
  const name = b.cstr(path);
  const type = mode & S_IFMT;
  if (entry.hardLink) {
    b.sys('linkat', [root, b.cstr(entry.target), root, name, 0], `link ${path}`);
    return;
  }
  if (path !== '') {
    if (type === S_IFDIR) b.sys('mkdirat', [root, name, 0o700], `directory ${path}`);
    else if (type === S_IFLNK)
      b.sys('symlinkat', [b.cstr(entry.target), root, name], `link ${path}`);
    else if (type === S_IFREG) emitFile(b, entry, root);
    else b.sys('mknodat', [root, name, mode, entry.rdev], `node ${path}`);
  }
  const flags = AT_SYMLINK_NOFOLLOW | (path === '' ? AT_EMPTY_PATH : 0);
  b.sys('fchownat', [root, name, uid, gid, flags], `owner of ${path}`);
  if (type !== S_IFLNK) {
    const self = path === '' ? b.cstr('.') : name;
    b.sys('fchmodat', [root, self, mode & 0o7777], `mode of ${path}`);
  }
  emitAttributes(b, entry, root);
}

function emitFile(b: ProgramBuilder, entry: TreeEntry, root: number): void {
  const { path } = entry;
  const slot = b.slotFor('content');
  b.sys('openat', [root, b.cstr(path), O_WRONLY_CREAT_EXCL, 0o600], `file ${path}`, { into: slot });
  if (entry.size > 0n) b.sys('ftruncate', [slot, entry.size], `size of ${path}`);
  for (const { offset, bytes } of entry.data) {
    const expect = { value: bytes.length };
    const args = [slot, b.bytes(bytes), bytes.length, offset];
    b.sys('pwrite64', args, `content of ${path}`, { expect });
  }
  b.sys('close', [slot], `close ${path}`);
}

/** Extended attributes, through a descriptor: there is no call that takes a directory and a name before Linux 6.13. */
function emitAttributes(b: ProgramBuilder, entry: TreeEntry, root: number): void {
  const attributes = Object.entries(entry.attributes);
  if (attributes.length === 0 || (entry.mode & S_IFMT) === S_IFLNK) return;
  const slot = b.slotFor('content');
  const path = b.cstr(entry.path === '' ? '.' : entry.path);
  b.sys('openat', [root, path, 0o4000, 0], `open ${entry.path}`, { into: slot });
  for (const [name, value] of attributes) {
    const args = [slot, b.cstr(name), b.bytes(value), value.length, 0];
    b.sys('fsetxattr', args, `attribute ${name} of ${entry.path}`);
  }
  b.sys('close', [slot], `close ${entry.path}`);
}
