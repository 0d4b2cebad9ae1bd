import type { DataRef, Label, ProgramBuilder, Slot } from '../program.js';

const FIONREAD = 0x541b;
const O_RDWR_CLOEXEC = 0o2000002;
const MFD_CLOEXEC = 1;
const IN_ACCESS = 1;
const IN_MODIFY = 2;
const SEEK = { set: 0, current: 1 } as const;
const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;
/** struct inotify_event without a name. */
const EVENT_BYTES = 16;
/** Events between two looks at the queue: the kernel walks through all of it to tell its length. */
const EVENTS_PER_LOOK = 64;
/** Four times as many events as kernels keep by themselves (fs.inotify.max_queued_events): some MiB of memory. */
const LOOKS_MAX = 1024;
const ANY = { expect: 'any' } as const;

/** Makes an inotify descriptor that tells that events were lost (IN_Q_OVERFLOW), as programs know it from the kernel.
 *  Events that were not read cannot be put back, and a program that waits for them must not be left in ignorance. The
 *  queue is filled from a memory file of our own until the kernel says that there were more events than it keeps; what it
 *  has kept is read, and that word is left. Where a queue is far longer than usual nothing is said. */
export function emitOverflowed(
  b: ProgramBuilder,
  fd: number,
  { flags, name }: { flags: number; name: string },
): void {
  const step = `${name}: tell that events were lost`;
  const [memory, file, events] = ['memory', 'watched', 'file'].map((each) => b.slotFor(each));
  const path = b.cstr(`/proc/self/fd/${fd}`);
  const mask = IN_ACCESS | IN_MODIFY;
  b.sys('memfd_create', [b.cstr('inotify'), MFD_CLOEXEC], step, { into: memory! });
  b.moveFd(memory!, fd, step);
  // What a memory file is made with is not watched.
  b.sys('open', [path, O_RDWR_CLOEXEC, 0], step, { into: file! });
  b.sys('inotify_init1', [flags], name, { into: events! });
  const watch = b.slotFor('watch');
  b.sys('inotify_add_watch', [events!, path, mask], step, { into: watch, ...ANY });
  const length = b.words(0);
  const [full, endless, done] = [b.label(), b.label(), b.label()];
  emitFilling(b, { file: file!, events: events!, counter: fd, length, step, full, endless });
  b.place(endless);
  b.sys('close', [events!], step);
  b.sys('inotify_init1', [flags], name, { into: events! });
  b.op('jump', [0, 0], step, { target: done });
  b.place(full);
  // The kernel subtracts: all but the last event, which is the one that stays.
  const kept = b.slotFor('kept');
  const room = b.slotFor('room');
  b.load(length, 4, kept, step);
  b.sys('lseek', [fd, kept, SEEK.set], step, ANY);
  b.sys('lseek', [fd, -EVENT_BYTES, SEEK.current], step, { into: kept, ...ANY });
  // While the queue is full, the end of the watch is no event.
  b.sys('inotify_rm_watch', [events!, watch], step, ANY);
  const mapping = [0, kept, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0];
  b.sys('mmap', mapping, step, { into: room, ...ANY });
  b.sys('read', [events!, room, kept], step, ANY);
  b.sys('munmap', [room, kept], step, ANY);
  b.place(done);
  b.sys('close', [file!], step);
  b.moveFd(events!, fd, name);
}

/** Reads and writes in turn, for equal events that follow each other are one, until the queue grows no more. */
function emitFilling(
  b: ProgramBuilder,
  {
    file,
    events,
    counter,
    length,
    step,
    full,
    endless,
  }: {
    file: Slot;
    events: Slot;
    /** A file whose position counts. */
    counter: number;
    length: DataRef;
    step: string;
    full: Label;
    endless: Label;
  },
): void {
  const byte = b.bytes(Buffer.alloc(1));
  const [before, now] = [b.slotFor('before'), b.slotFor('now')];
  const again = b.label();
  b.place(again);
  for (let i = 0; i < EVENTS_PER_LOOK; i += 2) {
    b.sys('pwrite64', [file, byte, 1, 0], step, ANY);
    b.sys('pread64', [file, byte, 1, 0], step, ANY);
  }
  b.load(length, 4, before, step);
  b.sys('ioctl', [events, FIONREAD, length], step, ANY);
  b.load(length, 4, now, step);
  b.op('jump', [now, before], step, { target: full });
  b.sys('lseek', [counter, 1, SEEK.current], step, { into: now, ...ANY });
  b.op('jump', [now, LOOKS_MAX], step, { target: endless });
  b.op('jump', [0, 0], step, { target: again });
}
