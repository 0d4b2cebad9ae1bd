import { FerryError, InvariantError, invariant } from '@ferry/core';
import { LIMITS } from '@ferry/image';
import { SYSCALL, type SyscallName } from '@ferry/linux';
import { EXPECT, KIND, OP_SIZE, type OpKind, SLOT_COUNT } from './layout.js';

/** A result slot: the value that a step produced, known only when the program runs. */
export class Slot {
  readonly index: number;
  constructor(index: number) {
    this.index = index;
  }
}

/** A place in the program's data area; becomes an address when the program is linked. */
export class DataRef {
  readonly offset: number;
  constructor(offset: number) {
    this.offset = offset;
  }

  /** The place `bytes` further on. */
  plus(bytes: number): DataRef {
    return new DataRef(this.offset + bytes);
  }
}

/** A place in the zeroed memory behind the data area, which takes no room in the file. */
export class ZeroRef {
  readonly offset: number;
  constructor(offset: number) {
    this.offset = offset;
  }

  /** The place `bytes` further on. */
  plus(bytes: number): ZeroRef {
    return new ZeroRef(this.offset + bytes);
  }
}

/** A place in the page contents of the process's own dump file; becomes a file offset when the program is linked. */
export class PageRef {
  readonly offset: number;
  constructor(offset: number) {
    this.offset = offset;
  }
}

/** The address and the length of the region that the program runs in; known when it is linked. */
export const REGION_START = Symbol('region start');
export const REGION_LENGTH = Symbol('region length');

/** A position in the program, for forks, threads and jumps. */
export class Label {
  index = -1;
}

/** What an operation takes: a value, a slot's value, or an address in the data area. */
export type Argument =
  | number
  | bigint
  | Slot
  | DataRef
  | ZeroRef
  | PageRef
  | typeof REGION_START
  | typeof REGION_LENGTH;

/** Which results count as success; the default is any that is not an error. */
export type Expectation = 'any' | { readonly value: Argument } | { readonly orErrno: number };

export interface StepOptions {
  readonly expect?: Expectation;
  readonly into?: Slot;
}

/** Where things stand at run time. */
export interface LinkAddresses {
  readonly dataAddress: bigint;
  readonly region: bigint;
  readonly regionLength: number;
  /** Where page contents start in the dump file. */
  readonly pagesOffset: number;
}

const FIRST_ROOM = 4096;

interface Operation {
  readonly kind: OpKind;
  readonly nr: number;
  readonly step: string;
  readonly args: readonly Argument[];
  readonly expect: Expectation | undefined;
  readonly into: Slot | undefined;
  readonly target: Label | undefined;
  readonly value: Argument | undefined;
}

/** Builds the program of one process: a linear list of operations and a data area. Pure: no I/O, no privilege. */
export class ProgramBuilder {
  readonly #operations: Operation[] = [];
  readonly #names = new StepNames();
  readonly #purposes = new Map<string, Slot>();
  /** The data area, but for the steps' names, which follow it. */
  #room = Buffer.alloc(FIRST_ROOM);
  #length = 0;
  #slots = 0;
  #zeroLength = 0;

