import type { FileObject, Mount, MountNamespace, Namespace } from '@ferry/image';
import type { CompileContext } from '../compile-context.js';
import { emitCoveredFiles } from '../files/covered.js';
import type { DataRef, ProgramBuilder, StepOptions } from '../program.js';
import { CLONE } from './clone-flags.js';
import { emitEntries } from './entries.js';
import { emitGroups, outerGroups } from './mount-groups.js';

const AT_FDCWD = -100;
const AT_EMPTY_PATH = 0x1000;
const ENOENT = 2;
const AT_REMOVEDIR = 0x200;
const OPEN_TREE_CLONE_CLOEXEC = 0o2000001;
const MOVE_FROM_FD = 0x4;
const MOVE_TO_FD = 0x44;
const MNT_DETACH = 2;
const MS_PRIVATE = 0x40000;
const MS_REC = 0x4000;
const FSCONFIG = { flag: 0, string: 1, create: 6, reconfigure: 7 } as const;
const FSPICK_EMPTY_PATH_CLOEXEC = 0x9;
/** MOUNT_ATTR__ATIME */
const ATIME_MASK = 0x70n;
const ATTRIBUTES = 0x2000ffn;
const O_PATH_DIRECTORY = 0o10200000;
const O_WRONLY = 1;

/** What other files of this folder need of a mount: its descriptor while mounts are made. */
export type FdOfMount = (mount: Mount) => number;

/** Steps outside: copies of mounts that exist there, not yet attached anywhere. */
export function emitOuterMounts(
  b: ProgramBuilder,
  namespace: Namespace,
  ctx: CompileContext,
): void {
  const { mounts } = contentOf(namespace);
  for (const mount of mounts) {
    if (mount.outerPath !== '' && mount.outerCovers === 0) emitCopy(b, mount, ctx);
  }
  for (const { path, fd } of outerGroups(
    ctx,
    mounts.filter((mount) => !mayBeGone(mount, ctx)),
  )) {
    const slot = b.slotFor('mount');
    const step = `peer at ${path}`;
    b.sys('open_tree', [AT_FDCWD, b.cstr(path), OPEN_TREE_CLONE_CLOEXEC], step, { into: slot });
    b.moveFd(slot, fd, step);
  }
}

function emitCopy(b: ProgramBuilder, mount: Mount, ctx: CompileContext): void {
  const fd = fdOf(ctx, mount);
  const path = b.cstr(mount.outerPath);
  if (mount.deleted) emitStandIn(b, mount, path);
  const slot = b.slotFor('mount');
  const step = `copy of the mount at ${mount.outerPath}`;
  const optional = mayBeGone(mount, ctx);
  const gone = optional ? ({ expect: { orErrno: ENOENT } } as const) : {};
  const any = optional ? ({ expect: 'any' } as const) : {};
  b.sys('open_tree', [AT_FDCWD, path, OPEN_TREE_CLONE_CLOEXEC], step, { into: slot, ...gone });
  b.sys('dup3', [slot, fd, 0], step, any);
  b.sys('close', [slot], step, any);
  const alone = b.words(0, 0, MS_PRIVATE, 0);
  const args = [fd, b.cstr(''), AT_EMPTY_PATH, alone, 32];
  b.sys('mount_setattr', args, `${mount.mountpoint} alone`, any);
  emitAttributes(b, fd, mount, any);
}

/** What a namespace has only because it was copied from one outside, and that nothing in the tree is in, may be gone
 *  from there since. It is left out then. */
function mayBeGone(mount: Mount, ctx: CompileContext): boolean {
  if (mount.outerPath === '' || mount.outerPath !== mount.mountpoint) return false;
  const { processes, files } = ctx.image;
  const paths = [
    ...processes.flatMap(({ fs, mm }) => [
      ...(fs === undefined ? [] : [fs.cwd, fs.root]),
      ...(mm?.vmas ?? []).map(({ file }) => file?.path ?? ''),
    ]),
    ...files.map(({ kind }) => pathOf(kind)),
  ];
  return !paths.some(
    (path) => path === mount.mountpoint || path.startsWith(`${mount.mountpoint}/`),
  );
}

