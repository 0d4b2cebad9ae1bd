import {
  call,
  peekMessage,
  type ReceivedMessage,
  SO,
  SOL,
  setSocketInt,
  socketInt,
} from '@ferry/linux';

/** Runs `peek` with SO_PEEK_OFF at 0, so that each MSG_PEEK shows what comes after the last, and puts it back. */
export function withPeekOffset<T>(fd: number, peek: () => T): T {
  const before = socketInt(fd, SOL.socket, SO.peekOffset) ?? -1;
  setSocketInt(fd, SOL.socket, SO.peekOffset, 0);
  try {
    return peek();
  } finally {
    setSocketInt(fd, SOL.socket, SO.peekOffset, before);
  }
}

/** Runs `peek` with SO_PEEK_OFF off, so that MSG_PEEK shows the head of a stream's queue and moves nothing. */
export function withoutPeekOffset<T>(fd: number, peek: () => T): T {
  const before = socketInt(fd, SOL.socket, SO.peekOffset) ?? -1;
  if (before < 0) return peek();
  setSocketInt(fd, SOL.socket, SO.peekOffset, -1);
  try {
    return peek();
  } finally {
    setSocketInt(fd, SOL.socket, SO.peekOffset, before);
  }
}

/** Runs `peek` with an option of a socket switched on, and puts it back. */
export function withOption<T>(
  fd: number,
  option: { level: number; name: number },
  peek: () => T,
): T {
  const before = socketInt(fd, option.level, option.name) ?? 0;
  if (before === 0) setSocketInt(fd, option.level, option.name, 1);
  try {
    return peek();
  } finally {
    if (before === 0) setSocketInt(fd, option.level, option.name, 0);
  }
}

const FIRST_SIZE = 256 * 1024;
const SCM_RIGHTS = 1;

/** Every datagram in a socket's queue, in order; none is taken. Descriptors in flight come along, see `rightsOf`. */
export function peekDatagrams(fd: number, size = FIRST_SIZE): ReceivedMessage[] {
  const found: ReceivedMessage[] = [];
  withPeekOffset(fd, () => {
    for (;;) {
      const message = peekMessage(fd, size);
      if (message === undefined) return;
      found.push(message);
    }
  });
  const longest = found.reduce((most, message) => Math.max(most, message.fullLength), 0);
  if (longest <= size) return found;
  for (const message of found) closeAll(rightsOf(message));
  return peekDatagrams(fd, longest);
}

/** Descriptors of this process that came with a message. */
export function rightsOf(message: ReceivedMessage): number[] {
  return message.control
    .filter(({ level, type }) => level === SOL.socket && type === SCM_RIGHTS)
    .flatMap(({ data }) =>
      Array.from({ length: data.length / 4 }, (_, i) => data.readInt32LE(i * 4)),
    );
}

/** The content of a connected stream's or packet socket's queue: `total` bytes, in the pieces between which the kernel
 *  would not join (descriptors or credentials that come with the data). Reading further would take a pending error. */
export function peekConnected(fd: number, total: number): ReceivedMessage[] {
  return withPeekOffset(fd, () => {
    const found: ReceivedMessage[] = [];
    let rest = total;
    while (rest > 0) {
      const message = peekMessage(fd, rest);
      if (message === undefined) break;
      found.push(message);
      rest -= message.data.length;
    }
    return found;
  });
}

/** Closes descriptors that came along and are not wanted. */
export function closeAll(fds: readonly number[]): void {
  for (const fd of fds) call('close', fd);
}
