import { cString, OwnedFd } from './fd.js';
import { call, sys } from './sys.js';

const O_CLOEXEC = 0o2000000;
const O_PATH_CLOEXEC = 0o12000000;
const CLONE_FS = 0x200;
const CLONE_NEWNS = 0x20000;
const MS_REC_PRIVATE = 0x44000;
const AT_FDCWD = -100;
const OPEN_TREE_CLONE_REC_CLOEXEC = 0o2100001;
const MOVE_MOUNT_F_EMPTY_PATH = 4;

/** Runs `action` with this thread in a copy of a process's mount namespace, where mounts may be taken away without anybody
 *  noticing. It ends with `action`; what that has opened there stays open. `action` must be synchronous. setns(2) wants a
 *  thread that shares its working directory with no other, which this one does not afterwards.
 *  @throws SysError EPERM without CAP_SYS_ADMIN over the namespace; EINVAL when nothing of it may be copied */
export function inMountCopy<T>(hostPid: number, action: () => T): T {
  using here = new OwnedFd(call('open', cString('/proc/thread-self/ns/mnt'), O_CLOEXEC, 0));
  using there = new OwnedFd(call('open', cString(`/proc/${hostPid}/ns/mnt`), O_CLOEXEC, 0));
  using root = new OwnedFd(call('open', cString('/'), O_PATH_CLOEXEC, 0));
  using folder = new OwnedFd(call('open', cString('.'), O_PATH_CLOEXEC, 0));
  call('unshare', CLONE_FS);
  call('setns', there.number, CLONE_NEWNS);
  try {
    using tree = new OwnedFd(
      call('open_tree', AT_FDCWD, cString('/'), OPEN_TREE_CLONE_REC_CLOEXEC),
    );
    // A copy of a namespace of another user namespace would have all its mounts locked: one of ours takes the tree.
    call('setns', here.number, CLONE_NEWNS);
    call('unshare', CLONE_NEWNS);
    call('mount', null, cString('/'), null, MS_REC_PRIVATE, null);
    call('move_mount', tree.number, cString(''), AT_FDCWD, cString('/'), MOVE_MOUNT_F_EMPTY_PATH);
    call('fchdir', tree.number);
    call('chroot', cString('.'));
    // Copies are peers of what they were copied from: what is taken away must stay there.
    call('mount', null, cString('/'), null, MS_REC_PRIVATE, null);
    return action();
  } finally {
    const back = [
      sys('setns', here.number, CLONE_NEWNS),
      sys('fchdir', root.number),
      sys('chroot', cString('.')),
      sys('fchdir', folder.number),
    ];
    // Staying there would have every later path lead into a container.
    if (back.some((result) => result < 0)) process.abort();
  }
}
