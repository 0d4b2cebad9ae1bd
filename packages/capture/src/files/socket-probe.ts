import type { SocketBuffers, SocketOption } from '@ferry/image';
import {
  type BatchedCall,
  CALL_SIZE,
  call,
  ERRNO,
  resultOf,
  SO,
  SOL,
  SyscallBatch,
  SyscallsAhead,
} from '@ferry/linux';
import { type CarriedOption, carriedOptions } from './socket-options.js';

/** What one look at a socket gives. */
export interface SocketFacts {
  /** Those that differ from a fresh socket's. */
  readonly options: SocketOption[];
  readonly buffers: SocketBuffers;
  readonly reuseAddress: number;
  /** SO_NETNS_COOKIE of its network namespace, where the kernel tells (Linux 5.14). */
  readonly cookie: bigint;
  readonly device: string;
  /** struct sockaddr; `peer` is undefined when it is not connected. */
  readonly local: Buffer;
  readonly peer: Buffer | undefined;
  /** struct ucred */
  readonly peerCredentials: Buffer | undefined;
  /** Bytes to read, as SIOCINQ has it. */
  readonly readable: number;
  /** struct tcp_info, its beginning. */
  readonly tcpInfo: Buffer | undefined;
  /** TCP_ULP: `tls`, or nothing. */
  readonly upperProtocol: string;
  /** Instructions of the attached classic BPF program; undefined for an eBPF program, which cannot be read back. */
  readonly filterLength: number | undefined;
}

const SIOCINQ = 0x541b;
const ADDRESS_SIZE = 128;
const TCP_INFO = 11;
const TCP_INFO_SIZE = 104;
const TCP_ULP = 31;
/** Room for each option's value, in words of 4 bytes, and for each fact's. */
const OPTION_WORDS = 10;
const FACT_SIZE = ADDRESS_SIZE;
const NOTHING = Buffer.alloc(0);

interface Fact {
  readonly size: number;
  call(value: Buffer, length: Buffer): BatchedCall;
}

function optionFact(level: number, name: number, size: number): Fact {
  return {
    size,
    call: (value, length) => ({ name: 'getsockopt', args: [level, name, value, length] }),
  };
}

const FACTS = {
  send: optionFact(SOL.socket, SO.sendBuffer, 4),
  receive: optionFact(SOL.socket, SO.receiveBuffer, 4),
  locks: optionFact(SOL.socket, SO.bufferLock, 4),
  reuse: optionFact(SOL.socket, SO.reuseAddress, 4),
  cookie: optionFact(SOL.socket, SO.netnsCookie, 8),
  device: optionFact(SOL.socket, SO.bindToDevice, 16),
  credentials: optionFact(SOL.socket, SO.peerCredentials, 12),
  filter: optionFact(SOL.socket, SO.getFilter, 0),
  info: optionFact(SOL.tcp, TCP_INFO, TCP_INFO_SIZE),
  upper: optionFact(SOL.tcp, TCP_ULP, 16),
  local: nameFact('getsockname'),
  peer: nameFact('getpeername'),
  readable: { size: 4, call: (value) => ({ name: 'ioctl', args: [SIOCINQ, value] }) },
} satisfies Record<string, Fact>;

type FactName = keyof typeof FACTS;

const NAMES = Object.keys(FACTS) as FactName[];
const INDEX = Object.fromEntries(NAMES.map((name, i) => [name, i])) as Record<FactName, number>;

function bytesOf(words: Uint32Array): Buffer {
  return Buffer.from(words.buffer, words.byteOffset, words.byteLength);
}

function nameFact(name: 'getsockname' | 'getpeername'): Fact {
  return { size: ADDRESS_SIZE, call: (value, length) => ({ name, args: [value, length] }) };
}

interface ProbedKind {
  readonly domain: number;
  readonly type: number;
  readonly protocol: number;
}

/** By kind. */
const idleProbes = new Map<string, SocketProbe[]>();
/** For fewer it is not worth a thread. */
const AHEAD_MIN = 8;

/** Where the calls of a look stand, and side by side with them what they are given and give. */
class Room {
  readonly all: Buffer;
  readonly calls: Buffer;
  /** For each option OPTION_WORDS words; then a length for each option and fact; then the facts. */
  readonly values: Uint32Array;
  readonly lengths: Uint32Array;
  readonly facts: Buffer;
  readonly bytes: Buffer;

