import { call, sys, sysError } from '@ferry/linux';

/** The host's ids of whoever is root where files are made. */
export interface FileMaker {
  readonly uid: number;
  readonly gid: number;
}

// include/uapi/linux/prctl.h, securebits.h
const PR_GET_DUMPABLE = 3;
const PR_SET_DUMPABLE = 4;
const PR_GET_SECUREBITS = 27;
const PR_SET_SECUREBITS = 28;
const SECBIT_NO_SETUID_FIXUP = 4;

/** Runs `work`, which must be synchronous, with this thread making files as `maker`, its privileges kept: on a file system
 *  that was mounted in a user namespace nobody can make any who has no number there (fs/namei.c: may_create).
 *  @throws SysError EPERM without CAP_SETPCAP or CAP_SETUID */
export function makingAs<T>(maker: FileMaker | undefined, work: () => T): T {
  if (maker === undefined) return work();
  const bits = call('prctl', PR_GET_SECUREBITS, 0, 0, 0, 0);
  // Changed ids make a process undumpable, all of it (kernel/cred.c: commit_creds).
  const dumpable = call('prctl', PR_GET_DUMPABLE, 0, 0, 0, 0);
  // Otherwise another id takes privileges over files away (capabilities(7)).
  call('prctl', PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP, 0, 0, 0);
  const changed: (readonly ['setfsuid' | 'setfsgid', number])[] = [];
  try {
    changed.push(['setfsuid', setId('setfsuid', maker.uid)]);
    changed.push(['setfsgid', setId('setfsgid', maker.gid)]);
    return work();
  } finally {
    for (const [which, before] of changed) setId(which, before);
    call('prctl', PR_SET_SECUREBITS, bits, 0, 0, 0);
    if (dumpable === 1) call('prctl', PR_SET_DUMPABLE, 1, 0, 0, 0);
  }
}

const NOBODY = 0xffffffff;

/** setfsuid(2) tells only what was before: asked for nobody, it changes nothing. */
function setId(which: 'setfsuid' | 'setfsgid', id: number): number {
  const before = sys(which, id);
  if (sys(which, NOBODY) === id) return before;
  throw sysError(which, 1, String(id));
}
