import { dirname, join } from 'node:path';
import type { FileObject, FileReference, Nameless, TreeImage } from '@ferry/image';
import type { DataRef, ProgramBuilder, Slot } from '../program.js';
import { grouping, inodeKey, O_CREAT, O_EXCL, O_RDWR } from './common.js';

const EEXIST = 17;
const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_EMPTY_PATH = 0x1000;
const OPEN_TREE_CLONE = 1;
const MOUNT_ATTR_RDONLY = 1;
const O_TMPFILE = 0o20200000;
const NS = 1_000_000_000n;
const S_IFMT = 0o170000;
const TYPE = { regular: 0o100000, directory: 0o40000, link: 0o120000 } as const;

/** A file that has lost its name, with what makes it anew. */
interface Lost {
  readonly reference: FileReference;
  readonly nameless: Nameless;
}

/** What a file object says of a lost name; undefined when the file has its name, or is of another kind. */
export function lostOf({ kind }: FileObject): Lost | undefined {
  switch (kind?.$case) {
    case 'regular':
    case 'directory':
    case 'fifo':
    case 'device': {
      const { file: reference, nameless } = kind.value;
      return reference && nameless && { reference, nameless };
    }
    default:
      return undefined;
  }
}

/** All descriptions of one file without a name, which are made together. */
export const sameLost = grouping((file) => {
  const lost = lostOf(file);
  return lost && inodeKey(lost.reference);
});

/** The one of them that has the content. */
export function lostWithContent(files: readonly FileObject[]): Lost {
  const all = files.map((file) => lostOf(file)!);
  return all.find(({ nameless }) => nameless.extents.length > 0) ?? all[0]!;
}

/** Makes a file anew that has no name, and runs `open` while it has one: under its old name, so that its link in /proc
 *  reads as before; under a name of ours when another file has that. `open` is emitted for both. */
export function emitNameless(
  b: ProgramBuilder,
  image: TreeImage,
  lost: Lost,
  open: (path: string, at: DataRef) => void,
): void {
  const { reference, nameless } = lost;
  const { path } = reference;
  const name = `nameless file ${path}`;
  const made = b.slotFor('nameless file');
  const folders = nameless.missingFolders;
  const writable = emitWritable(b, nameless, name);
  for (const folder of folders) {
    b.sys('mkdir', [b.cstr(writable(folder)), 0o755], `${name}: folder ${folder}`, {
      expect: { orErrno: EEXIST },
    });
  }
  if (nameless.neverNamed) emitNeverNamed(b, lost, made, open);
  else {
    const other = b.label();
    const end = b.label();
    emitMake(b, lost, { path, made, writable, mayExist: true });
    b.op('jump', [made, -EEXIST], `${name}: is the name taken?`, { target: other });
    emitUse(b, lost, { path, made, writable }, open);
    b.op('jump', [0, 0], `${name} stands`, { target: end });
    b.place(other);
    const spare = join(dirname(path), `.ferry-${image.rootPid}-${reference.inode}`);
    emitMake(b, lost, { path: spare, made, writable, mayExist: false });
    emitUse(b, lost, { path: spare, made, writable }, open);
    b.place(end);
  }
  if (nameless.otherNameIsTemporary) {
    const made = b.cstr(writable(nameless.otherName));
    b.sys('unlink', [made], `${name}: remove the name made for it`);
  }
  for (const folder of [...folders].reverse()) {
    const at = b.cstr(writable(folder));
    b.sys('rmdir', [at], `${name}: remove folder ${folder}`, { expect: 'any' });
  }
  if (nameless.readOnlyMount !== '') b.sys('close', [WRITABLE_FD], `${name}: close the copy`);
}

/** A copy of a read-only mount, at which something can be made: by the paths that it returns for those below the mount.
 *  Files are opened by their own. */
function emitWritable(
  b: ProgramBuilder,
  { readOnlyMount: mount }: Nameless,
  name: string,
): (path: string) => string {
  if (mount === '') return (path) => path;
  const step = `${name}: a copy of ${mount} that can be written`;
  const copy = b.slotFor('writable mount');
  b.sys('open_tree', [AT_FDCWD, b.cstr(mount), OPEN_TREE_CLONE], step, { into: copy });
  const attributes = b.words(0, MOUNT_ATTR_RDONLY, 0, 0);
  b.sys('mount_setattr', [copy, b.cstr(''), AT_EMPTY_PATH, attributes, 32], step);
  b.moveFd(copy, WRITABLE_FD, step);
  const top = mount === '/' ? '' : mount;
  return (path) =>
    path.startsWith(`${top}/`) ? `/proc/self/fd/${WRITABLE_FD}${path.slice(top.length)}` : path;
}

interface Named {
  readonly path: string;
  readonly made: Slot;
  /** Where something can be made and removed that is opened at a path. */
  readonly writable: (path: string) => string;
}

