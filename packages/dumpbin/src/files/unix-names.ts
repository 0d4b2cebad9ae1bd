import type { UnixPath } from '@ferry/image';
import type { Argument, ProgramBuilder } from '../program.js';
import { constant } from './socket-options.js';

const AF_UNIX = 1;
const SUN_PATH_MAX = 108;
const O_PATH_DIRECTORY = 0o10200000;
const FSCONFIG_CMD_CREATE = 6;
const EADDRINUSE = 98;
const CLONE_NEWNS = 0x20000;
const MS_REC_PRIVATE = 0x44000;
const MNT_DETACH = 2;

/** A name for people: a path, `@name` for an abstract one. */
export function nameText(address: Uint8Array): string {
  if (address.length === 0) return 'no name';
  return Buffer.from(address).toString('utf8').replace(/^\0/, '@').replaceAll('\0', '.');
}

export function isPath(address: Uint8Array): boolean {
  return address.length > 0 && address[0] !== 0;
}

/** struct sockaddr_un, as two arguments: address and length. A path ends with a NUL where there is room. */
export function unixAddress(b: ProgramBuilder, address: Uint8Array): [Argument, number] {
  const end = isPath(address) && address.length < SUN_PATH_MAX ? [0] : [];
  const raw = Buffer.from([AF_UNIX, 0, ...address, ...end]);
  return [constant(b, raw), raw.length];
}

/** Whether a name leads to its socket: a path may be gone. */
export function isReachable({ address, path }: Named): boolean {
  return address.length > 0 && (!isPath(address) || path?.present === true);
}

interface Named {
  readonly address: Uint8Array;
  readonly path: UnixPath | undefined;
}

/** Binds a socket to its name and runs `whileBound`, in which others can connect to that name. A path whose file is
 *  there keeps its file. A path whose file was removed, or belongs to somebody else by now, exists for the length of
 *  `whileBound` in an empty file system of its own: the name is only a string that the socket keeps. */
export function emitBind(
  b: ProgramBuilder,
  fd: Argument,
  named: Named,
  whileBound: () => void = () => {},
): void {
  const { address, path } = named;
  if (address.length === 0) {
    whileBound();
    return;
  }
  if (!isPath(address)) {
    emitBindCall(b, fd, address);
    whileBound();
    return;
  }
  if (path !== undefined && path.covers.length > 0) {
    emitUncovered(b, path.covers, () => {
      emitBindFile(b, fd, address, path);
      whileBound();
    });
    return;
  }
  if (path?.present) {
    emitBindFile(b, fd, address, path);
    whileBound();
    if (path.renamedTo !== '') emitRename(b, address, path);
    return;
  }
  emitInEmptyRoot(b, address, () => {
    emitBindCall(b, fd, address);
    whileBound();
  });
}

/** Runs `body` in a copy of the mount namespace, where mounts are taken away that cover the file. */
function emitUncovered(b: ProgramBuilder, covers: readonly string[], body: () => void): void {
  const name = 'a socket below mounts';
  const home = b.slotFor('mount namespace');
  b.sys('open', [b.cstr('/proc/self/ns/mnt'), 0, 0], name, { into: home });
  b.sys('unshare', [CLONE_NEWNS], name);
  b.sys('mount', [0, b.cstr('/'), 0, MS_REC_PRIVATE, 0], name);
  for (const cover of covers) {
    b.sys('umount2', [b.cstr(cover), MNT_DETACH], `${name}: ${cover}`, { expect: 'any' });
  }
  body();
  b.sys('setns', [home, CLONE_NEWNS], `${name}: back`);
  b.sys('close', [home], `${name}: back`);
}

function emitBindCall(b: ProgramBuilder, fd: Argument, address: Uint8Array): void {
  const [at, length] = unixAddress(b, address);
  b.sys('bind', [fd, at, length], `bind UNIX socket to ${nameText(address)}`);
}

/** As emitBind with a path that is not there; an abstract name may be somebody else's: then the socket stays without. */
export function emitBindIfFree(
  b: ProgramBuilder,
  fd: Argument,
  address: Uint8Array,
  whileBound: () => void = () => {},
): void {
  if (isPath(address)) {
    emitBind(b, fd, { address, path: undefined }, whileBound);
    return;
  }
  if (address.length > 0) emitBindLeniently(b, fd, address);
  whileBound();
}

