import type { UnixCredentials, UnixWaiting } from '@ferry/image';
import type { UnixDiag } from '@ferry/linux';
import type { Descriptor, FileContext } from './context.js';
import { UnacceptedReader, type UnacceptedUnix } from './unaccepted.js';
import { parseCredentials } from './unix-queue.js';

/** What the kernel says in place of an id that was not recorded. */
const NO_ID = 0xffffffff;

/** The connections that wait in a listening socket's queue, in the order of `listener.pending`; undefined when they
 *  cannot be read. `one` is any socket of the tree. */
export function waitingAt(
  listener: UnixDiag,
  one: Descriptor,
  ctx: FileContext,
): readonly UnacceptedUnix[] | undefined {
  if (listener.pending.length === 0) return [];
  return ctx.shared(`unaccepted:${listener.inode}`, () => {
    const [id] = ctx.idsOfInode(one.stat.device, BigInt(listener.inode));
    if (id === undefined) return undefined;
    const found = UnacceptedReader.of(ctx)?.unix(ctx.descriptorOf(id).dup().number);
    return found?.length === listener.pending.length ? found : undefined;
  });
}

/** Whether all of it can be sent again. */
export function isCarried(waiting: readonly UnacceptedUnix[] | undefined): boolean {
  return (
    waiting?.every(
      ({ buffers, isOdd }) => !isOdd && buffers.every(({ hasRights }) => !hasRights),
    ) ?? false
  );
}

/** The same for the image. */
export function waitingOf(listener: UnixDiag, one: Descriptor, ctx: FileContext): UnixWaiting[] {
  return (waitingAt(listener, one, ctx) ?? []).map(({ buffers, name, credentials }) => ({
    messages: buffers.map((buffer) => ({
      data: buffer.data,
      fileIds: [],
      sourceAddress: Buffer.alloc(0),
      credentials: recorded(buffer.credentials, ctx),
    })),
    clientAddress: name,
    credentials: recorded(credentials, ctx),
  }));
}

function recorded(raw: Buffer, ctx: FileContext): UnixCredentials | undefined {
  const credentials = parseCredentials(raw, ctx);
  return credentials.uid === NO_ID ? undefined : credentials;
}