  constructor(options: number, all: Buffer = Buffer.alloc(Room.sizeFor(options))) {
    this.all = all;
    const calls = options + NAMES.length;
    const valuesAt = calls * CALL_SIZE;
    const lengthsAt = valuesAt + options * OPTION_WORDS * 4;
    const factsAt = lengthsAt + calls * 4;
    this.calls = all.subarray(0, valuesAt);
    this.bytes = all.subarray(valuesAt, lengthsAt);
    const start = all.byteOffset;
    this.values = new Uint32Array(all.buffer, start + valuesAt, options * OPTION_WORDS);
    this.lengths = new Uint32Array(all.buffer, start + lengthsAt, calls);
    this.facts = all.subarray(factsAt, factsAt + NAMES.length * FACT_SIZE);
  }

  /** A multiple of 8, so that one can follow another. */
  static sizeFor(options: number): number {
    const calls = options + NAMES.length;
    const bytes = calls * (CALL_SIZE + 4) + options * OPTION_WORDS * 4 + NAMES.length * FACT_SIZE;
    return Math.ceil(bytes / 8) * 8;
  }
}

/** Looks at sockets of one kind in one network namespace, with one step into native code for each. A fresh socket tells
 *  what the kind has when nobody has set anything: only what a program has set is carried, and what the host's settings
 *  decide is left to the destination's. */
export class SocketProbe {
  readonly #kind: ProbedKind;
  readonly #options: CarriedOption[];
  readonly #batch: SyscallBatch;
  readonly #room: Room;
  readonly #sizes: Uint32Array;
  readonly #freshValues: Uint32Array;
  readonly #freshLengths: Uint32Array;
  readonly #lacking: boolean[];
  /** Whose room a thread has. */
  #helper: SocketProbe | undefined;
  #ahead: { readonly looks: SyscallsAhead; readonly places: Map<number, number> } | undefined;

  /** One that is used for nothing else until `onRelease` says so: to make one takes as long as many looks.
   *  @param fd  a fresh socket of the kind, in the network namespace in question */
  static borrow(
    fd: number,
    kind: ProbedKind,
    onRelease: (giveBack: () => void) => void,
  ): SocketProbe {
    const key = `${kind.domain}/${kind.type}/${kind.protocol}`;
    const idle = idleProbes.get(key) ?? [];
    idleProbes.set(key, idle);
    const probe = idle.pop() ?? new SocketProbe(kind);
    probe.#learn(fd);
    onRelease(() => {
      probe.#endAhead();
      idle.push(probe);
    });
    return probe;
  }

  private constructor(kind: ProbedKind) {
    this.#kind = kind;
    this.#options = carriedOptions(kind);
    const { length } = this.#options;
    const facts = [
      ...this.#options.map(({ level, name, size }) => optionFact(level, name, size)),
      ...NAMES.map((name): Fact => FACTS[name]),
    ];
    this.#sizes = Uint32Array.from(facts, ({ size }) => size);
    this.#room = new Room(length);
    const { bytes, facts: room, lengths, calls } = this.#room;
    const lengthBytes = bytesOf(lengths);
    this.#batch = new SyscallBatch(
      facts.map((fact, i) => {
        const fromFacts = (i - length) * FACT_SIZE;
        const at = i < length ? bytes.subarray(i * OPTION_WORDS * 4) : room.subarray(fromFacts);
        return fact.call(at, lengthBytes.subarray(i * 4));
      }),
      calls,
    );
    this.#freshValues = new Uint32Array(length * OPTION_WORDS);
    this.#freshLengths = new Uint32Array(length);
    this.#lacking = this.#options.map(() => true);
  }

  /** What a fresh socket has. */
  #learn(fd: number): void {
    const { values, lengths } = this.#room;
    const { length } = this.#options;
    values.fill(0);
    lengths.set(this.#sizes);
    this.#batch.run(fd);
    this.#freshValues.set(values);
    this.#freshLengths.set(lengths.subarray(0, length));
    for (let i = 0; i < length; i++) this.#lacking[i] = this.#batch.result(i) < 0;
  }

  /** Has a thread look at sockets that will be read, in that order, while something else is done. */
  readAhead(fds: readonly number[]): void {
    if (fds.length < AHEAD_MIN || this.#ahead !== undefined) return;
    this.#helper ??= new SocketProbe(this.#kind);
    this.#makeReady(this.#helper.#room);
    const { all } = this.#helper.#room;
    const looks = new SyscallsAhead(all, this.#sizes.length, fds);
    this.#ahead = { looks, places: new Map(fds.map((fd, i) => [fd, i])) };
  }

  #endAhead(): void {
    this.#ahead?.looks[Symbol.dispose]();
    this.#ahead = undefined;
  }

  #makeReady({ values, lengths, facts }: Room): void {
    values.set(this.#freshValues);
    lengths.set(this.#sizes);
    facts.fill(0);
  }

  #look(fd: number): Room {
    const place = this.#ahead?.places.get(fd);
    if (place !== undefined) {
      this.#ahead!.places.delete(fd);
      return new Room(this.#options.length, this.#ahead!.looks.take(place));
    }
    this.#makeReady(this.#room);
    this.#batch.run(fd);
    return this.#room;
  }

  /** Buffers of the result are good until the next look. */
  read(fd: number): SocketFacts {
    return new Look(this.#look(fd), this.#options, {
      values: this.#freshValues,
      lengths: this.#freshLengths,
      lacking: this.#lacking,
    }).facts();
  }
}