/** Binds within the empty root that another socket's name has made. */
export function emitBindInside(b: ProgramBuilder, fd: Argument, address: Uint8Array): void {
  if (address.length === 0) return;
  if (!isPath(address)) {
    emitBindLeniently(b, fd, address);
    return;
  }
  emitFolders(b, address, `a place for the name ${nameText(address)}`);
  // Another one of that name may have been there for an earlier message.
  const file = b.cstr(Buffer.from(address));
  b.sys('unlink', [file], `a place for the name ${nameText(address)}`, { expect: 'any' });
  emitBindCall(b, fd, address);
}

function emitBindLeniently(b: ProgramBuilder, fd: Argument, address: Uint8Array): void {
  const [at, length] = unixAddress(b, address);
  b.sys('bind', [fd, at, length], `bind UNIX socket to ${nameText(address)}`, {
    expect: { orErrno: EADDRINUSE },
  });
}

/** bind(2) makes the file, so that what is left of the old one goes first. */
function emitBindFile(b: ProgramBuilder, fd: Argument, address: Uint8Array, path: UnixPath): void {
  const text = Buffer.from(address).toString('utf8');
  if (path.directory !== '') emitEnter(b, path.directory);
  const file = b.cstr(text);
  for (const directory of parents(text)) {
    b.sys('mkdir', [b.cstr(directory), 0o755], `folder ${directory} of UNIX socket`, {
      expect: 'any',
    });
  }
  b.sys('unlink', [file], `remove old file of UNIX socket ${text}`, { expect: 'any' });
  emitBindCall(b, fd, address);
  b.sys('chmod', [file, path.mode], `mode of UNIX socket ${text}`);
  b.sys('chown', [file, path.uid, path.gid], `owner of UNIX socket ${text}`);
}

/** The file was moved after bind(2): it is found under its new name, the socket keeps the old one. */
function emitRename(b: ProgramBuilder, address: Uint8Array, path: UnixPath): void {
  if (path.directory !== '') emitEnter(b, path.directory);
  const from = b.cstr(Buffer.from(address));
  b.sys('rename', [from, b.cstr(path.renamedTo)], `move UNIX socket to ${path.renamedTo}`);
}

/** A relative path belongs to a directory. Every process enters its own working directory later. */
export function emitEnter(b: ProgramBuilder, directory: string): void {
  b.sys('chdir', [b.cstr(directory)], `enter ${directory}`);
}

function parents(path: string): string[] {
  const found: string[] = [];
  for (let at = path.indexOf('/', 1); at > 0; at = path.indexOf('/', at + 1)) {
    found.push(path.slice(0, at));
  }
  return found;
}

/** Runs `body` with an empty tmpfs, mounted nowhere, as root directory: mount(2)'s successors fsopen and fsmount. */
function emitInEmptyRoot(b: ProgramBuilder, address: Uint8Array, body: () => void): void {
  const name = `a place for the name ${nameText(address)}`;
  const [root, made, mount] = [b.slotFor('old root'), b.slotFor('tmpfs'), b.slotFor('tmpfs mount')];
  b.sys('open', [b.cstr('/'), O_PATH_DIRECTORY, 0], `${name}: keep the root`, { into: root });
  b.sys('fsopen', [b.cstr('tmpfs'), 0], name, { into: made });
  b.sys('fsconfig', [made, FSCONFIG_CMD_CREATE, 0, 0, 0], name);
  b.sys('fsmount', [made, 0, 0], name, { into: mount });
  b.sys('close', [made], name);
  b.sys('fchdir', [mount], name);
  b.sys('close', [mount], name);
  emitFolders(b, address, name);
  b.sys('chroot', [b.cstr('.')], name);
  body();
  b.sys('fchdir', [root], `${name}: back`);
  b.sys('chroot', [b.cstr('.')], `${name}: back`);
  b.sys('close', [root], `${name}: back`);
}

/** The folders of a path, below the working directory. */
function emitFolders(b: ProgramBuilder, address: Uint8Array, name: string): void {
  for (const directory of parents(Buffer.from(address).toString('utf8'))) {
    b.sys('mkdir', [b.cstr(directory.replace(/^\/+/, './')), 0o755], name, { expect: 'any' });
  }
}
