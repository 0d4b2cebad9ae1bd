import { FerryError } from '@ferry/core';
import type { PosixMessage, PosixQueue } from '@ferry/image';
import { call, cString, ERRNO, listDirectory, OwnedFd, sys, sysError } from '@ferry/linux';
import { parseStat } from './files/read-descriptors.js';

const O_RDWR_NONBLOCK_CLOEXEC = 0o2004002;
const FSCONFIG_CMD_CREATE = 6;
const FSMOUNT_CLOEXEC = 1;
const SIGEV_NONE = 1;
/** struct mq_attr: flags, messages at most, size of a message at most, messages now; and what is reserved. */
const ATTRIBUTES_SIZE = 64;
const NO_TIMEOUT = null;

/** Who is to be told when a message comes to an empty queue. */
export interface QueueNotice {
  /** SIGEV_NONE: it takes the place of a notification, and nobody is told. */
  readonly isSilent: boolean;
  readonly hostPid: number;
}

/** A description of our own of a queue, whatever the one that leads to it allows. It can be polled and taken from without
 *  waiting. @param path  a descriptor's, below /proc */
export function openQueue(path: string): OwnedFd {
  return new OwnedFd(call('open', cString(path), O_RDWR_NONBLOCK_CLOEXEC, 0));
}

/** ipc/mqueue.c: mqueue_read_file. `QSIZE:0 NOTIFY:1 SIGNO:0 NOTIFY_PID:4242` */
export function noticeOf(queue: OwnedFd): QueueNotice | undefined {
  const raw = Buffer.alloc(128);
  const length = call('pread64', queue.number, raw, raw.length, 0);
  const text = raw.toString('latin1', 0, length);
  const number = (name: string) => Number(new RegExp(`${name}:(\\d+)`).exec(text)?.[1] ?? 0);
  const hostPid = number('NOTIFY_PID');
  return hostPid === 0 ? undefined : { isSilent: number('NOTIFY') === SIGEV_NONE, hostPid };
}

/** Attributes and messages of a queue. The kernel has no way to look at a message: all are taken, and sent again in the
 *  order in which they came. Nobody may be waiting for one, or to be told of one. */
export function readQueue(queue: OwnedFd, name: string): PosixQueue {
  const attributes = Buffer.alloc(ATTRIBUTES_SIZE);
  call('mq_getsetattr', queue.number, null, attributes);
  const raw = Buffer.alloc(144);
  call('fstat', queue.number, raw);
  const { uid, gid, mode } = parseStat(raw);
  const messageSize = attributes.readBigInt64LE(16);
  const count = Number(attributes.readBigInt64LE(24));
  return {
    name,
    uid,
    gid,
    mode: mode & 0o7777,
    messagesMax: attributes.readBigInt64LE(8),
    messageSize,
    messages: count === 0 ? [] : readMessages(queue, Number(messageSize)),
  };
}

function readMessages(queue: OwnedFd, size: number): PosixMessage[] {
  const messages: PosixMessage[] = [];
  const buffer = Buffer.alloc(size);
  const priority = Buffer.alloc(4);
  try {
    for (;;) {
      const n = sys('mq_timedreceive', queue.number, buffer, size, priority, NO_TIMEOUT);
      if (n === -ERRNO.EAGAIN) return messages;
      if (n < 0) throw sysError('mq_timedreceive', -n);
      messages.push({
        priority: priority.readUInt32LE(0),
        text: Buffer.from(buffer.subarray(0, n)),
      });
    }
  } finally {
    for (const message of messages) sendAgain(queue, message);
  }
}

function sendAgain(queue: OwnedFd, { text, priority }: PosixMessage): void {
  const sent = sys('mq_timedsend', queue.number, text as Buffer, text.length, priority, NO_TIMEOUT);
  if (sent >= 0) return;
  throw new FerryError(
    'capture.messageQueue',
    'A message that was looked at could not be sent again',
    {
      cause: sysError('mq_timedsend', -sent),
      remedy: 'end what else writes to the queue',
    },
  );
}

/** A mount of our own of the queues of the calling thread's IPC namespace. To close it may take as long as an RCU
 *  grace period (fs/namespace.c: namespace_unlock), a millisecond and more: not what a freeze has time for. */
export function mountQueues(): OwnedFd {
  using fs = new OwnedFd(call('fsopen', cString('mqueue'), 1));
  call('fsconfig', fs.number, FSCONFIG_CMD_CREATE, null, null, 0);
  return new OwnedFd(call('fsmount', fs.number, FSMOUNT_CLOEXEC, 0));
}

/** Every queue that has a name. */
export function namedQueues(mount: OwnedFd): PosixQueue[] {
  const folder = `/proc/self/fd/${mount.number}`;
  return listDirectory(folder).map((name) => {
    using queue = openQueue(`${folder}/${name}`);
    return readQueue(queue, name);
  });
}
