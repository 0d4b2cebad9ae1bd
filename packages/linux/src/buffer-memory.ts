import { native } from './native.js';

/** Gives the memory of `buffer` back now: whoever still has it, or another view of the same memory, has nothing. V8 would
 *  do so when it collects garbage, and marks the whole heap for every 64 MiB of such buffers. A small buffer, which shares
 *  its memory with others (Buffer.poolSize), is left alone. No native call may be using it. */
export function freeBuffer(buffer: Buffer): void {
  if (buffer.buffer.byteLength > Buffer.poolSize) native.freeBuffer(buffer);
}
