import { type Mapping, readMemory } from '@ferry/linux';

const SYSCALL_RETURN = Buffer.from([0x0f, 0x05, 0xc3]);
// mov $15, %rax; syscall (glibc, Go) and mov $15, %eax; syscall (musl)
const SIGRETURNS = [
  Buffer.from([0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05]),
  Buffer.from([0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05]),
];
const SEARCH_MAX = 64 << 20;

/** Addresses of a `syscall; ret` and of an rt_sigreturn trampoline in a process's own code; 0 where there is none. */
export interface Gadgets {
  readonly syscallReturn: bigint;
  readonly sigreturn: bigint;
}

interface Offsets {
  readonly syscallReturn: number;
  readonly sigreturn: number;
}

/** Finds gadgets, remembering per mapped file where they are: code does not move inside a file. */
export class GadgetFinder {
  readonly #known = new Map<string, Offsets>();
  /** By list: what stands in a stopped process does not change. */
  readonly #found = new WeakMap<readonly Mapping[], Gadgets>();

  /** @param mappings  of a process that runs, or as they are in this stop of it */
  find(hostPid: number, mappings: readonly Mapping[]): Gadgets {
    const known = this.#found.get(mappings);
    if (known !== undefined) return known;
    const gadgets = this.#find(hostPid, mappings);
    this.#found.set(mappings, gadgets);
    return gadgets;
  }

  #find(hostPid: number, mappings: readonly Mapping[]): Gadgets {
    let syscallReturn = 0n;
    let sigreturn = 0n;
    const code = mappings.filter((m) => m.execute && m.read && !m.name.startsWith('[v'));
    const rank = (m: Mapping): number => (/\/(libc|ld-|libpthread|ld\.so)/.test(m.name) ? 0 : 1);
    for (const mapping of code.sort((a, b) => rank(a) - rank(b))) {
      const offsets = this.#offsets(hostPid, mapping);
      if (syscallReturn === 0n && offsets.syscallReturn >= 0) {
        syscallReturn = mapping.start + BigInt(offsets.syscallReturn);
      }
      if (sigreturn === 0n && offsets.sigreturn >= 0) {
        sigreturn = mapping.start + BigInt(offsets.sigreturn);
      }
      if (syscallReturn !== 0n && sigreturn !== 0n) break;
    }
    return { syscallReturn, sigreturn };
  }

  #offsets(hostPid: number, mapping: Mapping): Offsets {
    const key = `${mapping.device}:${mapping.inode}:${mapping.offset}:${mapping.end - mapping.start}`;
    const known = mapping.inode === 0n ? undefined : this.#known.get(key);
    if (known !== undefined && intact(hostPid, mapping, known)) return known;
    const length = Math.min(Number(mapping.end - mapping.start), SEARCH_MAX);
    const bytes = readReadable(hostPid, mapping.start, length);
    const found = {
      syscallReturn: bytes.indexOf(SYSCALL_RETURN),
      sigreturn: Math.max(...SIGRETURNS.map((pattern) => bytes.indexOf(pattern))),
    };
    this.#known.set(key, found);
    return found;
  }
}

/** Private code pages can be changed by the program (breakpoints, self-modifying code): look before trusting. */
function intact(hostPid: number, mapping: Mapping, offsets: Offsets): boolean {
  const holds = (offset: number, patterns: Buffer[]): boolean => {
    if (offset < 0) return true;
    return patterns.some((pattern) =>
      readReadable(hostPid, mapping.start + BigInt(offset), pattern.length).equals(pattern),
    );
  };
  return holds(offsets.syscallReturn, [SYSCALL_RETURN]) && holds(offsets.sigreturn, SIGRETURNS);
}

function readReadable(hostPid: number, address: bigint, length: number): Buffer {
  try {
    return readMemory(hostPid, address, length);
  } catch {
    return Buffer.alloc(0); // past the end of its file, for one
  }
}

/** For all that this process captures. */
export const gadgetFinder = new GadgetFinder();
