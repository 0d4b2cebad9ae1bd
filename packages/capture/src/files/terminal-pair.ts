import { FerryError } from '@ferry/core';
import {
  isCanonical,
  stopLetter,
  transparentSettings,
  typedBytes,
  unusedLetter,
} from '@ferry/dumpbin';
import type { TerminalPair } from '@ferry/image';
import { call, OwnedFd, sys } from '@ferry/linux';
import { ioctlInt, POLLHUP, POLLIN, POLLOUT, pollNow } from './common.js';
import type { Descriptor } from './context.js';

const FIONREAD = 0x541b;
const TCGETS2 = 0x802c542a;
const TCSETS2 = 0x402c542b;
const TCXONC = 0x540a;
const TCOOFF = 0;
const TCOON = 1;
const TIOCGWINSZ = 0x5413;
const TIOCPKT = 0x5420;
const TIOCGPKT = 0x80045438;
const TIOCGPTLCK = 0x80045439;
const TIOCGEXCL = 0x80045440;
const TIOCGPTPEER = 0x5441;
/** O_RDWR, O_NOCTTY, O_NONBLOCK, O_CLOEXEC */
const PEER_FLAGS = 0o2004402;
const SETTINGS_SIZE = 44;
const LOCAL_AT = 12;
const LETTERS_AT = 17;
const VMIN = 6;
const ICANON = 2;
const PIECE = 4096;
const NOTHING = Buffer.alloc(0);

/** Both sides of a pseudo terminal as the tree has them; no master: it is closed, and the slave has hung up. */
interface Sides {
  readonly master: Descriptor | undefined;
  readonly slaves: readonly Descriptor[];
}

/** What the sides of a pair share. What is in its queues is read, and put back at once: there is no way to look. */
export function capturePair({ master, slaves }: Sides): TerminalPair {
  const any = (master ?? slaves[0]!).dup();
  const { mode, uid, gid } = slaves[0]?.stat ?? { mode: 0o620, uid: 0, gid: 0 };
  const pair: TerminalPair = {
    settings: Buffer.alloc(SETTINGS_SIZE),
    window: Buffer.alloc(8),
    packets: false,
    locked: false,
    exclusive: ioctlOrZero(any, TIOCGEXCL) !== 0,
    hungUp: false,
    typed: [],
    lastIsUnfinished: false,
    printed: NOTHING,
    mode: mode & 0o7777,
    uid,
    gid,
    outputHeld: false,
    outputHeldByLetter: false,
    inputHeld: false,
  };
  if (master === undefined) {
    // A terminal that was hung up answers nothing but an error.
    return { ...pair, settings: NOTHING, hungUp: true };
  }
  call('ioctl', any.number, TCGETS2, pair.settings);
  call('ioctl', any.number, TIOCGWINSZ, pair.window);
  pair.packets = ioctlInt(any, TIOCGPKT) !== 0;
  pair.locked = ioctlInt(any, TIOCGPTLCK) !== 0;
  pair.hungUp = (pollNow(any.number, POLLIN) & POLLHUP) !== 0;
  if (slaves.length > 0) captureQueues(any, pair);
  return pair;
}

function ioctlOrZero(fd: OwnedFd, request: number): number {
  const value = Buffer.alloc(4);
  return sys('ioctl', fd.number, request, value) < 0 ? 0 : value.readInt32LE(0);
}

function captureQueues(master: OwnedFd, pair: TerminalPair): void {
  const peer = sys('ioctl', master.number, TIOCGPTPEER, PEER_FLAGS);
  if (peer < 0) return; // locked or exclusive: what is in it stays unseen
  using slave = new OwnedFd(peer);
  const settings = Buffer.from(pair.settings);
  const canonical = isCanonical(settings);
  // In packet mode the master is told of every change of settings.
  if (pair.packets) call('ioctl', master.number, TIOCPKT, int(0));
  try {
    pair.printed = takePrinted(master);
    pair.typed = canonical ? takeLines(slave) : takeAll(slave);
    pair.lastIsUnfinished = !canonical;
    if (canonical) {
      const rest = takeUnfinished(slave, settings);
      if (rest.length > 0) pair.typed.push(rest);
      pair.lastIsUnfinished = rest.length > 0;
    }
    letGo(master, slave, pair);
    putBack(master, slave, pair);
  } finally {
    call('ioctl', slave.number, TCSETS2, settings);
    holdAgain(master, slave, pair);
    if (pair.packets) call('ioctl', master.number, TIOCPKT, int(1));
  }
}

