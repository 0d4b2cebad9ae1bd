import { readFileSync } from 'node:fs';

const MAGIC = 0xeb9f;
const HEADER = 24;
const KIND = { array: 3, struct: 4, union: 5, typedef: 8, restrict: 11, typeTag: 18 } as const;
/** What follows the 12 bytes of a type, by its kind: bytes once, and bytes for each of its parts. */
const SIZES: readonly (readonly [once: number, each: number])[] = [
  [0, 0],
  [4, 0],
  [0, 0],
  [12, 0],
  [0, 12],
  [0, 12],
  [0, 8],
  [0, 0],
  [0, 0],
  [0, 0],
  [0, 0],
  [0, 0],
  [0, 0],
  [0, 8],
  [4, 0],
  [0, 12],
  [0, 0],
  [4, 0],
  [0, 0],
  [0, 12],
];
const NAMELESS_BYTES = 12;

/** The layout of the kernel's structures, as it describes them itself: Documentation/bpf/btf.rst. */
export class KernelTypes {
  readonly #types: Buffer;
  readonly #strings: Buffer;
  /** Where each type stands, by its id. */
  readonly #starts: number[] = [0];
  /** Ids of structures by where their names stand; several of one name are different ones. */
  readonly #structures = new Map<number, number[]>();
  readonly #offsets = new Map<string, number | undefined>();

  private constructor(raw: Buffer) {
    const [headerLength, typeStart, typeLength, stringStart, stringLength] = [4, 8, 12, 16, 20].map(
      (at) => raw.readUInt32LE(at),
    ) as [number, number, number, number, number];
    this.#types = raw.subarray(headerLength + typeStart, headerLength + typeStart + typeLength);
    this.#strings = raw.subarray(
      headerLength + stringStart,
      headerLength + stringStart + stringLength,
    );
    for (let at = 0; at < typeLength; ) {
      const id = this.#starts.push(at) - 1;
      const info = this.#word(at + 4);
      const kind = (info >>> 24) & 0x1f;
      if (kind === KIND.struct) this.#note(id);
      const sizes = SIZES[kind];
      // A kind that is newer than this: what follows cannot be found.
      if (sizes === undefined) break;
      at += NAMELESS_BYTES + sizes[0] + sizes[1] * (info & 0xffff);
    }
  }

  static #known: KernelTypes | undefined;

  /** @returns undefined when the kernel does not describe itself (CONFIG_DEBUG_INFO_BTF) */
  static read(): KernelTypes | undefined {
    KernelTypes.#known ??= KernelTypes.#parse('/sys/kernel/btf/vmlinux');
    return KernelTypes.#known;
  }

  static #parse(path: string): KernelTypes | undefined {
    let raw: Buffer;
    try {
      raw = readFileSync(path);
    } catch {
      return undefined;
    }
    const isRight = raw.length >= HEADER && raw.readUInt16LE(0) === MAGIC;
    return isRight ? new KernelTypes(raw) : undefined;
  }

  /** Bytes from the start of a structure to one of its members, which may be that of a member: `a.b`.
   *  @returns undefined when there is no such structure or member */
  offsetOf(structure: string, member: string): number | undefined {
    const key = `${structure}.${member}`;
    if (!this.#offsets.has(key)) {
      const [found] = this.#named(structure).flatMap(
        (id) => this.#path(id, member.split('.')) ?? [],
      );
      this.#offsets.set(key, found);
    }
    return this.#offsets.get(key);
  }

  /** Bytes that a structure takes. */
  sizeOf(structure: string): number | undefined {
    const [id] = this.#named(structure);
    return id === undefined ? undefined : this.#word(this.#starts[id]! + 8);
  }

  #note(id: number): void {
    const name = this.#word(this.#starts[id]!);
    const known = this.#structures.get(name);
    if (known === undefined) this.#structures.set(name, [id]);
    else known.push(id);
  }

  #named(structure: string): readonly number[] {
    const name = this.#nameOf(structure);
    return (name === undefined ? undefined : this.#structures.get(name)) ?? [];
  }

  #path(id: number, [first, ...rest]: string[]): number | undefined {
    const name = this.#nameOf(first!);
    const found = name === undefined ? undefined : this.#member(id, name);
    if (found === undefined || rest.length === 0) return found?.offset;
    const inner = this.#path(found.type, rest);
    return inner === undefined ? undefined : found.offset + inner;
  }

  /** A member, be it of a nameless structure within. */
  #member(id: number, name: number): { offset: number; type: number } | undefined {
    const at = this.#starts[this.#plain(id)]!;
    const kind = this.#kindAt(at);
    if (kind !== KIND.struct && kind !== KIND.union) return undefined;
    const info = this.#word(at + 4);
    const hasBitFields = info >>> 31 === 1;
    for (let i = 0; i < (info & 0xffff); i++) {
      const part = at + NAMELESS_BYTES + 12 * i;
      const bits = this.#word(part + 8);
      const offset = (hasBitFields ? bits & 0xffffff : bits) >>> 3;
      const type = this.#word(part + 4);
      if (this.#word(part) === name) return { offset, type };
      const inner = this.#word(part) === 0 ? this.#member(type, name) : undefined;
      if (inner !== undefined) return { ...inner, offset: offset + inner.offset };
    }
    return undefined;
  }

  /** A type without typedef, const and the like. */
  #plain(id: number): number {
    for (;;) {
      const at = this.#starts[id]!;
      const kind = id === 0 ? 0 : this.#kindAt(at);
      const isNamed = kind >= KIND.typedef && kind <= KIND.restrict;
      if (!isNamed && kind !== KIND.typeTag) return id;
      id = this.#word(at + 8);
    }
  }

  #kindAt(at: number): number {
    return (this.#word(at + 4) >>> 24) & 0x1f;
  }

  #word(at: number): number {
    return this.#types.readUInt32LE(at);
  }

  /** A name is in the table once. */
  #nameOf(text: string): number | undefined {
    const at = this.#strings.indexOf(`\0${text}\0`, 0, 'latin1');
    return at < 0 ? undefined : at + 1;
  }
}
