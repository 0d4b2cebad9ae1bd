import type { TunQueue } from '@ferry/image';
import { inNamespace, POLL, pollNow, readLink, sys } from '@ferry/linux';
import { deviceOffload, deviceRecords } from '../namespaces/network.js';
import { deviceNumbers, refuse, typeOf } from './common.js';
import type { Descriptor, FileCapture, FileContext } from './context.js';

const TUN = {
  getInterface: 0x800454d2,
  getSendBuffer: 0x800454d3,
  getHeaderLength: 0x800454d7,
  getFilter: 0x801054db,
  getLittleEndian: 0x800454dd,
  getBigEndian: 0x800454df,
  getDeviceNamespace: 0x54e3,
} as const;
const IFF = { tap: 2, detached: 0x400, persistent: 0x800, vnetHeader: 0x4000 } as const;
const EBADFD = 77;
const NOTHING = Buffer.alloc(0);

/** Whether a descriptor is of /dev/net/tun (misc device 200). */
export function isTun(descriptor: Pick<Descriptor, 'stat'>): boolean {
  if (typeOf(descriptor) !== 'character') return false;
  const { major, minor } = deviceNumbers(descriptor.stat.rdev);
  return major === 10 && minor === 200;
}

/** The name of the device that a descriptor of /dev/net/tun is a queue of, from its fdinfo; '' for none. */
export function tunDeviceOf({ info }: Pick<Descriptor, 'info'>): string {
  return /^iff:\t(.+)$/m.exec(info)?.[1] ?? '';
}

/** Queues of tun and tap devices (Documentation/networking/tuntap.rst). A device that does not persist is there as long as
 *  its descriptor: it is made again with it, addresses and routes included, unless its network namespace is carried. */
export const tunCapture: FileCapture = {
  matches: isTun,
  capture(descriptor, ctx) {
    const value = describe(descriptor, ctx);
    return value && { $case: 'tun', value };
  },
};

function describe(descriptor: Descriptor, ctx: FileContext): TunQueue | undefined {
  const fd = descriptor.dup().number;
  const path = descriptor.link;
  const request = Buffer.alloc(40);
  const result = sys('ioctl', fd, TUN.getInterface, request);
  if (result === -EBADFD) return { ...unattached, path };
  if (result < 0) return refuseTun(descriptor, ctx, 'the kernel does not tell its device');
  const space = ctx.networks.of(descriptor);
  const elsewhere = sys('ioctl', fd, TUN.getDeviceNamespace, 0);
  const there = elsewhere < 0 ? undefined : linkAndClose(elsewhere);
  if (space === undefined || (there !== undefined && there !== space.link)) {
    return refuseTun(descriptor, ctx, 'its device was moved to another network namespace');
  }
  const name = request.toString('latin1', 0, 16).replace(/\0.*$/s, '');
  const flags = request.readUInt16LE(16);
  if (!ctx.scanning && (pollNow(fd, POLL.in) & POLL.in) !== 0) ctx.lose('packets', descriptor);
  if ((flags & IFF.tap) !== 0 && number(fd, TUN.getFilter) !== 0) {
    return refuseTun(descriptor, ctx, 'the kernel does not give back the filter of its packets');
  }
  const found = inNamespace('net', space.path, () => deviceRecords(name));
  if (found === undefined) return refuseTun(descriptor, ctx, `there is no device ${name}`);
  const hasHeader = (flags & IFF.vnetHeader) !== 0;
  return {
    path,
    ...found,
    persistent: (flags & IFF.persistent) !== 0,
    detached: (flags & IFF.detached) !== 0,
    sendBuffer: number(fd, TUN.getSendBuffer),
    headerLength: hasHeader ? number(fd, TUN.getHeaderLength) : 0,
    littleEndian: hasHeader && number(fd, TUN.getLittleEndian) !== 0,
    bigEndian: hasHeader && number(fd, TUN.getBigEndian) !== 0,
    offload: inNamespace('net', space.path, () => deviceOffload(name)),
  };
}

const unattached: TunQueue = {
  path: '',
  link: NOTHING,
  addresses: [],
  routes: [],
  persistent: false,
  detached: false,
  sendBuffer: 0,
  headerLength: 0,
  littleEndian: false,
  bigEndian: false,
  offload: 0,
};

function linkAndClose(fd: number): string {
  const link = readLink(`/proc/self/fd/${fd}`);
  sys('close', fd);
  return link;
}

function refuseTun(descriptor: Descriptor, ctx: FileContext, reason: string): undefined {
  return refuse(descriptor, ctx, {
    code: 'file.tun',
    reason,
    remedy: 'close the descriptor, or let the program make its device anew without that',
  });
}

/** The first word of what an ioctl(2) fills; 0 when it fails. */
function number(fd: number, command: number): number {
  const value = Buffer.alloc(16);
  return sys('ioctl', fd, command, value) < 0 ? 0 : value.readUInt32LE(0);
}