/** Empty, both sides take something unless they are held. tcflow(3) lets go only what it has stopped itself; what a letter
 *  has stopped is let go by settings without such letters (putBack). */
function letGo(master: OwnedFd, slave: OwnedFd, pair: TerminalPair): void {
  const flowsAfter = (fd: OwnedFd): boolean => {
    call('ioctl', fd.number, TCXONC, TCOON);
    return !isHeld(fd);
  };
  pair.inputHeld = isHeld(master) && flowsAfter(master);
  if (!isHeld(slave)) return;
  const byCall = flowsAfter(slave);
  pair.outputHeldByLetter = !byCall && stopLetter(pair.settings) !== undefined;
  pair.outputHeld = byCall || pair.outputHeldByLetter;
}

function isHeld(fd: OwnedFd): boolean {
  return (pollNow(fd.number, POLLOUT) & POLLOUT) === 0;
}

function holdAgain(master: OwnedFd, slave: OwnedFd, pair: TerminalPair): void {
  if (pair.outputHeldByLetter) {
    call('write', master.number, stopLetter(pair.settings)!, 1);
    pollNow(slave.number, POLLIN);
  } else if (pair.outputHeld) call('ioctl', slave.number, TCXONC, TCOOFF);
  if (pair.inputHeld) call('ioctl', master.number, TCXONC, TCOOFF);
}

function int(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value, 0);
  return bytes;
}

/** poll(2) also brings in what is still on its way between the two sides (tty_buffer_flush_work). */
function readableOf(fd: OwnedFd): number {
  pollNow(fd.number, POLLIN);
  return ioctlInt(fd, FIONREAD);
}

function takePrinted(master: OwnedFd): Buffer {
  const found: Buffer[] = [];
  for (let left = readableOf(master); left > 0; left = readableOf(master)) {
    const piece = Buffer.alloc(left);
    found.push(piece.subarray(0, call('read', master.number, piece, left)));
  }
  return Buffer.concat(found);
}

function takePiece(slave: OwnedFd): Buffer {
  const piece = Buffer.alloc(PIECE);
  const n = sys('read', slave.number, piece, piece.length);
  return piece.subarray(0, Math.max(0, n));
}

/** A read gives one line, without the letter that ended it where that is the end of file. An empty one is just that. */
function takeLines(slave: OwnedFd): Buffer[] {
  const found: Buffer[] = [];
  while ((pollNow(slave.number, POLLIN) & POLLIN) !== 0) found.push(takePiece(slave));
  return found;
}

function takeAll(slave: OwnedFd): Buffer[] {
  const found: Buffer[] = [];
  while (readableOf(slave) > 0) found.push(takePiece(slave));
  const all = Buffer.concat(found);
  return all.length > 0 ? [all] : [];
}

/** What was typed of a line that has not ended can be read in raw mode only. */
function takeUnfinished(slave: OwnedFd, settings: Buffer): Buffer {
  const raw = Buffer.from(settings);
  raw.writeUInt32LE((raw.readUInt32LE(LOCAL_AT) & ~ICANON) >>> 0, LOCAL_AT);
  raw[LETTERS_AT + VMIN] = 1;
  call('ioctl', slave.number, TCSETS2, raw);
  const [rest] = takeAll(slave);
  return rest ?? NOTHING;
}

function putBack(master: OwnedFd, slave: OwnedFd, pair: TerminalPair): void {
  if (pair.typed.length === 0 && pair.printed.length === 0) return;
  const end = unusedLetter(pair.typed);
  call('ioctl', slave.number, TCSETS2, transparentSettings(pair.settings, end));
  writeAll(master, typedBytes(pair, end));
  pollNow(slave.number, POLLIN);
  writeAll(slave, pair.printed);
  pollNow(master.number, POLLIN);
}

function writeAll(to: OwnedFd, data: Buffer): void {
  if (data.length === 0) return;
  const n = call('write', to.number, data, data.length);
  if (n !== data.length) {
    throw new FerryError(
      'capture.terminalContent',
      `Of ${data.length} bytes in a terminal's queue ${n} could be put back`,
    );
  }
}
