import { KernelTypes } from './btf.js';
import { OwnedFd } from './fd.js';
import { addressOf, ERRNO, sys, sysError } from './sys.js';

const COMMAND = { createMap: 0, lookUp: 1, load: 5, run: 10 } as const;
const ARRAY = 2;
const RAW_TRACEPOINT = 17;
const ATTRIBUTES_BYTES = 128;
const WINDOW_BYTES = 65536;
/** The kernel lets only programs that are (also) under the GPL read its memory: the instructions in `code` are. */
const LICENSE = Buffer.from('Dual MIT/GPL\0');

/** Numbers of helpers: include/uapi/linux/bpf.h. */
const HELPER = { lookUp: 1, currentTask: 35, readKernel: 113 } as const;

/** Reads memory of the kernel, and never writes: a BPF program of some instructions copies what it is asked for, if it is
 *  there, and is run by `BPF_PROG_TEST_RUN`, attached to nothing. For what no system call tells. */
export class KernelMemory {
  readonly types: KernelTypes;
  readonly #map: OwnedFd;
  readonly #program: OwnedFd;
  readonly #window: Buffer;
  /** What the program is given: an address and a length. */
  readonly #asked = Buffer.alloc(16);
  /** The number of the map's only element. */
  readonly #first = Buffer.alloc(4);
  /** union bpf_attr for each command. */
  readonly #runIt = Buffer.alloc(ATTRIBUTES_BYTES);
  readonly #look = Buffer.alloc(ATTRIBUTES_BYTES);

  private constructor(types: KernelTypes, map: OwnedFd, program: OwnedFd, windowBytes: number) {
    this.types = types;
    this.#map = map;
    this.#program = program;
    this.#window = Buffer.alloc(windowBytes);
    this.#runIt.writeUInt32LE(program.number, 0);
    this.#runIt.writeUInt32LE(this.#asked.length, 40);
    this.#runIt.writeBigUInt64LE(addressOf(this.#asked), 48);
    this.#look.writeUInt32LE(map.number, 0);
    this.#look.writeBigUInt64LE(addressOf(this.#first), 8);
    this.#look.writeBigUInt64LE(addressOf(this.#window), 16);
  }

  /** @param windowBytes  so much is copied for each look, however little is asked for
   *  @returns undefined where that is not allowed (no CAP_BPF, lockdown), or the kernel does not tell how it is laid out */
  static open(windowBytes = WINDOW_BYTES): KernelMemory | undefined {
    const map = createWindow(windowBytes);
    if (map < 0) return undefined;
    const owned = new OwnedFd(map);
    const program = load(map, windowBytes);
    const types = program < 0 ? undefined : KernelTypes.read();
    if (types !== undefined) {
      return new KernelMemory(types, owned, new OwnedFd(program), windowBytes);
    }
    if (program >= 0) new OwnedFd(program)[Symbol.dispose]();
    owned[Symbol.dispose]();
    return undefined;
  }