interface Fresh {
  readonly values: Uint32Array;
  readonly lengths: Uint32Array;
  readonly lacking: readonly boolean[];
}

/** What one look has found. */
class Look {
  readonly #room: Room;
  readonly #options: readonly CarriedOption[];
  readonly #fresh: Fresh;

  constructor(room: Room, options: readonly CarriedOption[], fresh: Fresh) {
    this.#room = room;
    this.#options = options;
    this.#fresh = fresh;
  }

  facts(): SocketFacts {
    const { facts } = this.#room;
    const int = (name: FactName) => facts.readInt32LE(this.#at(name));
    const filter = this.#result('filter');
    return {
      options: this.#differing(),
      buffers: { send: int('send'), receive: int('receive'), locks: int('locks') },
      reuseAddress: int('reuse'),
      cookie: facts.readBigUInt64LE(this.#at('cookie')),
      device: this.#text('device'),
      local: this.#value('local') ?? NOTHING,
      peer: this.#value('peer'),
      peerCredentials: this.#value('credentials'),
      readable: int('readable'),
      tcpInfo: this.#value('info'),
      upperProtocol: this.#text('upper'),
      filterLength: filter === -ERRNO.EACCES ? undefined : filter < 0 ? 0 : this.#length('filter'),
    };
  }

  #differing(): SocketOption[] {
    const found: SocketOption[] = [];
    const { calls, bytes, lengths } = this.#room;
    const { length } = this.#options;
    for (let i = 0; i < length; i++) {
      if (this.#isDefault(i) || this.#fresh.lacking[i] || resultOf(calls, i) < 0) continue;
      const { level, name } = this.#options[i]!;
      const at = i * OPTION_WORDS * 4;
      const value = Buffer.from(bytes.subarray(at, at + lengths[i]!));
      found.push({ level, name, value });
    }
    return found;
  }

  #isDefault(i: number): boolean {
    const { values, lengths } = this.#room;
    if (lengths[i] !== this.#fresh.lengths[i]) return false;
    for (let at = i * OPTION_WORDS; at < (i + 1) * OPTION_WORDS; at++) {
      if (values[at] !== this.#fresh.values[at]) return false;
    }
    return true;
  }

  #at(name: FactName): number {
    return INDEX[name] * FACT_SIZE;
  }

  #result(name: FactName): number {
    return resultOf(this.#room.calls, this.#options.length + INDEX[name]);
  }

  #length(name: FactName): number {
    return this.#room.lengths[this.#options.length + INDEX[name]]!;
  }

  #value(name: FactName): Buffer | undefined {
    if (this.#result(name) < 0) return undefined;
    const at = this.#at(name);
    return this.#room.facts.subarray(at, at + Math.min(this.#length(name), FACTS[name].size));
  }

  #text(name: FactName): string {
    if (this.#result(name) < 0 || this.#length(name) === 0) return '';
    return this.#value(name)!.toString('latin1').replace(/\0.*$/s, '');
  }
}

/** The classic BPF program attached with SO_ATTACH_FILTER. Lengths are counted in instructions of eight bytes:
 *  socket(7). */
export function readPacketFilter(fd: number, facts: SocketFacts): Buffer {
  const { filterLength = 0 } = facts;
  if (filterLength === 0) return NOTHING;
  const program = Buffer.alloc(filterLength * 8);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(program.length / 8, 0);
  call('getsockopt', fd, SOL.socket, SO.getFilter, program, length);
  return program;
}
