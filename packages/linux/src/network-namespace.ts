import { cString, OwnedFd } from './fd.js';
import { call, sys } from './sys.js';

const O_CLOEXEC = 0o2000000;
const CLONE_NEWNET = 0x40000000;

/** Runs `action` with this thread in the network namespace of a process, and comes back whatever happens. `action` must
 *  be synchronous: sockets that it makes belong to that namespace for good. setns(2).
 *  @throws SysError ENOENT when the process is gone */
export function inNetworkNamespace<T>(hostPid: number, action: () => T): T {
  using there = new OwnedFd(call('open', cString(`/proc/${hostPid}/ns/net`), O_CLOEXEC, 0));
  using here = new OwnedFd(call('open', cString('/proc/thread-self/ns/net'), O_CLOEXEC, 0));
  call('setns', there.number, CLONE_NEWNET);
  try {
    return action();
  } finally {
    const back = sys('setns', here.number, CLONE_NEWNET);
    // Staying there would put every later connection of this process into a container.
    if (back < 0) process.abort();
  }
}
