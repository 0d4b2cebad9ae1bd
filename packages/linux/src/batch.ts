import { type NativeAhead, native } from './native.js';
import { addressOf } from './sys.js';
import { SYSCALL, type SyscallName } from './syscall-table.js';

/** Bytes of a call in a batch's room. */
export const CALL_SIZE = 64;
const RESULT_AT = 56;

/** A system call of a batch, without its first argument, which all of a batch share. */
export interface BatchedCall {
  readonly name: SyscallName;
  /** From the second argument on; Buffers are pointers, and are kept for the batch's life. */
  readonly args: readonly (number | bigint | Buffer)[];
}

/** The same system calls, to be made again and again on one descriptor after the other: with a single step into native
 *  code, which costs as much as several of them. */
export class SyscallBatch {
  readonly #calls: Buffer;
  readonly #kept: Buffer[] = [];

  /** @param room  CALL_SIZE bytes for each call, for whoever has what they point to side by side with them */
  constructor(
    calls: readonly BatchedCall[],
    room: Buffer = Buffer.alloc(calls.length * CALL_SIZE),
  ) {
    this.#calls = room;
    for (const [i, { name, args }] of calls.entries()) {
      this.#calls.writeBigUInt64LE(BigInt(SYSCALL[name]), i * CALL_SIZE);
      for (const [j, argument] of args.entries()) {
        if (Buffer.isBuffer(argument)) this.#kept.push(argument);
        const word = Buffer.isBuffer(argument) ? addressOf(argument) : BigInt(argument);
        this.#calls.writeBigUInt64LE(BigInt.asUintN(64, word), i * CALL_SIZE + 16 + j * 8);
      }
    }
  }

  /** Makes all calls, in order, whatever they give. */
  run(first: number): void {
    native.syscalls(this.#calls, first);
  }

  /** What call `i` gave: a result, or -errno. */
  result(i: number): number {
    return resultOf(this.#calls, i);
  }
}

/** What call `i` of the batch in a room gave: a result, or -errno. */
export function resultOf(room: Buffer, i: number): number {
  return room.readInt32LE(i * CALL_SIZE + RESULT_AT);
}

/** A batch made on one descriptor after the other by a thread beside, which takes the time of the system calls alone. */
export class SyscallsAhead implements Disposable {
  readonly #room: Buffer;
  readonly #fds: Buffer;
  readonly #out: Buffer;
  #native: NativeAhead | undefined;

  /** @param room  begins with the calls of a batch, followed by all that they point to; not to be used meanwhile
   *  @param calls  so many
   *  @throws Error when there is no thread for it */
  constructor(room: Buffer, calls: number, fds: readonly number[]) {
    this.#room = room;
    this.#fds = Buffer.from(Int32Array.from(fds).buffer);
    this.#out = Buffer.allocUnsafeSlow(room.length * fds.length);
    this.#native = native.syscallsAhead(room, calls, this.#fds, this.#out);
  }

  /** The room as it was after the calls on descriptor `i`, once they have been made. */
  take(i: number): Buffer {
    if (this.#native === undefined) throw new Error('It was ended');
    native.syscallsAheadWait(this.#native, i);
    const { length } = this.#room;
    return this.#out.subarray(i * length, (i + 1) * length);
  }

  /** Repeatable. */
  [Symbol.dispose](): void {
    if (this.#native !== undefined) native.syscallsAheadEnd(this.#native);
    this.#native = undefined;
  }
}
