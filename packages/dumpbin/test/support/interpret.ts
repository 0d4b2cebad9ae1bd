import { addressOf, errnoName, type SyscallName, sys, syscallName } from '@ferry/linux';
import { EXPECT, KIND, OP_SIZE, type ProgramBuilder } from '../../src/index.js';

/** Runs a program in this very process, as the restorer would: its system calls, jumps, loads and stores. What belongs
 *  to a tree (forks, barriers, leaving) is refused. So a test can look at what steps really make.
 *  @throws Error that names the failed step, its call and its result */
export function interpret(program: ProgramBuilder): void {
  const { data: dataLength, zeroed } = program.sizes;
  const memory = Buffer.alloc(dataLength + zeroed + 64);
  const dataAddress = addressOf(memory);
  const { ops, data } = program.link({
    dataAddress,
    pagesOffset: 0,
    region: 0n,
    regionLength: 0,
  });
  data.copy(memory);
  const machine = { memory, dataAddress, slots: new Map<bigint, bigint>() };
  // Names of sockets are bound from within their folder: the tests that follow want to be where they were.
  const here = process.cwd();
  try {
    for (let index = 0; index * OP_SIZE < ops.length; index++) {
      const op = ops.subarray(index * OP_SIZE, (index + 1) * OP_SIZE);
      const target = step(op, machine);
      if (target !== undefined) index = target - 1;
    }
  } finally {
    process.chdir(here);
  }
}

interface Machine {
  readonly memory: Buffer;
  readonly dataAddress: bigint;
  readonly slots: Map<bigint, bigint>;
}

/** Runs one operation (struct plan_op); the index of the next one when it jumps. */
function step(op: Buffer, machine: Machine): number | undefined {
  const { memory, dataAddress, slots } = machine;
  const mask = op.readUInt16LE(6);
  const word = (i: number): bigint => {
    const raw = op.readBigUInt64LE(16 + i * 8);
    return (mask & (1 << i)) !== 0 ? (slots.get(raw) ?? 0n) : raw;
  };
  const offset = (address: bigint): number => Number(address - dataAddress);
  let result = 0n;
  switch (op.readUInt8(0)) {
    case KIND.syscall:
      result = systemCall(op, word);
      break;
    case KIND.store:
      if (word(2) === 4n) memory.writeUInt32LE(Number(word(1) & 0xffffffffn), offset(word(0)));
      else memory.writeBigUInt64LE(word(1), offset(word(0)));
      break;
    case KIND.load:
      result =
        word(1) === 4n
          ? BigInt(memory.readUInt32LE(offset(word(0))))
          : memory.readBigInt64LE(offset(word(0)));
      break;
    case KIND.jump:
      return word(0) === word(1) ? op.readUInt32LE(12) : undefined;
    default:
      throw new Error(`Operation ${op.readUInt8(0)} belongs to a tree`);
  }
  if (!isExpected(op, result, word(6))) {
    const name = nameOf(memory, op.readUInt32LE(8));
    const errno = result < 0n ? ` (${errnoName(Number(-result))})` : '';
    const call = syscallName(op.readUInt16LE(2));
    const args = [0, 1, 2, 3, 4, 5].map((i) => word(i).toString(16)).join(', ');
    throw new Error(`Step "${name}": ${call}(${args}) gave ${result}${errno}`);
  }
  const into = op.readUInt16LE(4);
  if (into !== 0) slots.set(BigInt(into - 1), BigInt.asUintN(64, result));
  return undefined;
}

function systemCall(op: Buffer, word: (i: number) => bigint): bigint {
  const name = syscallName(op.readUInt16LE(2)) as SyscallName;
  return BigInt(sys(name, word(0), word(1), word(2), word(3), word(4), word(5)));
}

function isExpected(op: Buffer, result: bigint, value: bigint): boolean {
  const failed = result < 0n && result >= -4095n;
  switch (op.readUInt8(1)) {
    case EXPECT.any:
      return true;
    case EXPECT.value:
      // Results beyond 2^53 (positions in directories) come rounded from the addon.
      return Number(result) === Number(BigInt.asIntN(64, value));
    case EXPECT.orErrno:
      return !failed || -result === value;
    default:
      return !failed;
  }
}

function nameOf(memory: Buffer, at: number): string {
  return memory.toString('utf8', at, memory.indexOf(0, at));
}