function pathOf(kind: FileObject['kind']): string {
  if (kind?.$case === 'device') return kind.value.path;
  const withFile = kind?.value as { file?: { path: string } } | undefined;
  return withFile?.file?.path ?? '';
}

function emitCutOff(b: ProgramBuilder): void {
  const args = [0, b.cstr('/'), 0, MS_REC | MS_PRIVATE, 0];
  b.sys('mount', args, 'cut off from the mounts outside');
}

/** For a namespace of another user namespace, in which nothing may be unmounted that comes from outside. Runs in one of its
 *  own, which ends with the caller. */
export function emitCoveredApart(
  b: ProgramBuilder,
  namespace: Namespace,
  ctx: CompileContext,
): void {
  b.sys('unshare', [CLONE.mnt!], 'namespace to uncover mounts in');
  emitCutOff(b);
  emitCovered(b, contentOf(namespace).mounts, ctx);
}

/** Whether what a mount namespace has from outside is locked there: it is made together with a user namespace
 *  (mount_namespaces(7)). */
export function isInNewUser({ id }: Namespace, ctx: CompileContext): boolean {
  const isOfRoot = ctx.process(ctx.image.rootPid).namespaceIds.includes(id);
  return isOfRoot && ctx.rootUserNamespace !== undefined;
}

export function hasCovered(namespace: Namespace): boolean {
  return contentOf(namespace).mounts.some(({ outerCovers }) => outerCovers > 0);
}

/** What is hidden outside is reached once nothing that is done here shows there: what covers it is taken off. */
function emitCovered(b: ProgramBuilder, mounts: readonly Mount[], ctx: CompileContext): void {
  const covered = mounts.filter(({ outerCovers }) => outerCovers > 0);
  const removed = new Map<string, number>();
  for (const mount of covered.toSorted((a, b) => a.outerCovers - b.outerCovers)) {
    const done = removed.get(mount.outerPath) ?? 0;
    for (let i = done; i < mount.outerCovers; i++) {
      const step = `uncover ${mount.outerPath}`;
      b.sys('umount2', [b.cstr(mount.outerPath), MNT_DETACH], step);
    }
    removed.set(mount.outerPath, Math.max(done, mount.outerCovers));
    emitCopy(b, mount, ctx);
  }
}

/** A file or directory that was deleted after it was mounted is made for a moment. */
function emitStandIn(b: ProgramBuilder, mount: Mount, path: DataRef): void {
  const step = `stand-in for the deleted ${mount.outerPath}`;
  if (!mount.file) {
    b.sys('mkdir', [path, 0o700], step);
    return;
  }
  b.sys('mknod', [path, 0o100600, 0], step);
  const [entry] = mount.content;
  if (entry === undefined) return;
  const slot = b.slotFor('stand-in');
  b.sys('open', [path, O_WRONLY, 0], step, { into: slot });
  b.sys('ftruncate', [slot, entry.size], step);
  for (const { offset, bytes } of entry.data) {
    const expect = { value: bytes.length };
    b.sys('pwrite64', [slot, b.bytes(bytes), bytes.length, offset], step, { expect });
  }
  b.sys('fchown', [slot, entry.uid, entry.gid], step, { expect: 'any' });
  b.sys('fchmod', [slot, entry.mode & 0o7777], step);
  b.sys('close', [slot], step);
}

/** Takes the stand-in away again, once it is mounted. */
function emitRemoval(b: ProgramBuilder, mount: Mount, outerRoot: number): void {
  const path = b.cstr(mount.outerPath.slice(1));
  const step = `remove the stand-in of ${mount.outerPath}`;
  b.sys('unlinkat', [outerRoot, path, mount.file ? 0 : AT_REMOVEDIR], step);
}

