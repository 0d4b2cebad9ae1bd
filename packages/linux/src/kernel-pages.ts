import { randomBytes } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { OwnedFd } from './fd.js';
import type { KernelMemory } from './kernel-memory.js';
import { addressOf, call, ERRNO, sysError } from './sys.js';

const PAGE = 4096n;
/** The kernel's window on all memory, and its table of pages, begin at multiples of this: arch/x86/mm/kaslr.c. */
const ALIGNMENT = 1n << 30n;
const PRESENT = 1n << 63n;
const FRAME = (1n << 55n) - 1n;

/** Where the kernel sees a page of memory that it knows by its `struct page`. Both tables begin at an address that is
 *  chosen anew at every boot and told nobody. They are found by a page of our own, of which the frame is known
 *  (/proc/self/pagemap), the `struct page` (it is put into a pipe) and the content, by which it is recognised. */
export class KernelPages {
  readonly #memory: KernelMemory;
  readonly #pageSize: bigint;
  readonly #table: bigint;
  readonly #window: bigint;

  /** @throws SysError EFAULT when they are not found */
  constructor(memory: KernelMemory) {
    this.#memory = memory;
    const [own, at] = ownPage();
    const frame = frameOf(at);
    this.#pageSize = BigInt(memory.types.sizeOf('page') ?? 0);
    this.#table = pageOf(memory, at) - frame * this.#pageSize;
    this.#window = this.#findWindow(own, frame * PAGE);
  }

  /** @param page    struct page of the first
   *  @param offset  bytes from its start; pages that belong together lie side by side
   *  @throws SysError EFAULT */
  read(page: bigint, offset: number, length: number): Buffer {
    const frame = (page - this.#table) / this.#pageSize;
    return this.#memory.read(this.#window + frame * PAGE + BigInt(offset), length);
  }

  /** Whatever the kernel has allocated lies in the window, so that it begins below; by at most as much as there is
   *  physical memory. */
  #findWindow(content: Buffer, physical: bigint): bigint {
    const top = (this.#memory.currentTask() / ALIGNMENT) * ALIGNMENT;
    for (let back = 0n; back < 1n << 15n; back++) {
      const window = top - back * ALIGNMENT;
      try {
        if (this.#memory.read(window + physical, content.length).equals(content)) return window;
      } catch {
        // Nothing is mapped there.
      }
    }
    throw sysError('bpf', ERRNO.EFAULT, "the kernel's window on memory");
  }
}

/** A page that nobody else has, and where it is. */
function ownPage(): [content: Buffer, address: bigint] {
  const room = randomBytes(3 * Number(PAGE));
  const skipped = (PAGE - (addressOf(room) % PAGE)) % PAGE;
  const content = room.subarray(Number(skipped), Number(skipped + PAGE));
  return [content, addressOf(content)];
}

/** @throws SysError EFAULT when the kernel does not tell (CAP_SYS_ADMIN) */
function frameOf(address: bigint): bigint {
  const entry = Buffer.alloc(8);
  const file = openSync('/proc/self/pagemap', 'r');
  try {
    readSync(file, entry, 0, 8, (address / PAGE) * 8n);
  } finally {
    closeSync(file);
  }
  const word = entry.readBigUInt64LE(0);
  const frame = word & FRAME;
  if ((word & PRESENT) === 0n || frame === 0n) throw sysError('bpf', ERRNO.EFAULT, 'pagemap');
  return frame;
}

/** The `struct page` of one of our pages: vmsplice(2) puts the very page into a pipe. */
function pageOf(memory: KernelMemory, address: bigint): bigint {
  const ends = Buffer.alloc(8);
  call('pipe2', ends, 0o2000000);
  using reader = new OwnedFd(ends.readInt32LE(0));
  using writer = new OwnedFd(ends.readInt32LE(4));
  const vector = Buffer.alloc(16);
  vector.writeBigUInt64LE(address, 0);
  vector.writeBigUInt64LE(PAGE, 8);
  call('vmsplice', writer.number, vector, 1, 0);
  const pipe = memory.long(memory.file(reader.number), 'file', 'private_data');
  const buffers = memory.long(pipe, 'pipe_inode_info', 'bufs');
  return memory.long(buffers, 'pipe_buffer', 'page');
}
