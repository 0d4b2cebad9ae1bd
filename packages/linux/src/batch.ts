import { native } from './native.js';
import { addressOf } from './sys.js';
import { SYSCALL, type SyscallName } from './syscall-table.js';

const CALL_SIZE = 64;
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

  constructor(calls: readonly BatchedCall[]) {
    this.#calls = Buffer.alloc(calls.length * CALL_SIZE);
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
    return this.#calls.readInt32LE(i * CALL_SIZE + RESULT_AT);
  }
}
