import { constants } from 'node:fs';
import { call, ERRNO, OwnedFd, sys } from '@ferry/linux';

const FAN_CLOEXEC_NONBLOCK_REPORT_FID = 0x1 | 0x2 | 0x200;
const FAN_MARK_ADD_FILESYSTEM = 0x1 | 0x100;
const FAN_CLOSE_WRITE = 0x8n;
const FAN_Q_OVERFLOW = 0x4000n;
const EVENT_BYTES = 24;
const O_CLOEXEC = 0o2000000;
const F = { setSignal: 10, setLease: 1024 } as const;
const SIGURG = 23;
const LEASE = { read: 0, none: 2 } as const;
/** How shmem_encode_fh (mm/shmem.c) writes a file handle: generation, inode number, its upper half. */
const SHMEM_HANDLE = { type: 1, bytes: 12 } as const;

/** Since the last time: some files, or perhaps any. */
export type Written = ReadonlySet<bigint> | 'any';

/** Tells which files of a tmpfs may have been written without a trace. A write through a shared mapping moves no time of
 *  the file (mm/shmem.c has no page_mkwrite). But whatever writes has the file open for it: a mapping, a descriptor on its
 *  way through a socket or what else holds the open file counts as well. So a file was not written since an earlier moment
 *  when
 *  1. nobody has it open for writing now, which is what it takes for a read lease (fcntl(2): F_SETLEASE), and then
 *  2. none such was closed in between, which fanotify(7) tells: when the last that holds the open file lets it go, and before
 *     it stops to count (fs/file_table.c: __fput).
 *  (An overlay mounted on it hides the files that it opens itself.) */
export class FileWriters implements Disposable {
  readonly #events: OwnedFd;

  /** @param root  any folder of the tmpfs
   *  @throws SysError when the kernel, or the rights of this process, do not allow it */
  constructor(root: OwnedFd) {
    const flags = constants.O_RDONLY | O_CLOEXEC;
    this.#events = new OwnedFd(call('fanotify_init', FAN_CLOEXEC_NONBLOCK_REPORT_FID, flags));
    try {
      const { number } = this.#events;
      call('fanotify_mark', number, FAN_MARK_ADD_FILESYSTEM, FAN_CLOSE_WRITE, root.number, 0);
    } catch (error) {
      this.#events[Symbol.dispose]();
      throw error;
    }
  }

  /** The inodes of files that were closed after writing, since the last call. */
  take(): Written {
    const written = new Set<bigint>();
    let isAny = false;
    for (;;) {
      const length = sys('read', this.#events.number, EVENTS, EVENTS.length);
      if (length === -ERRNO.EAGAIN) return isAny ? 'any' : written;
      if (length <= 0) return 'any';
      for (let at = 0; at < length; at += EVENTS.readUInt32LE(at)) {
        const inode = inodeOf(EVENTS.subarray(at, at + EVENTS.readUInt32LE(at)));
        if (inode === undefined) isAny = true;
        else written.add(inode);
      }
    }
  }

  /** Closing it waits for a grace period (fs/notify/mark.c: fsnotify_wait_marks_destroyed), 10 ms and more, while the
   *  container may stand. */
  [Symbol.dispose](): void {
    this.#events.closeElsewhere();
  }
}

const EVENTS = Buffer.alloc(64 * 1024);

/** Of one event: struct fanotify_event_metadata, then fanotify_event_info_fid (fanotify(7)). Undefined: it tells of more, or
 *  of something unknown. */
export function inodeOf(event: Buffer): bigint | undefined {
  const mask = event.readBigUInt64LE(8);
  const handle = EVENT_BYTES + 12;
  if ((mask & FAN_Q_OVERFLOW) !== 0n || event.length < handle + 8 + SHMEM_HANDLE.bytes) {
    return undefined;
  }
  const bytes = event.readUInt32LE(handle);
  const type = event.readInt32LE(handle + 4);
  if (type !== SHMEM_HANDLE.type || bytes !== SHMEM_HANDLE.bytes) return undefined;
  return event.readBigUInt64LE(handle + 12);
}

/** Whether somebody may have a regular file open for writing. Only while those who may open it stand: for a moment nobody
 *  can. */
export function isHeld(where: Buffer): boolean {
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | O_CLOEXEC;
  const opened = sys('open', Buffer.concat([where, Buffer.of(0)]), flags, 0);
  if (opened < 0) return true;
  using fd = new OwnedFd(opened);
  // Were the lease broken, its signal would end this process.
  sys('fcntl', fd.number, F.setSignal, SIGURG);
  if (sys('fcntl', fd.number, F.setLease, LEASE.read) < 0) return true;
  sys('fcntl', fd.number, F.setLease, LEASE.none);
  return false;
}
