import { cString, OwnedFd } from './fd.js';
import { addressOf, call, sys, sysError } from './sys.js';

// PAGEMAP_SCAN, include/uapi/linux/fs.h (Linux 6.7)
export const PAGEMAP_SCAN = 0xc0606610;
const PAGE_IS = {
  /** Its mapping is registered with a userfaultfd that notes writes. */
  tracked: 1n,
  /** Written since it was last noted, or never noted. */
  written: 2n,
  file: 4n,
  present: 8n,
  swapped: 16n,
  pfnZero: 32n,
  /** Installed by madvise(2) MADV_GUARD_INSTALL: looks swapped out, and holds nothing (Linux 6.17). */
  guard: 256n,
} as const;
const WP_MATCHING = 1n;
const ARGUMENT_SIZE = 96;
const REGION_WORDS = 3;
const REGIONS_MAX = 8192;

export interface AddressRange {
  readonly start: bigint;
  readonly end: bigint;
}

/** Pages with content of their own; `written`: since they were last taken, or never taken. */
export interface OwnPages extends AddressRange {
  readonly written: boolean;
}

/** Pages that match: bits of `mask` must all be set, and one of `anyOf`, after those of `inverted` were turned over. */
interface Want {
  readonly inverted: bigint;
  readonly mask: bigint;
  readonly anyOf: bigint;
  readonly returned?: bigint;
  /** Notes them as not written, in the same step. */
  readonly rearm?: boolean;
}

/** PAGE_IS.guard where the kernel knows it; else 0. */
const GUARD = knowsGuards() ? PAGE_IS.guard : 0n;

const OWN = {
  inverted: PAGE_IS.file | PAGE_IS.pfnZero | GUARD,
  mask: PAGE_IS.file | PAGE_IS.pfnZero | GUARD,
  anyOf: PAGE_IS.present | PAGE_IS.swapped,
};

// Room for a question and its answer, reused: calls are synchronous, and what is returned is a copy.
const ARGUMENT = Buffer.alloc(ARGUMENT_SIZE);
const VECTOR = Buffer.alloc(REGIONS_MAX * REGION_WORDS * 8);
const WORDS = new BigUint64Array(VECTOR.buffer, VECTOR.byteOffset, REGIONS_MAX * REGION_WORDS);

function knowsGuards(): boolean {
  const fd = sys('open', cString('/proc/self/pagemap'), 0o2000000, 0);
  if (fd < 0) return false;
  using own = new OwnedFd(fd);
  const argument = Buffer.alloc(ARGUMENT_SIZE);
  argument.writeBigUInt64LE(BigInt(ARGUMENT_SIZE), 0);
  argument.writeBigUInt64LE(4096n, 24);
  argument.writeBigUInt64LE(PAGE_IS.guard, 72);
  argument.writeBigUInt64LE(PAGE_IS.guard, 88);
  return sys('ioctl', own.number, PAGEMAP_SCAN, argument) >= 0;
}

/** /proc/PID/pagemap of one process; of the address space that it had when this was opened. */
export class Pagemap implements Disposable {
  readonly #fd: OwnedFd;
  readonly #pid: number;

  constructor(pid: number) {
    this.#pid = pid;
    this.#fd = new OwnedFd(call('open', cString(`/proc/${pid}/pagemap`), 0o2000000, 0));
  }

  /** Pages of [start, end) that hold content of their own: anonymous pages (also in private file mappings), present or
   *  swapped out, the shared zero page excepted. Ascending, adjacent ranges joined. */
  privatePages(start: bigint, end: bigint): AddressRange[] {
    return this.#ranges(start, end, OWN);
  }

  /** Guard pages (madvise(2) MADV_GUARD_INSTALL) of [start, end). */
  guardPages(start: bigint, end: bigint): AddressRange[] {
    if (GUARD === 0n) return [];
    return this.#ranges(start, end, { inverted: 0n, mask: GUARD, anyOf: 0n, returned: GUARD });
  }

  /** As privatePages, and writes to them are noted from here on. */
  takePrivatePages(start: bigint, end: bigint): AddressRange[] {
    const mask = OWN.mask | PAGE_IS.tracked;
    return this.#ranges(start, end, { ...OWN, mask, rearm: true });
  }

  /** Of those, what was written since it was last taken.
   *  @param options  `rearm`: writes are noted anew; `anonymous`: there are no pages of files in the range (looking at
   *    each page's kind costs more than all the rest) */
  writtenPages(
    { start, end }: AddressRange,
    options: { readonly rearm: boolean; readonly anonymous: boolean },
  ): AddressRange[] {
    const inverted = options.anonymous ? PAGE_IS.pfnZero | GUARD : OWN.inverted;
    const mask = inverted | PAGE_IS.tracked | PAGE_IS.written;
    return this.#ranges(start, end, { inverted, mask, anyOf: OWN.anyOf, rearm: options.rearm });
  }

