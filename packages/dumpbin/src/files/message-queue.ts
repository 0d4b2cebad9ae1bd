import type { FileObject, MessageQueueFd, PosixQueue, Process } from '@ferry/image';
import type { ProgramBuilder, Slot } from '../program.js';
import { grouping, O_ACCMODE, O_CREAT, O_EXCL, O_NONBLOCK, O_RDWR } from './common.js';
import type { EmitContext, FileEmitter } from './emit.js';

const SIGEV_NONE = 1;

/** POSIX message queues. One that has a name is opened by it; one that has none gets one until all its descriptions are
 *  made. */
export const messageQueueEmitter: FileEmitter = {
  create(b, file, ctx) {
    const { inode, queue } = queueOf(file);
    if (queue === undefined) return;
    if (queue.name !== '') {
      emitOpenQueue(b, file, queue.name, ctx);
      return;
    }
    if (!ctx.once(`messageQueue:${inode}`)) return;
    const files = sameQueue(ctx.image, file);
    const whole = files.map((each) => queueOf(each).queue!).find(isWhole) ?? queue;
    const name = `ferry-${inode}`;
    emitPosixQueue(b, { ...whole, name });
    for (const each of files) emitOpenQueue(b, each, name, ctx);
    b.sys('mq_unlink', [b.cstr(name)], `message queue ${inode}: take its name`);
  },
};

const sameQueue = grouping((file) =>
  file.kind?.$case === 'messageQueue' && file.kind.value.queue?.name === ''
    ? `${file.kind.value.inode}`
    : undefined,
);

function isWhole({ messagesMax }: PosixQueue): boolean {
  return messagesMax !== 0n;
}

function queueOf(file: FileObject): MessageQueueFd {
  if (file.kind?.$case !== 'messageQueue') throw new TypeError(`File ${file.id} is no queue`);
  return file.kind.value;
}

function emitOpenQueue(b: ProgramBuilder, file: FileObject, name: string, ctx: EmitContext): void {
  const slot = b.slotFor('file');
  const flags = file.flags & (O_ACCMODE | O_NONBLOCK);
  const step = `open message queue ${name}`;
  b.sys('mq_open', [b.cstr(name), flags, 0, 0], step, { into: slot });
  b.moveFd(slot, ctx.fdOf(file.id), step);
}

/** Makes a queue with its messages. */
export function emitPosixQueue(b: ProgramBuilder, queue: PosixQueue): void {
  const { name, uid, gid, mode, messagesMax, messageSize, messages } = queue;
  const step = `message queue ${name}`;
  const attributes = b.words(0n, messagesMax, messageSize, 0n, 0n, 0n, 0n, 0n);
  const slot: Slot = b.slotFor('queue');
  const flags = O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK;
  b.sys('mq_open', [b.cstr(name), flags, 0o600, attributes], `${step}: create`, { into: slot });
  for (const { priority, text } of messages) {
    b.sys('mq_timedsend', [slot, b.bytes(text), text.length, priority, 0], `${step}: message`);
  }
  b.sys('fchown', [slot, uid, gid], `${step}: owner`);
  b.sys('fchmod', [slot, mode], `${step}: mode`);
  b.sys('close', [slot], `${step}: close`);
}

/** mq_notify(3) by a process itself, when its descriptors stand at their final numbers. Closing any descriptor of the
 *  queue takes it back, so the restorer's own go first. */
export function emitQueueNotices(b: ProgramBuilder, process: Process, ctx: EmitContext): void {
  for (const file of ctx.image.files) {
    if (file.kind?.$case !== 'messageQueue' || file.kind.value.notifiedPid !== process.pid)
      continue;
    const fd = process.descriptors.find(({ fileId }) => fileId === file.id)?.fd;
    if (fd === undefined || !ctx.once(`queueNotice:${file.kind.value.inode}`)) continue;
    const step = `descriptor ${fd}: mq_notify`;
    for (const each of sameInode(ctx.image, file)) {
      b.sys('close', [ctx.fdOf(each.id)], `${step}: restorer's descriptor`, { expect: 'any' });
    }
    // struct sigevent: value, signal, sigev_notify
    const event = Buffer.alloc(64);
    event.writeInt32LE(SIGEV_NONE, 12);
    b.sys('mq_notify', [fd, b.bytes(event)], step);
  }
}

const sameInode = grouping((file) =>
  file.kind?.$case === 'messageQueue' ? `${file.kind.value.inode}` : undefined,
);
