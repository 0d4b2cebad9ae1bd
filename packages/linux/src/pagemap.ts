import { cString, OwnedFd } from './fd.js';
import { addressOf, call, sys, sysError } from './sys.js';

// PAGEMAP_SCAN, include/uapi/linux/fs.h (Linux 6.7)
const PAGEMAP_SCAN = 0xc0606610;
const PAGE_IS = { file: 4n, present: 8n, swapped: 16n, pfnZero: 32n } as const;
const ARGUMENT_SIZE = 96;
const REGION_SIZE = 24;
const REGIONS_MAX = 4096;

export interface AddressRange {
  readonly start: bigint;
  readonly end: bigint;
}

/** /proc/PID/pagemap of one process. */
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
    return this.#scan(start, end, {
      inverted: PAGE_IS.file | PAGE_IS.pfnZero,
      mask: PAGE_IS.file | PAGE_IS.pfnZero,
      anyOf: PAGE_IS.present | PAGE_IS.swapped,
    });
  }

  #scan(
    start: bigint,
    end: bigint,
    want: { inverted: bigint; mask: bigint; anyOf: bigint },
  ): AddressRange[] {
    const ranges: { start: bigint; end: bigint }[] = [];
    const vector = Buffer.alloc(REGIONS_MAX * REGION_SIZE);
    const argument = Buffer.alloc(ARGUMENT_SIZE);
    for (let at = start; at < end; ) {
      argument.fill(0);
      argument.writeBigUInt64LE(BigInt(ARGUMENT_SIZE), 0);
      argument.writeBigUInt64LE(at, 16);
      argument.writeBigUInt64LE(end, 24);
      argument.writeBigUInt64LE(addressOf(vector), 40);
      argument.writeBigUInt64LE(BigInt(REGIONS_MAX), 48);
      argument.writeBigUInt64LE(want.inverted, 64);
      argument.writeBigUInt64LE(want.mask, 72);
      argument.writeBigUInt64LE(want.anyOf, 80);
      argument.writeBigUInt64LE(PAGE_IS.present, 88);
      const n = sys('ioctl', this.#fd.number, PAGEMAP_SCAN, argument);
      if (n < 0) throw sysError('ioctl PAGEMAP_SCAN', -n, `process ${this.#pid}`);
      for (let i = 0; i < n; i++) {
        const from = vector.readBigUInt64LE(i * REGION_SIZE);
        const to = vector.readBigUInt64LE(i * REGION_SIZE + 8);
        const last = ranges.at(-1);
        if (last !== undefined && last.end === from) last.end = to;
        else ranges.push({ start: from, end: to });
      }
      at = argument.readBigUInt64LE(32);
    }
    return ranges;
  }

  [Symbol.dispose](): void {
    this.#fd[Symbol.dispose]();
  }
}
