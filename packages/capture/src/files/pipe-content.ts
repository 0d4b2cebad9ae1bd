import { FerryError } from '@ferry/core';
import { call, cString, OwnedFd, sys } from '@ferry/linux';
import {
  canRead,
  ioctlInt,
  isErrno,
  O_CLOEXEC,
  O_DIRECT,
  O_NONBLOCK,
  POLLHUP,
  POLLIN,
  pollNow,
} from './common.js';
import type { Descriptor } from './context.js';

const FIONREAD = 0x541b;
const F_SETPIPE_SZ = 1031;
const F_GETPIPE_SZ = 1032;
const SPLICE_F_NONBLOCK = 2;

export interface PipeContent {
  readonly content: Buffer;
  /** Lengths of packets (O_DIRECT); empty for a stream. */
  readonly packets: number[];
}

export function pipeCapacity(end: Descriptor): number {
  return call('fcntl', end.dup().number, F_GETPIPE_SZ);
}

/** What is in a pipe or FIFO, which keeps it: tee(2) makes the same buffers appear in a pipe of ours, and only that one
 *  is read. `ends`: every description of it. */
export function pipeContent(ends: readonly Descriptor[]): PipeContent {
  const any = ends[0]!;
  const length = ioctlInt(any.dup(), FIONREAD);
  if (length === 0) return { content: Buffer.alloc(0), packets: [] };
  const isPackets = ends.some((end) => (end.flags & O_DIRECT) !== 0);
  const reader = ends.find((end) => canRead(end.flags));
  using opened = reader === undefined ? openReader(any) : undefined;
  const source = opened?.number ?? reader!.dup().number;
  const [ourReader, ourWriter] = makePipe();
  using from = ourReader;
  using to = ourWriter;
  const capacity = pipeCapacity(any);
  const sized = sys('fcntl', to.number, F_SETPIPE_SZ, capacity);
  if (sized < 0) {
    throw new FerryError('capture.pipeSize', `No pipe of ${capacity} bytes can be made here`, {
      remedy: 'raise /proc/sys/fs/pipe-max-size',
    });
  }
  const copied = call('tee', source, to.number, capacity, SPLICE_F_NONBLOCK);
  if (copied !== length) {
    throw new FerryError(
      'capture.pipeContent',
      `${any.link} holds ${length} bytes, of which ${copied} could be copied`,
    );
  }
  return drain(from, length, isPackets);
}

/** Whether anybody can still write into the pipe or FIFO of a read end. tee(2) of an empty pipe tells the end of file
 *  from a wait, and consumes nothing whoever writes meanwhile; poll(2) would not for a FIFO that never had a writer. */
export function hasWriter(reader: Descriptor): boolean {
  const fd = reader.dup();
  const [ourReader, ourWriter] = makePipe();
  using _from = ourReader;
  using to = ourWriter;
  const copied = sys('tee', fd.number, to.number, 1, SPLICE_F_NONBLOCK);
  if (copied > 0) return (pollNow(fd.number, POLLIN) & POLLHUP) === 0;
  return copied !== 0;
}

/** A write end alone: its pipe can be opened for reading through /proc as long as one end is open. */
function openReader(end: Descriptor): OwnedFd {
  const path = cString(`/proc/${end.process.hostPid}/fd/${end.fd}`);
  return new OwnedFd(call('open', path, O_NONBLOCK | O_CLOEXEC, 0));
}

function makePipe(): [OwnedFd, OwnedFd] {
  const pair = Buffer.alloc(8);
  call('pipe2', pair, O_CLOEXEC | O_NONBLOCK);
  return [new OwnedFd(pair.readInt32LE(0)), new OwnedFd(pair.readInt32LE(4))];
}

/** A read ends after a packet, if it is one: its length is the result. */
function drain(from: OwnedFd, length: number, isPackets: boolean): PipeContent {
  const content = Buffer.alloc(length);
  const packets: number[] = [];
  let done = 0;
  while (done < length) {
    const n = sys('read', from.number, content.subarray(done), length - done);
    if (isErrno(n, 'EAGAIN') || n === 0) break;
    if (n < 0) throw new FerryError('capture.pipeContent', `Reading a copied pipe gave ${n}`);
    if (isPackets) packets.push(n);
    done += n;
  }
  if (done !== length) {
    throw new FerryError('capture.pipeContent', `A copied pipe of ${length} bytes gave ${done}`);
  }
  return { content, packets };
}
