import type { AioRing, Process, Vma } from '@ferry/image';
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
  emitAioChange(b, process, undefined);
}

/** Turns the contexts of a skeleton into those of a later image. One that is still there has had events meanwhile, which
 *  are counted on to where its ring stands.
 *  @param before  the process as its skeleton was made; undefined: it has none */
export function emitAioChange(
  b: ProgramBuilder,
  process: Process,
  before: Process | undefined,
): void {
  const { kept, fresh, gone } = compare(process, before);
  for (const { address } of gone) {
    b.sys('io_destroy', [address], `AIO context ${address.toString(16)} is gone`);
  }
  const moved = kept.filter(({ ring, earlier }) => ring.tail !== earlier.tail);
  if (fresh.length === 0 && moved.length === 0) return;
  const file = b.slotFor('nothing to read');
  b.sys('open', [b.cstr('/dev/null'), 0, 0], 'AIO: open what gives nothing', { into: file });
  const request = emitRequest(b, file);
  for (const { ring, earlier, vma } of moved) {
    emitCount(b, vma, { from: earlier.tail, to: ring.tail }, request);
  }
  // The kernel gives out the lowest free number.
  const taken = new Set(kept.map(({ ring }) => ring.index));
  const fillers: DataRef[] = [];
  let next = 0;
  for (const { ring, vma } of fresh.sort((a, z) => a.ring.index - z.ring.index)) {
    for (; next < ring.index; next++) if (!taken.has(next)) fillers.push(emitFiller(b));
    next = ring.index + 1;
    emitRing(b, vma, ring.tail, request);
  }
  for (const filler of fillers) {
    const slot = b.slotFor('AIO context');
    b.load(filler, 8, slot, 'AIO: placeholder');
    b.sys('io_destroy', [slot], 'AIO: drop a placeholder');
  }
  b.sys('close', [file], 'AIO: close');
}

interface Context {
  readonly ring: AioRing;
  readonly vma: Vma;
}

function contextsOf(process: Process | undefined): Context[] {
  return (process?.aioRings ?? []).flatMap((ring) => {
    const vma = process?.mm?.vmas.find(({ start }) => start === ring.address);
    return vma === undefined ? [] : [{ ring, vma }];
  });
}

function compare(
  process: Process,
  before: Process | undefined,
): { kept: (Context & { earlier: AioRing })[]; fresh: Context[]; gone: AioRing[] } {
  const earlier = contextsOf(before);
  const now = contextsOf(process);
  const same = (a: Context, z: Context): boolean =>
    a.ring.address === z.ring.address && a.ring.index === z.ring.index && a.vma.end === z.vma.end;
  const kept = now.flatMap((context) => {
    const match = earlier.find((other) => same(context, other));
    return match === undefined ? [] : [{ ...context, earlier: match.ring }];
  });
  return {
    kept,
    fresh: now.filter((context) => !earlier.some((other) => same(context, other))),
    gone: earlier
      .filter((context) => !now.some((other) => same(context, other)))
      .map(({ ring }) => ring),
  };
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
  emitCount(b, vma, { from: 0, to: tail }, list);
}

/** Lets the kernel count events from one place in the ring to another, each taken at once. */
function emitCount(
  b: ProgramBuilder,
  vma: Vma,
  { from, to }: { from: number; to: number },
  list: DataRef,
): void {
  const step = `AIO context ${vma.start.toString(16)}`;
  const places = Number((vma.end - vma.start - HEADER_LENGTH) / EVENT_LENGTH);
  const head = vma.start + HEAD;
  // A page from the source may say something else: then the kernel would find no room.
  if (from !== to) b.op('store', [head, from, 4], `${step}: all is taken`);
  for (let at = from; at !== to; ) {
    at = (at + 1) % places;
    b.sys('io_submit', [vma.start, 1, list], `${step}: count an event`, { expect: { value: 1 } });
    b.op('store', [head, at, 4], `${step}: take it`);
  }
}

/** What io_setup(2) is asked for so that the ring takes `length` bytes (fs/aio.c: aio_setup_ring doubles the number
 *  and adds two). */
function eventsFor(length: bigint): bigint {
  const room = (length / PAGE) * PAGE - HEADER_LENGTH;
  const events = room / EVENT_LENGTH;
  return (events - 2n) / 2n > 1n ? (events - 2n) / 2n : 1n;
}