/** Steps inside: a new root, everything mounted below it, and the old root let go. */
export function emitMounts(b: ProgramBuilder, namespace: Namespace, ctx: CompileContext): void {
  const { mounts } = contentOf(namespace);
  const root = mounts[0]!;
  const old = ctx.namespaceFd('oldRoot');
  const slot = b.slotFor('mount');
  emitCutOff(b);
  b.sys('open', [b.cstr('/'), O_PATH_DIRECTORY, 0], 'open the outer root', { into: slot });
  b.moveFd(slot, old, 'outer root');
  const fd = (mount: Mount): number => fdOf(ctx, mount);
  if (namespace.ownerId === 0 && !isInNewUser(namespace, ctx)) emitCovered(b, mounts, ctx);
  emitObtain(b, root, mounts, fd);
  const empty = b.cstr('');
  b.sys('move_mount', [fd(root), empty, AT_FDCWD, b.cstr('/'), MOVE_FROM_FD], 'mount /');
  b.sys('fchdir', [fd(root)], 'go to the new root');
  b.sys('pivot_root', [b.cstr('.'), b.cstr('.')], 'make it the root');
  b.sys('chroot', [b.cstr('.')], 'make it the root');
  emitCoveredFiles(b, ctx, { mount: root, fd: fd(root) });
  const placed = new Map<number, Mount>([[root.id, root]]);
  for (const mount of inOrder(mounts)) {
    const parent = placed.get(mount.parentId);
    if (parent === undefined || mount === root) continue;
    emitObtain(b, mount, mounts, fd);
    const below = relative(parent.mountpoint, mount.mountpoint);
    const flags = below === '' ? MOVE_TO_FD : MOVE_FROM_FD;
    const to = b.cstr(below);
    b.sys('move_mount', [fd(mount), empty, fd(parent), to, flags], `mount ${mount.mountpoint}`, {
      ...(mayBeGone(mount, ctx) ? { expect: 'any' } : {}),
    });
    if (mount.deleted) emitRemoval(b, mount, old);
    emitCoveredFiles(b, ctx, { mount, fd: fd(mount) });
    placed.set(mount.id, mount);
  }
  emitGroups(
    b,
    ctx,
    mounts.filter((mount) => !mayBeGone(mount, ctx)),
    fd,
  );
  b.sys('fchdir', [old], 'go to the outer root');
  b.sys('umount2', [b.cstr('.'), MNT_DETACH], 'let the outer root go');
  b.sys('chdir', [b.cstr('/')], 'go to the root');
  for (const mount of mounts)
    b.sys('close', [fd(mount)], `close ${mount.mountpoint}`, { expect: 'any' });
  b.sys('close', [old], 'close the outer root');
}

export function contentOf(namespace: Namespace): MountNamespace {
  return namespace.content?.$case === 'mnt' ? namespace.content.value : { mounts: [] };
}

function fdOf(ctx: CompileContext, mount: Mount): number {
  return ctx.mountFd(mount.id);
}

/** In the order of their making where that is possible, so that file systems that need others (overlay) find them; but
 *  parents before children, and what another mount covers before that one. */
export function inOrder(mounts: readonly Mount[]): Mount[] {
  const left = [...mounts];
  const done: Mount[] = [];
  const standing = new Set<number>();
  while (left.length > 0) {
    const at = left.findIndex(
      (mount) =>
        (mount === mounts[0] || standing.has(mount.parentId)) &&
        !left.some((other) => other.parentId === mount.parentId && covers(mount, other)),
    );
    if (at < 0) return done;
    const [mount] = left.splice(at, 1);
    standing.add(mount!.id);
    done.push(mount!);
  }
  return done;
}

function covers(a: Mount, b: Mount): boolean {
  return a !== b && b.mountpoint.startsWith(`${a.mountpoint}/`);
}

export function relative(parent: string, path: string): string {
  if (path === parent) return '';
  return parent === '/' ? path.slice(1) : path.slice(parent.length + 1);
}

/** Leaves the mount, not yet attached, at its descriptor. */
function emitObtain(
  b: ProgramBuilder,
  mount: Mount,
  mounts: readonly Mount[],
  fd: FdOfMount,
): void {
  if (mount.outerPath !== '') return;
  const first = mounts.find(
    ({ device, outerPath }) => device === mount.device && outerPath === '',
  )!;
  if (first === mount || mount.type === 'proc' || first.root !== '/') emitNew(b, mount, fd(mount));
  else {
    const slot = b.slotFor('mount');
    const path = mount.root === '/' ? '' : mount.root.slice(1);
    const step = `copy of ${first.mountpoint} for ${mount.mountpoint}`;
    const flags = OPEN_TREE_CLONE_CLOEXEC | (path === '' ? AT_EMPTY_PATH : 0);
    b.sys('open_tree', [fd(first), b.cstr(path), flags], step, { into: slot });
    b.moveFd(slot, fd(mount), step);
    emitAttributes(b, fd(mount), mount);
  }
}

