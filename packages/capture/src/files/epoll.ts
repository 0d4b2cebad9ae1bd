import type { EpollTarget } from '@ferry/image';
import { sys } from '@ferry/linux';
import { deviceNumbers, refuse } from './common.js';
import type { Descriptor, FileCapture, FileContext } from './context.js';

const KCMP_EPOLL_TFD = 7;

/** A `tfd:` line of fdinfo (ep_show_fdinfo in fs/eventpoll.c). */
interface Watch {
  readonly fd: number;
  readonly events: number;
  readonly data: bigint;
  readonly inode: bigint;
  /** dev_t of the kernel: major << 20 | minor. */
  readonly device: bigint;
  /** Which of the entries with this number it is, in the order of the lines. */
  readonly index: number;
}

/** epoll instances: what they watch, under which number, with what armed. */
export const epollCapture: FileCapture = {
  matches: (descriptor) => descriptor.link === 'anon_inode:[eventpoll]',
  capture(descriptor, ctx) {
    const targets: EpollTarget[] = [];
    for (const watch of watchesOf(descriptor.info)) {
      const found = findTarget(descriptor, watch, ctx);
      if (found !== undefined) {
        const { fd, events, data } = watch;
        targets.push({ fd, events, data, fileId: found.id, pid: found.pid });
      } else if (!ctx.scanning) {
        refuse(descriptor, ctx, {
          code: 'file.epollTarget',
          reason:
            `it watches a file (added as descriptor ${watch.fd}, inode ${watch.inode}) that no ` +
            'process of the tree has open any more',
          remedy: 'close the epoll instance, or remove the file from it before closing the file',
        });
      }
    }
    return { $case: 'epoll', value: { targets } };
  },
};

const TFD =
  /^tfd: *(\d+) events: *([0-9a-f]+) data: *([0-9a-f]+) +pos:-?\d+ ino:([0-9a-f]+) sdev:([0-9a-f]+)$/gm;

function watchesOf(info: string): Watch[] {
  const counts = new Map<number, number>();
  const watches: Watch[] = [];
  for (const [, fd, events, data, inode, device] of info.matchAll(TFD)) {
    const number = Number(fd);
    const index = counts.get(number) ?? 0;
    counts.set(number, index + 1);
    watches.push({
      fd: number,
      events: Number.parseInt(events!, 16),
      data: BigInt(`0x${data}`),
      inode: BigInt(`0x${inode}`),
      device: BigInt(`0x${device}`),
      index,
    });
  }
  return watches;
}

interface Found {
  readonly id: number;
  /** The process whose descriptor of the watched number is this very file; 0 when none. */
  readonly pid: number;
}

/** The number is one of whoever added it, which must have been a process that has the instance; but it may have been
 *  closed since, or given to another file, while a duplicate keeps the first one watched. So what stands there is taken
 *  if it is certain, and asked of kcmp(2) if not. */
function findTarget(epoll: Descriptor, watch: Watch, ctx: FileContext): Found | undefined {
  const holders = holdersOf(epoll, ctx);
  const ids = candidates(watch, ctx);
  for (const pid of holders) {
    const id = ctx.idOf(pid, watch.fd);
    if (id === undefined || !ids.includes(id)) continue;
    if (ctx.scanning || ids.length === 1 || isTarget(epoll, watch, id, ctx)) return { id, pid };
  }
  const id = ids.find((candidate) => isTarget(epoll, watch, candidate, ctx));
  return id === undefined ? undefined : { id, pid: 0 };
}

function holdersOf(epoll: Descriptor, ctx: FileContext): Set<number> {
  const id = ctx.idOf(epoll.process.pid, epoll.fd);
  const all = id === undefined ? [] : ctx.holdersOf(id);
  return new Set(all.map((holder) => holder.process.pid));
}

/** Descriptions with the watched file's inode: one, or many for the inode that all anonymous files share. */
function candidates(watch: Watch, ctx: FileContext): readonly number[] {
  const devices = ctx.shared('devicesByKernelNumber', () => {
    const table = new Map<bigint, bigint>();
    for (const { descriptor } of ctx.descriptions) {
      const { major, minor } = deviceNumbers(descriptor.stat.device);
      table.set((BigInt(major) << 20n) | BigInt(minor), descriptor.stat.device);
    }
    return table;
  });
  const device = devices.get(watch.device);
  return device === undefined ? [] : ctx.idsOfInode(device, watch.inode);
}

/** kcmp(pid1, pid2, KCMP_EPOLL_TFD, fd of pid1, struct kcmp_epoll_slot { efd, tfd, toff } of pid2) */
function isTarget(epoll: Descriptor, watch: Watch, id: number, ctx: FileContext): boolean {
  const [holder] = ctx.holdersOf(id);
  if (holder === undefined) return false;
  const slot = Buffer.alloc(12);
  slot.writeUInt32LE(epoll.fd, 0);
  slot.writeUInt32LE(watch.fd, 4);
  slot.writeUInt32LE(watch.index, 8);
  const pids = [holder.process.hostPid, epoll.process.hostPid] as const;
  return sys('kcmp', ...pids, KCMP_EPOLL_TFD, holder.fd, slot) === 0;
}
