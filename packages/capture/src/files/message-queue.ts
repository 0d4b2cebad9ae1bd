import type { FileObject } from '@ferry/image';
import { noticeOf, openQueue, readQueue } from '../message-queues.js';
import { refuse } from './common.js';
import type { Descriptor, FileContext } from './context.js';

const DELETED = ' (deleted)';

/** mq_open(3). The messages of a queue without a name go with its descriptions. */
export function captureMessageQueue(
  descriptor: Descriptor,
  ctx: FileContext,
): FileObject['kind'] | undefined {
  const { link, stat } = descriptor;
  const isDeleted = stat.links === 0 || link.endsWith(DELETED);
  using queue = openQueue(`/proc/self/fd/${descriptor.dup().number}`);
  const notice = noticeOf(queue);
  const notified = ctx.processes.find(({ hostPid }) => hostPid === notice?.hostPid);
  if (notice !== undefined && !(notice.isSilent && notified !== undefined)) {
    return refuse(descriptor, ctx, {
      code: 'file.messageQueueNotice',
      reason: `process ${notice.hostPid} is to be told of its next message (mq_notify), in a way that the kernel does not show`,
      remedy: 'let the program wait with mq_timedreceive or poll(2) instead',
    });
  }
  const isFirst = ctx.shared(`messageQueue:${stat.inode}`, () => ({ id: descriptor }));
  const content =
    isDeleted && !ctx.scanning && isFirst.id === descriptor
      ? readQueue(queue, '')
      : { ...NOTHING, name: isDeleted ? '' : link.slice(1) };
  return {
    $case: 'messageQueue',
    value: { inode: stat.inode, queue: content, notifiedPid: notified?.pid ?? 0 },
  };
}

const NOTHING = { uid: 0, gid: 0, mode: 0, messagesMax: 0n, messageSize: 0n, messages: [] };
