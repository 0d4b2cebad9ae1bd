import type { Process, Vma } from '@ferry/image';
import type { DataRef, ProgramBuilder } from './program.js';

const MREMAP_MAYMOVE_FIXED = 3;
// fs/aio.c: struct aio_ring { id, nr, head, tail, magic, compat, incompat, header_length; struct io_event events[] }
const HEADER_LENGTH = 32n;
const EVENT_LENGTH = 32n;
const HEAD = 8n;
const PAGE = 4096n;
const IOCB_LENGTH = 64;

/** Contexts of kernel AIO: io_setup(2) makes a ring of the same length, which is moved to where it was: its address is
 *  the context's number. The kernel's own count of events must agree with the ring's, so that many reads of nothing are
 *  done; what the ring holds comes with the page contents. Runs before anything else is mapped. */
export function emitAioRings(b: ProgramBuilder, process: Process): void {
  const rings = process.aioRings;
  if (rings.length === 0) return;
  const file = b.slotFor('nothing to read');
  b.sys('open', [b.cstr('/dev/null'), 0, 0], 'AIO: open what gives nothing', { into: file });
  const request = emitRequest(b, file);
  const fillers: DataRef[] = [];
  let next = 0;
  for (const ring of [...rings].sort((a, z) => a.index - z.index)) {
    for (; next < ring.index; next++) fillers.push(emitFiller(b));
    next = ring.index + 1;
    const vma = process.mm!.vmas.find(({ start }) => start === ring.address)!;
    emitRing(b, vma, ring.tail, request);
  }
  for (const filler of fillers) {
    const slot = b.slotFor('AIO context');
    b.load(filler, 8, slot, 'AIO: placeholder');
    b.sys('io_destroy', [slot], 'AIO: drop a placeholder');
  }
  b.sys('close', [file], 'AIO: close');
}

function emitFiller(b: ProgramBuilder): DataRef {
  const context = b.reserve(8);
  b.sys('io_setup', [1, context], 'AIO: placeholder');
  return context;
}

/** A read of nothing (struct iocb, IOCB_CMD_PREAD), and the address of a list that holds it many times. */
function emitRequest(b: ProgramBuilder, file: ReturnType<ProgramBuilder['slotFor']>): DataRef {
  const request = b.reserve(IOCB_LENGTH);
  b.store(file, request.plus(20), 4, 'AIO: request');
  const list = b.reserve(8);
  b.storeAddress(request, list, 'AIO: request');
  return list;
}

function emitRing(b: ProgramBuilder, vma: Vma, tail: number, list: DataRef): void {
  const length = vma.end - vma.start;
  const step = `AIO context ${vma.start.toString(16)}`;
  const context = b.reserve(8);
  const slot = b.slotFor('AIO context');
  b.sys('io_setup', [eventsFor(length), context], `${step}: create`);
  b.load(context, 8, slot, step);
  b.sys('mremap', [slot, length, length, MREMAP_MAYMOVE_FIXED, vma.start], `${step}: move`);
  for (let done = 0; done < tail; done++) {
    b.sys('io_submit', [vma.start, 1, list], `${step}: count an event`, { expect: { value: 1 } });
    b.op('store', [vma.start + HEAD, done + 1, 4], `${step}: take it`);
  }
}

/** What io_setup(2) is asked for so that the ring takes `length` bytes (fs/aio.c: aio_setup_ring doubles the number
 *  and adds two). */
function eventsFor(length: bigint): bigint {
  const room = (length / PAGE) * PAGE - HEADER_LENGTH;
  const events = room / EVENT_LENGTH;
  return (events - 2n) / 2n > 1n ? (events - 2n) / 2n : 1n;
}