/** What is left in `made`: a descriptor of a regular file, else nothing of use. */
function emitMake(
  b: ProgramBuilder,
  { reference, nameless }: Lost,
  { path, made, writable, mayExist }: Named & { mayExist: boolean },
): void {
  const step = `make nameless file ${path}`;
  const at = b.cstr(writable(path));
  const options = { into: made, ...(mayExist ? { expect: { orErrno: EEXIST } } : {}) };
  const type = reference.mode & S_IFMT;
  if (nameless.otherName !== '') {
    const from = b.cstr(writable(nameless.otherName));
    b.sys('linkat', [AT_FDCWD, from, AT_FDCWD, at, 0], `${step} from its other name`, options);
  } else if (type === TYPE.regular) {
    b.sys('open', [at, O_CREAT | O_EXCL | O_RDWR, 0o600], step, options);
  } else if (type === TYPE.directory) {
    b.sys('mkdir', [at, 0o700], step, options);
  } else if (type === TYPE.link) {
    b.sys('symlink', [b.cstr(nameless.linkTarget), at], step, options);
  } else {
    b.sys('mknod', [at, type | 0o600, nameless.rdev], step, options);
  }
}

function emitUse(
  b: ProgramBuilder,
  lost: Lost,
  { path, made, writable }: Named,
  open: (path: string, at: DataRef) => void,
): void {
  const { reference, nameless } = lost;
  const name = `nameless file ${path}`;
  const at = b.cstr(writable(path));
  const type = reference.mode & S_IFMT;
  if (nameless.otherName === '') {
    if (type === TYPE.regular) {
      emitContent(b, lost, made, name);
      b.sys('close', [made], `${name}: close`);
    } else emitAttributes(b, lost, at, name);
  }
  open(path, b.cstr(path));
  b.sys(type === TYPE.directory ? 'rmdir' : 'unlink', [at], `${name}: remove the name`);
}

/** O_TMPFILE: a file that can still be given a name. Its descriptions are opened through /proc. */
function emitNeverNamed(
  b: ProgramBuilder,
  lost: Lost,
  made: Slot,
  open: (path: string, at: DataRef) => void,
): void {
  const folder = dirname(lost.reference.path);
  const name = `nameless file in ${folder}`;
  b.sys('open', [b.cstr(folder), O_TMPFILE | O_RDWR, 0o600], `make ${name}`, { into: made });
  emitContent(b, lost, made, name);
  const place = NEVER_NAMED_FD;
  b.moveFd(made, place, name);
  const path = `/proc/self/fd/${place}`;
  open(path, b.cstr(path));
  b.sys('close', [place], `${name}: close`);
}

/** Below everything that a tree's own descriptors need while files are made. */
const NEVER_NAMED_FD = 63;
const WRITABLE_FD = 63;

/** The content, and what belongs to it, of a regular file that is open as `made`. */
function emitContent(
  b: ProgramBuilder,
  { reference, nameless }: Lost,
  made: Slot,
  name: string,
): void {
  const { size, mode, mtimeNs } = reference;
  b.sys('ftruncate', [made, size], `${name}: size`);
  for (const { offset, data } of nameless.extents) {
    if (data.length === 0) continue;
    const args = [made, b.bytes(data), data.length, offset];
    b.sys('pwrite64', args, `${name}: content`, { expect: { value: data.length } });
  }
  b.sys('fchown', [made, nameless.uid, nameless.gid], `${name}: owner`);
  b.sys('fchmod', [made, mode & 0o7777], `${name}: mode`);
  for (const attribute of nameless.attributes) {
    const { value } = attribute;
    const args = [made, b.cstr(attribute.name), b.bytes(value), value.length, 0];
    const isOwn = attribute.name.startsWith('user.');
    b.sys(
      'fsetxattr',
      args,
      `${name}: attribute ${attribute.name}`,
      isOwn ? {} : { expect: 'any' },
    );
  }
  const times = timesOf(b, nameless.atimeNs, mtimeNs);
  b.sys('utimensat', [made, 0, times, 0], `${name}: times`);
}

function emitAttributes(
  b: ProgramBuilder,
  { reference, nameless }: Lost,
  at: DataRef,
  name: string,
): void {
  const { mode, mtimeNs } = reference;
  b.sys('lchown', [at, nameless.uid, nameless.gid], `${name}: owner`);
  if ((mode & S_IFMT) !== TYPE.link) b.sys('chmod', [at, mode & 0o7777], `${name}: mode`);
  const times = timesOf(b, nameless.atimeNs, mtimeNs);
  b.sys('utimensat', [AT_FDCWD, at, times, AT_SYMLINK_NOFOLLOW], `${name}: times`);
}

function timesOf(b: ProgramBuilder, atimeNs: bigint, mtimeNs: bigint): DataRef {
  return b.words(atimeNs / NS, atimeNs % NS, mtimeNs / NS, mtimeNs % NS);
}