  /** Pages of a shared mapping, tracked, whose object may have been written through it since it was taken; those never
   *  taken among them. The kernel takes entries out of a page table when it likes; where it does it leaves a mark that the
   *  page was not written, if it was not (mm/memory.c: zap_install_uffd_wp_if_needed). So a page without entry and mark
   *  counts as written. Pages that a process has never touched get such marks, too: 8 bytes each.
   *  @param options  `rearm`: writes are noted anew */
  sharedWrites(
    { start, end }: AddressRange,
    { rearm }: { readonly rearm: boolean },
  ): AddressRange[] {
    const { tracked, present, written, swapped } = PAGE_IS;
    const ranges: AddressRange[] = [];
    const returned = written | present | swapped;
    const want = { inverted: present, mask: tracked, anyOf: written | present, returned, rearm };
    this.#scan(start, end, want, (from, to, found) => {
      const isMark = (found & (written | present)) === 0n && (found & swapped) !== 0n;
      if (!isMark) push(ranges, from, to);
    });
    return ranges;
  }

  /** Parts of [start, end) where writes are not noted. */
  untracked(start: bigint, end: bigint): AddressRange[] {
    const mask = PAGE_IS.tracked;
    return this.#ranges(start, end, { inverted: mask, mask, anyOf: 0n, returned: PAGE_IS.tracked });
  }

  /** One look at anonymous memory of a stopped process: pages written since they were last taken, those that hold no
   *  content of their own (any more), whether they ever did or not, and guard pages, which are among the latter.
   *  (To look first for what is not noted as unwritten, for which the kernel has a faster way, would miss memory that was
   *  given back together with its page table.) */
  changes({ start, end }: AddressRange): {
    written: AddressRange[];
    empty: AddressRange[];
    guards: AddressRange[];
  } {
    const { present, written: isWritten, swapped, pfnZero } = PAGE_IS;
    const written: AddressRange[] = [];
    const empty: AddressRange[] = [];
    const guards: AddressRange[] = [];
    const want = {
      inverted: present,
      mask: 0n,
      anyOf: isWritten | present,
      returned: isWritten | present | swapped | pfnZero | GUARD,
    };
    this.#scan(start, end, want, (from, to, found) => {
      const content = (found & (present | swapped)) !== 0n && (found & (pfnZero | GUARD)) === 0n;
      if ((found & GUARD) !== 0n) push(guards, from, to);
      if (!content) push(empty, from, to);
      else if ((found & isWritten) !== 0n) push(written, from, to);
    });
    return { written, empty, guards };
  }

  /** One look at private memory of any kind of a stopped process: pages with content of their own, and guard pages. */
  contents(start: bigint, end: bigint): { own: OwnPages[]; guards: AddressRange[] } {
    const own: { start: bigint; end: bigint; written: boolean }[] = [];
    const guards: AddressRange[] = [];
    const mask = PAGE_IS.file | PAGE_IS.pfnZero;
    const returned = PAGE_IS.written | GUARD;
    this.#scan(start, end, { ...OWN, inverted: mask, mask, returned }, (from, to, found) => {
      if ((found & GUARD) !== 0n) {
        push(guards, from, to);
        return;
      }
      own.push({ start: from, end: to, written: (found & PAGE_IS.written) !== 0n });
    });
    return { own, guards };
  }

  #ranges(start: bigint, end: bigint, want: Want): AddressRange[] {
    const ranges: AddressRange[] = [];
    this.#scan(start, end, want, (from, to) => push(ranges, from, to));
    return ranges;
  }

  #scan(
    start: bigint,
    end: bigint,
    want: Want,
    visit: (start: bigint, end: bigint, categories: bigint) => void,
  ): void {
    const argument = ARGUMENT;
    for (let at = start; at < end; ) {
      argument.fill(0);
      argument.writeBigUInt64LE(BigInt(ARGUMENT_SIZE), 0);
      argument.writeBigUInt64LE(want.rearm === true ? WP_MATCHING : 0n, 8);
      argument.writeBigUInt64LE(at, 16);
      argument.writeBigUInt64LE(end, 24);
      argument.writeBigUInt64LE(addressOf(VECTOR), 40);
      argument.writeBigUInt64LE(BigInt(REGIONS_MAX), 48);
      argument.writeBigUInt64LE(want.inverted, 64);
      argument.writeBigUInt64LE(want.mask, 72);
      argument.writeBigUInt64LE(want.anyOf, 80);
      argument.writeBigUInt64LE(want.returned ?? PAGE_IS.present, 88);
      const n = sys('ioctl', this.#fd.number, PAGEMAP_SCAN, argument);
      if (n < 0) throw sysError('ioctl PAGEMAP_SCAN', -n, `process ${this.#pid}`);
      at = argument.readBigUInt64LE(32);
      for (let i = 0; i < n * REGION_WORDS; i += REGION_WORDS) {
        visit(WORDS[i]!, WORDS[i + 1]!, WORDS[i + 2]!);
      }
    }
  }

  [Symbol.dispose](): void {
    this.#fd[Symbol.dispose]();
  }
}

function push(ranges: { start: bigint; end: bigint }[], start: bigint, end: bigint): void {
  const last = ranges.at(-1);
  if (last !== undefined && last.end === start) last.end = end;
  else ranges.push({ start, end });
}
