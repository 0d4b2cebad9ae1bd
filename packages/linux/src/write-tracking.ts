import { OwnedFd, pidfdGetFd, pidfdOpen } from './fd.js';
import type { AddressRange } from './pagemap.js';
import { call, ERRNO, sys, sysError } from './sys.js';
import type { UserfaultEvents } from './userfault-events.js';

// include/uapi/linux/userfaultfd.h
const UFFDIO_API = 0xc018aa3f;
const UFFDIO_REGISTER = 0xc020aa00;
const UFFD_API = 0xaan;
const REGISTER_MODE_WP = 2n;
const FEATURE = { wpHugetlbfsShmem: 1n << 12n, wpUnpopulated: 1n << 13n, wpAsync: 1n << 15n };
/** EVENT_FORK, EVENT_REMAP, EVENT_REMOVE and EVENT_UNMAP: what a program does to its mappings is told. */
const EVENT_FEATURES = (1n << 1n) | (1n << 2n) | (1n << 3n) | (1n << 6n);

/** EVENT_FORK, EVENT_REMAP, EVENT_REMOVE. */
const TOLD_FEATURES = (1n << 1n) | (1n << 2n) | (1n << 3n);

/** Flags for the userfaultfd(2) that a process is made to call. UFFD_USER_MODE_ONLY needs no privilege, and takes nothing
 *  away here: an asynchronous write fault is settled by the kernel itself, whoever wrote (mm/memory.c: do_wp_page). */
export const TRACKING_FLAGS = 0o2000000 | 0o4000 | 1;

/** How a range took to being tracked. `refused`: memory of a kind that cannot be; `taken`: another userfaultfd has it;
 *  `absent`: something of it is not mapped; `gone`: the address space has ended. */
export type Registered = 'done' | 'refused' | 'taken' | 'absent' | 'gone';

/** A userfaultfd over another process's address space in asynchronous write-protect mode (Linux 6.7): the kernel notes in
 *  the page tables which pages were written, and stops nobody. Nothing is left of it once the descriptor is closed, as it
 *  is when its owner dies. See Documentation/admin-guide/mm/{userfaultfd,pagemap}.rst. */
export class WriteTracking implements Disposable {
  readonly #fd: OwnedFd;
  readonly #pid: number;

  /** Takes the descriptor `remoteFd`, a userfaultfd that process `pid` made, and sets it up.
   *  @param events  whom forks, moves and the emptying of ranges are told (needs CAP_SYS_PTRACE); to be ended first.
   *    Children have their parent's ranges noted, too, then
   *  @throws SysError EINVAL when the kernel cannot track writes so */
  static adopt(pid: number, remoteFd: number, events?: UserfaultEvents): WriteTracking {
    using pidfd = pidfdOpen(pid);
    const fd = pidfdGetFd(pidfd, remoteFd);
    try {
      handshake(fd, events === undefined ? TRACKING_FEATURES : TRACKING_FEATURES | TOLD_FEATURES);
      events?.add(fd);
      return new WriteTracking(pid, fd);
    } catch (error) {
      fd[Symbol.dispose]();
      throw error;
    }
  }

  private constructor(pid: number, fd: OwnedFd) {
    this.#pid = pid;
    this.#fd = fd;
  }

  /** Has writes to a range noted from now on; repeatable. */
  register({ start, end }: AddressRange): Registered {
    const argument = Buffer.alloc(32);
    argument.writeBigUInt64LE(start, 0);
    argument.writeBigUInt64LE(end - start, 8);
    argument.writeBigUInt64LE(REGISTER_MODE_WP, 16);
    const result = sys('ioctl', this.#fd.number, UFFDIO_REGISTER, argument);
    if (result >= 0) return 'done';
    switch (-result) {
      case ERRNO.EINVAL:
        return 'refused';
      case ERRNO.EBUSY:
        return 'taken';
      case ERRNO.ENOENT:
        return 'absent';
      case ERRNO.ESRCH:
      case ERRNO.ENOMEM: // fs/userfaultfd.c: userfaultfd_register, when nobody has the address space any more
        return 'gone';
      default:
        throw sysError('ioctl UFFDIO_REGISTER', -result, `process ${this.#pid}`);
    }
  }

  [Symbol.dispose](): void {
    this.#fd[Symbol.dispose]();
  }
}

const TRACKING_FEATURES = FEATURE.wpAsync | FEATURE.wpUnpopulated | FEATURE.wpHugetlbfsShmem;

function handshake(fd: OwnedFd, features: bigint): void {
  const argument = Buffer.alloc(24);
  argument.writeBigUInt64LE(UFFD_API, 0);
  argument.writeBigUInt64LE(features, 8);
  const result = sys('ioctl', fd.number, UFFDIO_API, argument);
  if (result < 0) throw sysError('ioctl UFFDIO_API', -result);
}

/** Whether this kernel can note writes so. Tried on our own process; registers nothing. */
export function canTrackWrites(): boolean {
  const number = sys('userfaultfd', TRACKING_FLAGS);
  if (number < 0) return false;
  using fd = new OwnedFd(number);
  try {
    handshake(fd, TRACKING_FEATURES);
  } catch {
    return false;
  }
  // Without PAGEMAP_SCAN nobody could ask for the result.
  using pagemap = new OwnedFd(call('open', Buffer.from('/proc/self/pagemap\0'), 0o2000000, 0));
  const argument = Buffer.alloc(96);
  argument.writeBigUInt64LE(96n, 0);
  argument.writeBigUInt64LE(4096n, 24);
  argument.writeBigUInt64LE(1n, 80);
  return sys('ioctl', pagemap.number, 0xc0606610, argument) >= 0;
}

/** Whether this host can run a process some of whose memory is missing, and have it wait for that. Tried on our own
 *  process; registers nothing. */
export function canWaitForPages(): boolean {
  // Without UFFD_USER_MODE_ONLY, so that system calls wait as well: needs CAP_SYS_PTRACE.
  const number = sys('userfaultfd', TRACKING_FLAGS & ~1);
  if (number < 0) return false;
  using fd = new OwnedFd(number);
  try {
    handshake(fd, EVENT_FEATURES);
    return true;
  } catch {
    return false;
  }
}
