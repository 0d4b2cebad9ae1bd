import type { FileLock, FileObject, Process, TreeImage } from '@ferry/image';
import { translate } from '../pid-numbers.js';
import type { ProgramBuilder } from '../program.js';
import { CHANGEABLE, F_SETFL, inodeKey, O_ACCMODE, O_ASYNC, O_NONBLOCK } from './common.js';
import { firstHolder } from './deferred.js';
import type { EmitContext, FileEmitter } from './emit.js';

// prctl(2), linux/securebits.h
const PR = { setDumpable: 4, setSecurebits: 28 } as const;
const SECBIT_NO_SETUID_FIXUP = 1 << 2;
const F_SETLK = 6;
const F_SETSIG = 10;
const F_SETOWN_EX = 15;
const F_OFD_SETLK = 37;
const F_SETLEASE = 1024;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_SETOWN = 8;
const O_RDONLY = 0;
const O_WRONLY = 1;
const EWOULDBLOCK = 11;
const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;

/** Adds to an emitter what every kind of description can have: an owner, O_ASYNC, and locks that belong to it. Every
 *  process exists by the time descriptors are installed, and signals stay blocked until the tree runs. */
export function withAttributes(emitter: FileEmitter): FileEmitter {
  return {
    ...emitter,
    installed(b, file, fd, ctx) {
      emitter.installed?.(b, file, fd, ctx);
      // A lease sets an owner, and one that is broken tells it: the real one comes after.
      for (const lock of file.locks) emitDescriptionLock(b, file, fd, lock);
      emitOwner(b, file, fd, ctx.image);
    },
  };
}

function emitOwner(b: ProgramBuilder, file: FileObject, fd: number, image: TreeImage): void {
  const { owner } = file;
  const isLeased = file.locks.some(({ kind }) => kind === 'lease');
  if (owner !== undefined && (owner.pid !== 0 || isLeased)) {
    const value = Buffer.alloc(8);
    value.writeInt32LE(owner.type, 0);
    const holder = firstHolder(image, file.id);
    const number = holder === undefined ? owner.pid : translate(image, holder, owner.pid);
    value.writeInt32LE(number, 4);
    const step = `descriptor ${fd}: signals to ${owner.pid}`;
    emitAs(b, owner, step, () => {
      b.sys('fcntl', [fd, F_SETOWN_EX, b.bytes(value)], step);
    });
  }
  if (owner !== undefined && owner.signal !== 0) {
    b.sys('fcntl', [fd, F_SETSIG, owner.signal], `descriptor ${fd}: signal ${owner.signal}`);
  }
  if ((file.flags & O_ASYNC) !== 0) {
    const flags = file.flags & (CHANGEABLE | O_ASYNC);
    b.sys('fcntl', [fd, F_SETFL, flags], `descriptor ${fd}: O_ASYNC`);
  }
}

/** Steps as another user, who keeps all capabilities. The kernel notes who sets an owner (fs/fcntl.c: f_modown). */
function emitAs(
  b: ProgramBuilder,
  { uid, euid }: { uid: number; euid: number },
  step: string,
  steps: () => void,
): void {
  if (uid === 0 && euid === 0) {
    steps();
    return;
  }
  b.sys('prctl', [PR.setSecurebits, SECBIT_NO_SETUID_FIXUP], `${step}: keep capabilities`);
  b.sys('setresuid', [uid, euid, 0], `${step}: as user ${euid}`);
  steps();
  b.sys('setresuid', [0, 0, 0], `${step}: as root again`);
  b.sys('prctl', [PR.setSecurebits, 0], `${step}: no longer`);
  b.sys('prctl', [PR.setDumpable, 1], `${step}: may use /proc`);
}

function emitDescriptionLock(
  b: ProgramBuilder,
  file: FileObject,
  fd: number,
  lock: FileLock,
): void {
  const name = `${lock.kind} lock on descriptor ${fd} (file ${file.id})`;
  if (lock.kind === 'flock') {
    const operation = (lock.type === F_WRLCK ? LOCK_EX : LOCK_SH) | LOCK_NB;
    b.sys('flock', [fd, operation], name);
  } else if (lock.kind === 'ofd') {
    b.sys('fcntl', [fd, F_OFD_SETLK, recordLock(b, lock)], name);
  } else if (lock.kind === 'lease') {
    emitLease(b, file, fd, { lock, name });
  }
}

/** A lease that is being broken is broken again, by opening the file in the way that does it. What it was is told by
 *  what it is to become, and by its file: only one that is open for reading alone can have a lease for reading. */
function emitLease(
  b: ProgramBuilder,
  file: FileObject,
  fd: number,
  { lock, name }: { lock: FileLock; name: string },
): void {
  if (!lock.breaking) {
    b.sys('fcntl', [fd, F_SETLEASE, lock.type], name);
    return;
  }
  const toRead = lock.type === F_RDLCK;
  const was = toRead || (file.flags & O_ACCMODE) !== 0 ? F_WRLCK : F_RDLCK;
  b.sys('fcntl', [fd, F_SETLEASE, was], name);
  b.sys('fcntl', [fd, F_SETOWN, 0], `${name}: nobody is told`);
  const how = (toRead ? O_RDONLY : O_WRONLY) | O_NONBLOCK;
  const path = b.cstr(`/proc/self/fd/${fd}`);
  b.sys('open', [path, how, 0], `break ${name}`, { expect: { value: -EWOULDBLOCK } });
}

/** struct flock of x86-64: type, whence (0: SEEK_SET), start, length, pid. */
function recordLock(b: ProgramBuilder, { type, start, length }: FileLock) {
  const flock = Buffer.alloc(32);
  flock.writeInt16LE(type, 0);
  flock.writeBigInt64LE(start, 8);
  flock.writeBigInt64LE(length, 16);
  return b.bytes(flock);
}

/** POSIX locks of one process, taken by itself when its descriptors stand at their final numbers. Closing any descriptor
 *  of a file drops them, so the restorer's own descriptors of that file go first: nothing of a locked file may be done
 *  through `ctx.fdOf` afterwards. */
export function emitProcessLocks(b: ProgramBuilder, process: Process, ctx: EmitContext): void {
  const locked = ctx.image.files.filter((file) => posixLocks(file, process).length > 0);
  if (locked.length === 0) return;
  const inodes = new Set(locked.map(referenceKey));
  for (const file of ctx.image.files) {
    if (!inodes.has(referenceKey(file))) continue;
    const fd = ctx.fdOf(file.id);
    b.sys('close', [fd], `close the restorer's descriptor of locked file ${file.id}`, {
      expect: 'any',
    });
  }
  for (const file of locked) {
    for (const lock of posixLocks(file, process)) {
      const { start, length } = lock;
      b.sys(
        'fcntl',
        [lock.fd, F_SETLK, recordLock(b, lock)],
        `POSIX lock at ${start}+${length} through descriptor ${lock.fd}`,
      );
    }
  }
}

function posixLocks(file: FileObject, process: Process): FileLock[] {
  return file.locks.filter(({ kind, pid }) => kind === 'posix' && pid === process.pid);
}

/** By inode; a memfd by its object. */
function referenceKey({ kind, id }: FileObject): string {
  if (kind?.$case === 'regular') return inodeKey(kind.value.file);
  if (kind?.$case === 'memfd') return `memory ${kind.value.sharedMemoryId}`;
  return `file ${id}`;
}
