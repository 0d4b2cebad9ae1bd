import { cString, OwnedFd } from './fd.js';
import { call, sys } from './sys.js';

const O_CLOEXEC = 0o2000000;

/** CLONE_NEW* of the namespaces that a thread of a process with others can change: setns(2). */
const CLONE = { net: 0x40000000, uts: 0x04000000, ipc: 0x08000000, cgroup: 0x02000000 } as const;

/** Runs `action` with this thread in a namespace, and comes back whatever happens. `action` must be synchronous: sockets
 *  that it makes belong to that network namespace for good. setns(2).
 *  @param where  a process that is in it, or a path to it
 *  @throws SysError ENOENT when the process is gone */
export function inNamespace<T>(
  type: keyof typeof CLONE,
  where: number | string,
  action: () => T,
): T {
  const path = typeof where === 'string' ? where : `/proc/${where}/ns/${type}`;
  using there = new OwnedFd(call('open', cString(path), O_CLOEXEC, 0));
  return away(type, () => call('setns', there.number, CLONE[type]), action);
}

/** Runs `action` with this thread in a namespace that nobody has touched, which ends with it. */
export function inFreshNamespace<T>(type: keyof typeof CLONE, action: () => T): T {
  return away(type, () => call('unshare', CLONE[type]), action);
}

export function inNetworkNamespace<T>(where: number | string, action: () => T): T {
  return inNamespace('net', where, action);
}

function away<T>(type: keyof typeof CLONE, go: () => void, action: () => T): T {
  using here = new OwnedFd(call('open', cString(`/proc/thread-self/ns/${type}`), O_CLOEXEC, 0));
  go();
  try {
    return action();
  } finally {
    const back = sys('setns', here.number, CLONE[type]);
    // Staying there would put every later connection of this process into a container.
    if (back < 0) process.abort();
  }
}