  /** A copy of `length` bytes.
   *  @throws SysError EFAULT when nothing is mapped there */
  read(address: bigint, length: number): Buffer {
    const parts: Buffer[] = [];
    const windowBytes = this.#window.length;
    for (let at = 0; at < length; at += windowBytes) {
      const size = Math.min(windowBytes, length - at);
      if (address === 0n || !this.#run(address + BigInt(at), size)) throw unreadable(address);
      parts.push(Buffer.from(this.#window.subarray(0, size)));
    }
    return parts.length === 1 ? parts[0]! : Buffer.concat(parts);
  }

  /** A member of a structure that is a pointer, or another 64 bits. @throws SysError EFAULT */
  long(base: bigint, structure: string, member: string): bigint {
    return this.read(this.at(base, structure, member), 8).readBigUInt64LE(0);
  }

  /** A member of 32 bits. @throws SysError EFAULT */
  word(base: bigint, structure: string, member: string): number {
    return this.read(this.at(base, structure, member), 4).readUInt32LE(0);
  }

  /** Where a member of a structure is.
   *  @throws SysError EFAULT when this kernel has no such member */
  at(base: bigint, structure: string, member: string): bigint {
    const offset = this.types.offsetOf(structure, member);
    if (offset === undefined) throw sysError('bpf', ERRNO.EFAULT, `${structure}.${member}`);
    return base + BigInt(offset);
  }

  /** Where the kernel keeps the calling thread: struct task_struct. @throws SysError EFAULT */
  currentTask(): bigint {
    if (!this.#run(0n, 0)) throw unreadable(0n);
    return this.#window.readBigUInt64LE(0);
  }

  /** The open file description behind one of our descriptors: struct file. @throws SysError EFAULT */
  file(fd: number): bigint {
    const files = this.long(this.currentTask(), 'task_struct', 'files');
    const table = this.long(files, 'files_struct', 'fdt');
    const descriptors = this.long(table, 'fdtable', 'fd');
    return this.read(descriptors + BigInt(8 * fd), 8).readBigUInt64LE(0);
  }

  [Symbol.dispose](): void {
    this.#program[Symbol.dispose]();
    this.#map[Symbol.dispose]();
  }

  /** @returns whether the window holds what was asked for */
  #run(address: bigint, size: number): boolean {
    this.#asked.writeBigUInt64LE(address, 0);
    this.#asked.writeBigUInt64LE(BigInt(size), 8);
    if (bpf(COMMAND.run, this.#runIt) < 0 || this.#runIt.readInt32LE(4) !== 0) return false;
    return bpf(COMMAND.lookUp, this.#look) === 0;
  }
}

function unreadable(address: bigint): Error {
  return sysError('bpf', ERRNO.EFAULT, `kernel memory at ${address.toString(16)}`);
}

/** @param kept  what the attributes point to, and nothing else may hold any more: V8 collects what nothing holds */
function bpf(command: number, attributes: Buffer, kept: Buffer | null = null): number {
  return sys('bpf', command, attributes, attributes.length, kept);
}

/** An array of one element, into which the program copies. */
function createWindow(windowBytes: number): number {
  const attributes = Buffer.alloc(ATTRIBUTES_BYTES);
  [ARRAY, 4, windowBytes, 1].forEach((value, i) => {
    attributes.writeUInt32LE(value, 4 * i);
  });
  return bpf(COMMAND.createMap, attributes);
}

function load(map: number, windowBytes: number): number {
  const program = code(map, windowBytes);
  const attributes = Buffer.alloc(ATTRIBUTES_BYTES);
  attributes.writeUInt32LE(RAW_TRACEPOINT, 0);
  attributes.writeUInt32LE(program.length / 8, 4);
  attributes.writeBigUInt64LE(addressOf(program), 8);
  attributes.writeBigUInt64LE(addressOf(LICENSE), 16);
  return bpf(COMMAND.load, attributes, program);
}

/** The arguments are an address and a length; without an address it is the calling thread that is told. */
function code(map: number, windowBytes: number): Buffer {
  const [result, first, second, third] = [0, 1, 2, 3];
  const [context, window, address, length, frame] = [6, 7, 8, 9, 10];
  return Buffer.concat([
    instruction(0xbf, { to: context, from: first }),
    instruction(0x62, { to: frame, offset: -4 }),
    instruction(0x18, { to: first, from: 1, value: map }),
    instruction(0),
    instruction(0xbf, { to: second, from: frame }),
    instruction(0x07, { to: second, value: -4 }),
    instruction(0x85, { value: HELPER.lookUp }),
    instruction(0x55, { to: result, offset: 2 }),
    instruction(0xb7, { to: result, value: 1 }),
    instruction(0x95),
    instruction(0xbf, { to: window, from: result }),
    instruction(0x79, { to: address, from: context }),
    instruction(0x79, { to: length, from: context, offset: 8 }),
    instruction(0x55, { to: address, offset: 4 }),
    instruction(0x85, { value: HELPER.currentTask }),
    instruction(0x7b, { to: window, from: result }),
    instruction(0xb7, { to: result }),
    instruction(0x95),
    instruction(0xb5, { to: length, offset: 2, value: windowBytes }),
    instruction(0xb7, { to: result, value: 1 }),
    instruction(0x95),
    instruction(0xbf, { to: first, from: window }),
    instruction(0xbf, { to: second, from: length }),
    instruction(0xbf, { to: third, from: address }),
    instruction(0x85, { value: HELPER.readKernel }),
    instruction(0x95),
  ]);
}

/** struct bpf_insn */
function instruction(
  operation: number,
  parts: { to?: number; from?: number; offset?: number; value?: number } = {},
): Buffer {
  const { to = 0, from = 0, offset = 0, value = 0 } = parts;
  const bytes = Buffer.alloc(8);
  bytes.writeUInt8(operation, 0);
  bytes.writeUInt8(to | (from << 4), 1);
  bytes.writeInt16LE(offset, 2);
  bytes.writeInt32LE(value, 4);
  return bytes;
}