  /** A fresh slot. */
  slot(): Slot {
    invariant(this.#slots < SLOT_COUNT, `More than ${SLOT_COUNT} slots`);
    return new Slot(this.#slots++);
  }

  /** The slot kept for a purpose: the same one each time, for values that are used up at once. */
  slotFor(purpose: string): Slot {
    let slot = this.#purposes.get(purpose);
    if (slot === undefined) {
      slot = this.slot();
      this.#purposes.set(purpose, slot);
    }
    return slot;
  }

  /** Puts bytes into the data area. */
  bytes(content: Uint8Array, align = 8): DataRef {
    const at = this.reserve(content.length, align);
    this.#room.set(content, at.offset);
    return at;
  }

  /** Zeroed room in the data area.
   *  @throws FerryError image.invalid when the data area would grow beyond its limit */
  reserve(length: number, align = 8): DataRef {
    const at = Math.ceil(this.#length / align) * align;
    const end = at + length;
    if (end > LIMITS.programBytes) {
      throw new FerryError('image.invalid', `A program of ${length} bytes of data is asked for`);
    }
    if (end > this.#room.length) {
      const larger = Buffer.alloc(Math.max(end, this.#room.length * 2));
      this.#room.copy(larger, 0, 0, this.#length);
      this.#room = larger;
    }
    this.#length = end;
    return new DataRef(at);
  }

  /** Memory that is not in the file: stacks, scratch. Zeroed only in the first program that runs there. */
  zeroed(length: number, align = 16): ZeroRef {
    const at = Math.ceil(this.#zeroLength / align) * align;
    this.#zeroLength = at + length;
    return new ZeroRef(at);
  }

  /** A NUL-terminated string in the data area. */
  cstr(text: string | Buffer): DataRef {
    const bytes = typeof text === 'string' ? Buffer.from(text) : text;
    const at = this.reserve(bytes.length + 1, 1);
    this.#room.set(bytes, at.offset);
    return at;
  }

  /** 64-bit words, little endian; each within -2^63 .. 2^64. */
  words(...values: (number | bigint)[]): DataRef {
    const at = this.reserve(values.length * 8, 8);
    for (const [i, value] of values.entries()) {
      this.#room.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)), at.offset + i * 8);
    }
    return at;
  }

  /** A system call. `step` names it for people: it is what a failed restore says. */
  sys(name: SyscallName, args: readonly Argument[], step: string, options: StepOptions = {}): void {
    this.#push('syscall', args, step, options, SYSCALL[name]);
  }

  /** An operation of the restorer itself (plan.h). */
  op(
    kind: Exclude<OpKind, 'syscall'>,
    args: readonly Argument[],
    step: string,
    options: StepOptions & { target?: Label; value?: Argument } = {},
  ): void {
    this.#push(kind, args, step, options, 0, options.target, options.value);
  }

  /** Writes a slot's value, 4 or 8 bytes wide, into the data area. */
  store(slot: Slot, at: DataRef | ZeroRef, width: 4 | 8, step: string): void {
    this.op('store', [at, slot, width], step);
  }

  /** Writes the address of a place in the data area into the data area. */
  storeAddress(of: DataRef | ZeroRef, at: DataRef | ZeroRef, step: string): void {
    this.op('store', [at, of, 8], step);
  }

  /** Takes 4 or 8 bytes of the data area into a slot. */
  load(at: DataRef, width: 4 | 8, into: Slot, step: string): void {
    this.op('load', [at, width], step, { into });
  }

  /** Moves the descriptor in `slot` to number `to`, closing the old number. */
  moveFd(slot: Slot, to: number, step: string): void {
    this.sys('dup3', [slot, to, 0], `${step}: move descriptor to ${to}`);
    this.sys('close', [slot], `${step}: close temporary descriptor`);
  }

  label(): Label {
    return new Label();
  }

  /** Makes `label` name the next operation. */
  place(label: Label): void {
    label.index = this.#operations.length;
  }

  get operationCount(): number {
    return this.#operations.length;
  }

  /** Lengths in bytes of what `link` makes. */
  get sizes(): { ops: number; data: number; zeroed: number } {
    const data = Math.ceil((this.#length + this.#names.bytes.length) / 64) * 64;
    return { ops: this.#operations.length * OP_SIZE, data, zeroed: this.#zeroLength };
  }

  /** Where a reference stands when the data area stands at `dataAddress`. */
  resolve(reference: DataRef | ZeroRef, dataAddress: bigint): bigint {
    const base = reference instanceof ZeroRef ? this.sizes.data : 0;
    return dataAddress + BigInt(base + reference.offset);
  }

  /** The operations and the data area, all addresses settled. */
  link(addresses: LinkAddresses): { ops: Buffer; data: Buffer } {
    const data = Buffer.alloc(this.sizes.data);
    this.#room.copy(data, 0, 0, this.#length);
    this.#names.bytes.copy(data, this.#length);
    const words = new OperationWords(this.#operations.length);
    const place: Placement = {
      data: Number(addresses.dataAddress),
      zeroed: Number(addresses.dataAddress) + data.length,
      pages: addresses.pagesOffset,
      region: addresses.region,
      regionLength: addresses.regionLength,
    };
    const names = this.#names.offsets;
    this.#operations.forEach((operation, i) => {
      words.write(i, operation, this.#length + names[i]!, place);
    });
    return { ops: words.bytes, data };
  }

  /** The program in readable form, one line an operation; what tests compare. */
  describe(): string[] {
    const text = (a: Argument): string => {
      if (a instanceof Slot) return `$${a.index}`;
      if (a instanceof DataRef) return `&${a.offset}`;
      if (a instanceof ZeroRef) return `&zero+${a.offset}`;
      if (a instanceof PageRef) return `pages+${a.offset}`;
      if (typeof a === 'symbol') return a.description ?? '?';
      return typeof a === 'bigint' ? `0x${BigInt.asUintN(64, a).toString(16)}` : String(a);
    };
    const names = Object.entries(SYSCALL);
    return this.#operations.map((o) => {
      const name =
        o.kind === 'syscall' ? (names.find(([, nr]) => nr === o.nr)?.[0] ?? o.nr) : o.kind;
      const into = o.into === undefined ? '' : ` -> $${o.into.index}`;
      return `${name}(${o.args.map(text).join(', ')})${into}  # ${o.step}`;
    });
  }

  #push(
    kind: OpKind,
    args: readonly Argument[],
    step: string,
    options: StepOptions,
    nr: number,
    target?: Label,
    value?: Argument,
  ): void {
    invariant(args.length <= 6, `${step}: more than six arguments`);
    this.#names.add(step);
    const { expect, into } = options;
    this.#operations.push({ kind, nr, step, args, expect, into, target, value });
  }
}

/** The names of steps, NUL-terminated one after the other, laid out all at once: there are thousands, and to look for
 *  those that are the same takes longer than they do. */
class StepNames {
  /** Each with its end. Put together in one go: there are thousands, and most of them are made of parts. */
  #text = '';
  readonly #lengths: number[] = [];
  #bytes = Buffer.alloc(0);
  #offsets: Uint32Array = new Uint32Array(0);

  add(step: string): void {
    this.#text += step;
    this.#text += '\0';
    this.#lengths.push(step.length + 1);
  }

  get bytes(): Buffer {
    this.#layOut();
    return this.#bytes;
  }

  /** Where in `bytes` the name of each step stands. */
  get offsets(): Uint32Array {
    this.#layOut();
    return this.#offsets;
  }

  #layOut(): void {
    const lengths = this.#lengths;
    if (this.#offsets.length === lengths.length) return;
    const text = this.#text;
    this.#bytes = Buffer.from(text);
    this.#offsets = new Uint32Array(lengths.length);
    const isAscii = this.#bytes.length === text.length;
    let [at, from] = [0, 0];
    for (let i = 0; i < lengths.length; i++) {
      this.#offsets[i] = at;
      const to = from + lengths[i]!;
      at += isAscii ? lengths[i]! : Buffer.byteLength(text.slice(from, to));
      from = to;
    }
  }
}

/** Where references of a linked program stand. User addresses are below 2^53, so that numbers hold them. */
interface Placement {
  readonly data: number;
  readonly zeroed: number;
  readonly pages: number;
  readonly region: bigint;
  readonly regionLength: number;
}

/** Operations in the form that the restorer takes (struct op of plan.h), written word by word: there are thousands, and a
 *  cutover waits for them. */
class OperationWords {
  readonly #half: Uint32Array;
  readonly #whole: BigUint64Array;
  readonly bytes: Buffer;

  constructor(count: number) {
    const room = new ArrayBuffer(count * OP_SIZE);
    this.#half = new Uint32Array(room);
    this.#whole = new BigUint64Array(room);
    this.bytes = Buffer.from(room);
  }

  write(i: number, operation: Operation, name: number, place: Placement): void {
    const { kind, nr, args, into, target, step } = operation;
    const expect = expectationOf(operation.expect);
    const at = (i * OP_SIZE) / 8;
    let slots = 0;
    for (let n = 0; n < args.length; n++) {
      if (this.#word(at + 2 + n, args[n] as Argument, place)) slots |= 1 << n;
    }
    if (this.#word(at + 8, expectedValue(operation), place)) slots |= 1 << 6;
    const half = this.#half;
    half[at * 2] = KIND[kind] | (expect << 8) | (nr << 16);
    half[at * 2 + 1] = (into === undefined ? 0 : into.index + 1) | (slots << 16);
    half[at * 2 + 2] = name;
    if (target === undefined) return;
    if (target.index < 0) throw new FerryError('dumpbin.label', `${step}: label was never placed`);
    half[at * 2 + 3] = target.index;
  }

  /** @returns whether the word is the number of a slot */
  #word(at: number, argument: Argument, place: Placement): boolean {
    if (typeof argument === 'number') this.#number(at, argument);
    else if (typeof argument === 'bigint') this.#whole[at] = argument;
    else if (argument instanceof Slot) {
      this.#half[at * 2] = argument.index;
      return true;
    } else if (argument instanceof DataRef) this.#number(at, place.data + argument.offset);
    else if (argument instanceof ZeroRef) this.#number(at, place.zeroed + argument.offset);
    else if (argument instanceof PageRef) this.#number(at, place.pages + argument.offset);
    else if (argument === REGION_START) this.#whole[at] = place.region;
    else this.#number(at, place.regionLength);
    return false;
  }

  /** A whole number of -2^53 .. 2^53, in two's complement. */
  #number(at: number, value: number): void {
    if (value >= 0 && value <= 0x7fff_ffff && Number.isInteger(value)) {
      this.#half[at * 2] = value; // the other half is zero
      return;
    }
    if (!Number.isSafeInteger(value)) throw new InvariantError(`${value} is no whole number`);
    this.#half[at * 2] = value;
    this.#half[at * 2 + 1] = Math.floor(value / 0x1_0000_0000);
  }
}

function expectationOf(expect: Expectation | undefined): number {
  if (expect === undefined) return EXPECT.success;
  if (expect === 'any') return EXPECT.any;
  return 'value' in expect ? EXPECT.value : EXPECT.orErrno;
}

function expectedValue({ expect, value = 0 }: Operation): Argument {
  if (expect === undefined || expect === 'any') return value;
  return 'value' in expect ? expect.value : expect.orErrno;
}
