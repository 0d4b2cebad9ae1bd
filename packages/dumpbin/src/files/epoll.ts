import type { EpollTarget, FileObject, TreeImage } from '@ferry/image';
import type { ProgramBuilder } from '../program.js';
import type { EmitContext, FileEmitter } from './emit.js';

const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_MOD = 3;
const EPOLLIN = 1;
const EPOLLOUT = 4;
const EPOLLERR = 8;
const EPOLLHUP = 16;
const EPOLLONESHOT = 1 << 30;
const EPERM = 1;
/** Flags that stay when EPOLLONESHOT has disabled an entry: EPOLLEXCLUSIVE, WAKEUP, ONESHOT, ET. */
const PRIVATE_BITS = 0xf0000000;

/** epoll(7). An entry is the number under which a file was added together with the file, so it is added under that
 *  number: in the process that has it there, or, when nobody has any more, in the one that creates all files, where the
 *  file stands at that number for a moment. */
export const epollEmitter: FileEmitter = {
  create(b, file, ctx) {
    const slot = b.slotFor('file');
    b.sys('epoll_create1', [0], `epoll ${file.id}`, { into: slot });
    b.moveFd(slot, ctx.fdOf(file.id), `epoll ${file.id}`);
  },
  connect(b, file, ctx) {
    const epoll = ctx.fdOf(file.id);
    for (const target of foreignTargets(file, ctx.image)) {
      const at = `epoll ${file.id}: descriptor ${target.fd}`;
      b.sys('dup3', [ctx.fdOf(target.fileId), target.fd, 0], `${at} for a moment`);
      emitAdd(b, { file, epoll, target, ctx });
      b.sys('close', [target.fd], `${at} closed again`);
    }
  },
  installed(b, file, fd, ctx) {
    const own = targetsOf(file).filter((target) => isOwn(file, target, ctx.image));
    const disabled = own.filter(isDisabled);
    const canFire = own.length === targetsOf(file).length;
    for (const target of disabled) {
      if (canFire) emitDisabled(b, { file, epoll: fd, target, ctx });
      else emitAdd(b, { file, epoll: fd, target, ctx });
    }
    for (const target of own) {
      if (!isDisabled(target)) emitAdd(b, { file, epoll: fd, target, ctx });
    }
  },
};

interface Entry {
  readonly file: FileObject;
  readonly epoll: number;
  readonly target: EpollTarget;
  readonly ctx: EmitContext;
}

function targetsOf(file: FileObject): readonly EpollTarget[] {
  return file.kind?.$case === 'epoll' ? file.kind.value.targets : [];
}

/** Entries that no process can add under a number of its own. */
export function foreignTargets(file: FileObject, image: TreeImage): EpollTarget[] {
  return targetsOf(file).filter((target) => !isOwn(file, target, image));
}

function isOwn(file: FileObject, target: EpollTarget, image: TreeImage): boolean {
  return target.pid !== 0 && target.pid === firstOwner(image, file.id);
}

const owners = new WeakMap<TreeImage, Map<number, number>>();

/** The first process of the image that has a file: the one in which `installed` runs. */
function firstOwner(image: TreeImage, fileId: number): number | undefined {
  let table = owners.get(image);
  if (table === undefined) {
    table = new Map();
    for (const { pid, descriptors } of image.processes) {
      for (const descriptor of descriptors) {
        if (!table.has(descriptor.fileId)) table.set(descriptor.fileId, pid);
      }
    }
    owners.set(image, table);
  }
  return table.get(fileId);
}

/** A one-shot entry that has fired and was not armed again waits for nothing, not even a hang-up. */
function isDisabled({ events }: EpollTarget): boolean {
  return (events & EPOLLONESHOT) !== 0 && (events & ~PRIVATE_BITS) >>> 0 === 0;
}

function eventOf(b: ProgramBuilder, events: number, data: bigint) {
  const event = Buffer.alloc(12);
  event.writeUInt32LE(events >>> 0, 0);
  event.writeBigUInt64LE(data, 4);
  return b.bytes(event);
}

/** What whoever restores gave as standard input may be a file, which cannot be watched and never blocks. */
function emitAdd(b: ProgramBuilder, { file, epoll, target, ctx }: Entry): void {
  const event = eventOf(b, target.events, target.data);
  const isExternal = ctx.file(target.fileId).kind?.$case === 'external';
  b.sys(
    'epoll_ctl',
    [epoll, EPOLL_CTL_ADD, target.fd, event],
    `epoll ${file.id}: watch descriptor ${target.fd}`,
    isExternal ? { expect: { orErrno: EPERM } } : {},
  );
}

/** EPOLL_CTL_ADD always waits for errors and hang-ups, which a disabled entry must not. So the entry is made to fire:
 *  added for anything, taken by epoll_wait while nothing else is in the set. A file that is not ready for anything
 *  stays armed for errors alone. */
function emitDisabled(b: ProgramBuilder, entry: Entry): void {
  const { file, epoll, target, ctx } = entry;
  const name = `epoll ${file.id}: descriptor ${target.fd}`;
  const anything = target.events | EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP;
  emitAdd(b, { file, epoll, target: { ...target, events: anything }, ctx });
  const fired = b.slotFor('epoll fired');
  const next = b.label();
  const room = b.reserve(16);
  b.sys('epoll_wait', [epoll, room, 1, 0], `${name}: disable`, { into: fired });
  b.op('jump', [fired, 1], `${name}: disabled`, { target: next });
  const event = eventOf(b, target.events, target.data);
  b.sys('epoll_ctl', [epoll, EPOLL_CTL_MOD, target.fd, event], `${name}: errors only`, {
    expect: 'any',
  });
  b.place(next);
}
