import { call, cString, OwnedFd, sys, sysError } from '@ferry/linux';

const O_RDONLY_CLOEXEC = 0o2000000;
const IN_NONBLOCK_CLOEXEC = 0o2004000;
const IN_OPEN = 0x20;
const IN_Q_OVERFLOW = 0x4000;
const EAGAIN = 11;
const EVENT_BYTES = 16;
/** Before Linux 6.13 times moved in steps of a timer tick, and times of access still do: what happens this shortly before a
 *  look may happen again without a trace. */
const RECENT_NS = 20_000_000n;

interface Seen {
  readonly times: string;
  /** The same times may come again. */
  readonly recent: boolean;
  /** Of the look. */
  readonly stop: number | undefined;
}

interface Watched {
  readonly fd: OwnedFd;
  /** Of inotify(7); undefined: not watched by it. */
  readonly watch: number | undefined;
  /** As it was at the last look that was kept. */
  before: Seen | undefined;
  opened: boolean;
}

/** Tells whether a shared memory object may have been written by other ways than the mappings that are known, or may have
 *  been mapped meanwhile:
 *  - mmap(2) and shmat(2) move its time of access (mm/shmem.c: shmem_mmap), unless they extend a mapping that is there. The
 *    kernel's own mount, on which these objects live, has neither noatime nor relatime. (A program that sets O_NOATIME on
 *    the descriptor of its own memfd hides that.)
 *  - write(2) and fallocate(2) move the times of modification. So does a write through a mapping, at times, so they are
 *    looked at where there may be descriptors, those of a memfd. An anonymous object and a System V segment have none,
 *    but those that a privileged program makes of /proc/PID/map_files, which inotify tells. */
export class ObjectWatches implements Disposable {
  readonly #watched: Watched[] = [];
  readonly #inotify = new OwnedFd(call('inotify_init1', IN_NONBLOCK_CLOEXEC));

  /** @param path  opens the object */
  add(path: string, kind: string): OwnedFd {
    const fd = new OwnedFd(call('open', cString(path), O_RDONLY_CLOEXEC, 0));
    let watch: number | undefined;
    if (kind !== 'memfd') {
      const own = cString(`/proc/self/fd/${fd.number}`);
      watch = sys('inotify_add_watch', this.#inotify.number, own, IN_OPEN);
      if (watch < 0) {
        fd[Symbol.dispose]();
        throw sysError('inotify_add_watch', -watch, path);
      }
    }
    this.#watched.push({ fd, watch, before: undefined, opened: false });
    return fd;
  }

  /** Of each object, in the order of `add`: whether there was anything since the last look that was kept.
   *  @param options  `keep`: what is seen now is what later looks compare with; `stop`: the tree stands, and has not run
   *    between looks with the same number */
  stirred({
    keep,
    stop,
  }: {
    readonly keep: boolean;
    readonly stop: number | undefined;
  }): boolean[] {
    this.#readOpened();
    return this.#watched.map((watched) => {
      const { before, opened, watch } = watched;
      const times = timesOf(watched.fd, { modified: watch === undefined });
      const stood = stop !== undefined && before?.stop === stop;
      const isKnown = before?.times === times.text && (stood || !before.recent);
      if (keep) {
        watched.opened = false;
        watched.before = { times: times.text, recent: times.recent, stop };
      }
      return opened || !isKnown;
    });
  }

  #readOpened(): void {
    const events = Buffer.alloc(4096);
    for (;;) {
      const n = sys('read', this.#inotify.number, events, events.length);
      if (n === -EAGAIN) return;
      if (n < 0) throw sysError('read', -n, 'inotify');
      for (let at = 0; at < n; at += EVENT_BYTES + events.readUInt32LE(at + 12)) {
        const lost = (events.readUInt32LE(at + 4) & IN_Q_OVERFLOW) !== 0;
        const watch = events.readInt32LE(at);
        for (const watched of this.#watched) {
          if (lost || watched.watch === watch) watched.opened = true;
        }
      }
    }
  }

  [Symbol.dispose](): void {
    for (const { fd } of this.#watched.splice(0)) fd[Symbol.dispose]();
    this.#inotify[Symbol.dispose]();
  }
}

/** fstat(2): struct stat has st_atim, st_mtim and st_ctim from byte 72 on. */
function timesOf(fd: OwnedFd, { modified }: { modified: boolean }) {
  const stat = Buffer.alloc(144);
  call('fstat', fd.number, stat);
  const at = (offset: number) =>
    stat.readBigInt64LE(offset) * 1_000_000_000n + stat.readBigInt64LE(offset + 8);
  const times = modified ? [at(72), at(88), at(104)] : [at(72)];
  const now = BigInt(Date.now()) * 1_000_000n;
  return { text: times.join(' '), recent: times.some((time) => now - time < RECENT_NS) };
}