/** A new file system, with the content it had. */
export function emitNew(b: ProgramBuilder, mount: Mount, fd: number): void {
  const context = b.slotFor('file system');
  const made = b.slotFor('mount');
  const what = `${mount.type} for ${mount.mountpoint}`;
  b.sys('fsopen', [b.cstr(mount.type), 1], `open ${what}`, { into: context });
  const configure = (command: number, key: string | undefined, value?: string): void => {
    b.sys(
      'fsconfig',
      [
        context,
        command,
        key === undefined ? 0 : b.cstr(key),
        value === undefined ? 0 : b.cstr(value),
        0,
      ],
      `${key ?? 'make'} of ${what}`,
    );
  };
  if (mount.source !== '') configure(FSCONFIG.string, 'source', mount.source);
  const isReadOnly = mount.content.length > 0 && mount.options.split(',').includes('ro');
  for (const { key, value } of optionsOf(mount)) {
    if (key !== 'ro' || !isReadOnly)
      configure(value === undefined ? FSCONFIG.flag : FSCONFIG.string, key, value);
  }
  configure(FSCONFIG.create, undefined);
  const writable = mount.attributes & ~1n;
  b.sys(
    'fsmount',
    [context, 1, mount.content.length > 0 ? writable : mount.attributes],
    `mount ${what}`,
    {
      into: made,
    },
  );
  b.sys('close', [context], `close ${what}`);
  b.moveFd(made, fd, what);
  emitEntries(b, mount.content, fd);
  if (isReadOnly) emitReadOnly(b, fd, what);
  if (mount.content.length > 0) emitAttributes(b, fd, mount);
}

/** A file system that was made read-only once it had its files: fspick and fsconfig, the new remount. */
function emitReadOnly(b: ProgramBuilder, fd: number, what: string): void {
  const context = b.slotFor('file system');
  const step = `${what}: read-only`;
  b.sys('fspick', [fd, b.cstr(''), FSPICK_EMPTY_PATH_CLOEXEC], step, { into: context });
  b.sys('fsconfig', [context, FSCONFIG.flag, b.cstr('ro'), 0, 0], step);
  b.sys('fsconfig', [context, FSCONFIG.reconfigure, 0, 0, 0], step);
  b.sys('close', [context], step);
}

/** Options of the file system; those that only say what is so anyway are left out. */
export function optionsOf({ type, options }: Mount): { key: string; value: string | undefined }[] {
  const isWritten = options.includes('upperdir=');
  return (
    options
      .split(/(?<!\\),/)
      .filter((option) => option !== '' && option !== 'rw' && option !== 'seclabel')
      // Without an upper folder it says nothing, and a user namespace may not set it.
      .filter((option) => isWritten || type !== 'overlay' || !option.startsWith('redirect_dir='))
      .map((option) => {
        const at = option.indexOf('=');
        return at < 0
          ? { key: option, value: undefined }
          : { key: option.slice(0, at), value: option.slice(at + 1) };
      })
  );
}

export function emitAttributes(
  b: ProgramBuilder,
  fd: number,
  mount: Mount,
  options: StepOptions = {},
): void {
  const attributes = b.words(mount.attributes, (ATTRIBUTES & ~mount.attributes) | ATIME_MASK, 0, 0);
  b.sys(
    'mount_setattr',
    [fd, b.cstr(''), AT_EMPTY_PATH, attributes, 32],
    `flags of ${mount.mountpoint}`,
    options,
  );
}

/** MS_SHARED and its like for one mount. */
export function emitPropagation(b: ProgramBuilder, fd: number, type: number, step: string): void {
  b.sys('mount_setattr', [fd, b.cstr(''), AT_EMPTY_PATH, b.words(0, 0, type, 0), 32], step);
}
