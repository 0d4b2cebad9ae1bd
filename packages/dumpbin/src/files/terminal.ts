import { FerryError } from '@ferry/core';
import type { FileObject, Process, Terminal, TerminalPair, TreeImage } from '@ferry/image';
import { SERVICE } from '../layout.js';
import { translate } from '../pid-numbers.js';
import type { ProgramBuilder } from '../program.js';
import { emitOpen, openFlags } from './common.js';
import type { EmitContext, FileEmitter } from './emit.js';
import { stopLetter, transparentSettings, typedBytes, unusedLetter } from './terminal-settings.js';

const O_RDWR_NOCTTY = 0o402;
const O_NOCTTY = 0o400;
const TCSETS2 = 0x402c542b;
const TCXONC = 0x540a;
const TCOOFF = 0;
const TIOCSWINSZ = 0x5414;
const TIOCSCTTY = 0x540e;
const TIOCNOTTY = 0x5422;
const TIOCSPGRP = 0x5410;
const TIOCEXCL = 0x540c;
const TIOCPKT = 0x5420;
const TIOCGPTN = 0x80045430;
const TIOCSPTLCK = 0x40045431;
const POLLIN = 1;
/** Numbers are tried from 0 on: the kernel gives the lowest that is free. */
const INDEX_MAX = 1000;

/** Terminals. A pseudo terminal is made again under its number, which programs remember (ptsname(3)); what was typed and
 *  printed is put into it under settings that change nothing, and the real ones are set last. */
export const terminalEmitter: FileEmitter = {
  create(b, file, ctx) {
    const terminal = terminalOf(file)!;
    if (terminal.side === 'controlling') {
      // That of a session of the tree is opened by its leader, when it has it: emitSessionTerminal.
      if (leaderOf(ctx.image, terminal.session) !== undefined) return;
      emitOpen(b, { ...file, position: 0n }, terminal.path, ctx);
    } else if (terminal.side === 'console') {
      emitOpen(b, { ...file, flags: file.flags | O_NOCTTY, position: 0n }, terminal.path, ctx);
    } else if (ctx.once('terminals')) {
      emitPairs(b, ctx);
    }
  },
};

function terminalOf({ kind }: FileObject): Terminal | undefined {
  return kind?.$case === 'terminal' ? kind.value : undefined;
}

interface Pair {
  readonly index: number;
  readonly pair: TerminalPair;
  readonly path: string;
  readonly master: FileObject | undefined;
  readonly slaves: FileObject[];
}

/** Ascending by number. A slave that has lost its master forms a pair of its own. */
function pairsOf(image: TreeImage): Pair[] {
  const pairs = new Map<string, Pair & { master: FileObject | undefined; pair: TerminalPair }>();
  const masters = new Set(
    image.files.flatMap((file) => {
      const terminal = terminalOf(file);
      return terminal?.side === 'master' ? [terminal.index] : [];
    }),
  );
  for (const file of image.files) {
    const terminal = terminalOf(file);
    if (terminal?.side !== 'master' && terminal?.side !== 'slave') continue;
    const { index, side, path, pair } = terminal;
    const isLost = side === 'slave' && (!masters.has(index) || pair?.settings.length === 0);
    const key = isLost ? `lost ${file.id}` : `${index}`;
    const known = pairs.get(key) ?? {
      ...{ index, slaves: [], master: undefined, path: '', pair: pair! },
    };
    if (pair !== undefined) known.pair = pair;
    const isMaster = side === 'master';
    pairs.set(key, {
      ...known,
      ...(isMaster ? { master: file } : { slaves: [...known.slaves, file], path }),
    });
  }
  return [...pairs.values()].sort((a, b) => a.index - b.index);
}

function emitPairs(b: ProgramBuilder, ctx: EmitContext): void {
  const { files, sharedMemory } = ctx.image;
  // Masters with other numbers are kept open meanwhile, above everything else.
  const spare = ctx.serviceBase + 4 * SERVICE.objects + 2 * (files.length + sharedMemory.length);
  const pairs = pairsOf(ctx.image);
  let used = 0;
  for (const pair of pairs) {
    used = emitMaster(b, pair, { spare, used });
    const lonely = spare - 1;
    const to = pair.master === undefined ? lonely : ctx.fdOf(pair.master.id);
    b.moveFd(b.slotFor('terminal'), to, textOf(pair));
    emitPair(b, pair, to, ctx);
    if (pair.master === undefined) b.sys('close', [lonely], `${textOf(pair)}: hang up`);
  }
  for (let i = 0; i < used; i++) {
    b.sys('close', [spare + i], 'close a spare terminal', { expect: 'any' });
  }
}

function textOf({ index }: Pair): string {
  return `pseudo terminal ${index}`;
}

/** Leaves the master in its slot. Whether a number comes is known only when it runs: each try is written out. */
function emitMaster(
  b: ProgramBuilder,
  pair: Pair,
  { spare, used }: { spare: number; used: number },
): number {
  const { index, master } = pair;
  if (index > INDEX_MAX) {
    throw new FerryError('dumpbin.terminalIndex', `No terminal beyond number ${INDEX_MAX}`);
  }
  const name = textOf(pair);
  const ptmx = b.cstr(master === undefined ? '/dev/ptmx' : (terminalOf(master)?.path ?? ''));
  const flags = master === undefined ? O_RDWR_NOCTTY : openFlags(master.flags) | O_NOCTTY;
  const [slot, number] = [b.slotFor('terminal'), b.slotFor('terminal number')];
  const room = b.reserve(8);
  const found = b.label();
  for (let i = used; ; i++) {
    b.sys('open', [ptmx, flags, 0], `${name}: open a master`, { into: slot });
    b.sys('ioctl', [slot, TIOCGPTN, room], `${name}: which number`);
    b.load(room, 4, number, `${name}: which number`);
    b.op('jump', [number, index], `${name}: the right number?`, { target: found });
    if (i > index) break;
    b.moveFd(slot, spare + i, `${name}: another number`);
  }
  b.sys('ioctl', [slot, TIOCGPTN, room], `${name}: its number is taken by another program`, {
    expect: { value: -1n },
  });
  b.place(found);
  return index + 1;
}

function emitPair(b: ProgramBuilder, pair: Pair, master: number, ctx: EmitContext): void {
  const { index, slaves } = pair;
  const { locked, exclusive, packets, mode, uid, gid, hungUp, settings, window } = pair.pair;
  const name = textOf(pair);
  const path = pair.path || `/dev/pts/${index}`;
  const at = b.cstr(path);
  const on = b.words(1);
  b.sys('ioctl', [master, TIOCSPTLCK, b.words(0)], `${name}: unlock`);
  for (const slave of slaves) {
    const slot = b.slotFor('file');
    b.sys('open', [at, openFlags(slave.flags) | O_NOCTTY, 0], `open ${path}`, { into: slot });
    b.moveFd(slot, ctx.fdOf(slave.id), `open ${path}`);
  }
  if (slaves.length > 0) {
    b.sys('chown', [at, uid, gid], `${path}: owner`);
    b.sys('chmod', [at, mode], `${path}: mode`);
  } else if (hungUp) {
    const slot = b.slotFor('file');
    b.sys('open', [at, O_RDWR_NOCTTY, 0], `open ${path}`, { into: slot });
    b.sys('close', [slot], `${path}: hang up`);
  }
  if (settings.length > 0) {
    emitQueues(b, pair, master);
    b.sys('ioctl', [master, TCSETS2, b.bytes(settings)], `${name}: settings`);
    b.sys('ioctl', [master, TIOCSWINSZ, b.bytes(window)], `${name}: size`);
    emitHeld(b, pair, master, ctx);
  }
  if (packets) b.sys('ioctl', [master, TIOCPKT, on], `${name}: packets`);
  if (locked) b.sys('ioctl', [master, TIOCSPTLCK, on], `${name}: lock`);
  if (exclusive) b.sys('ioctl', [master, TIOCEXCL, 0], `${name}: exclusive`);
}

function emitQueues(b: ProgramBuilder, pair: Pair, master: number): void {
  const { typed, printed, settings } = pair.pair;
  if (typed.length === 0 && printed.length === 0) return;
  const name = textOf(pair);
  const end = unusedLetter(typed);
  const plain = transparentSettings(settings, end);
  b.sys('ioctl', [master, TCSETS2, b.bytes(plain)], `${name}: plain settings`);
  const slave = b.slotFor('terminal slave');
  b.sys('open', [b.cstr(pair.path), O_RDWR_NOCTTY, 0], `open ${pair.path}`, { into: slave });
  // poll(2) brings over what is still on its way.
  emitWrite(b, master, typedBytes(pair.pair, end), `${name}: what was typed`);
  b.sys('poll', [pollEntry(b, slave, name), 1, 0], `${name}: typed`);
  emitWrite(b, slave, Buffer.from(printed), `${name}: what was printed`);
  b.sys('poll', [pollEntry(b, master, name), 1, 0], `${name}: printed`);
  b.sys('close', [slave], `close ${pair.path}`);
}

/** Output that was stopped, by what had stopped it: each kind is let go by its own kind only. */
function emitHeld(b: ProgramBuilder, pair: Pair, master: number, ctx: EmitContext): void {
  const { outputHeld, outputHeldByLetter, inputHeld, settings } = pair.pair;
  const [first] = pair.slaves;
  const name = textOf(pair);
  if (outputHeld && first !== undefined) {
    const slave = ctx.fdOf(first.id);
    const letter = outputHeldByLetter ? stopLetter(settings) : undefined;
    if (letter !== undefined) {
      emitWrite(b, master, letter, `${name}: output stopped by its letter`);
      b.sys('poll', [pollEntry(b, slave, name), 1, 0], `${name}: output stopped`);
    } else b.sys('ioctl', [slave, TCXONC, TCOOFF], `${name}: output stopped`);
  }
  if (inputHeld) b.sys('ioctl', [master, TCXONC, TCOOFF], `${name}: input stopped`);
}

function pollEntry(
  b: ProgramBuilder,
  fd: Parameters<ProgramBuilder['store']>[0] | number,
  name: string,
) {
  const entry = Buffer.alloc(8);
  entry.writeInt16LE(POLLIN, 4);
  const at = b.bytes(entry);
  b.op('store', [at, fd, 4], `${name}: poll`);
  return at;
}

function emitWrite(
  b: ProgramBuilder,
  fd: Parameters<ProgramBuilder['store']>[0] | number,
  data: Buffer,
  name: string,
): void {
  if (data.length === 0) return;
  b.sys('write', [fd, b.bytes(data), data.length], name, { expect: { value: data.length } });
}

function leaderOf(image: TreeImage, session: number): Process | undefined {
  return image.processes.find(({ pid, terminalFileId }) => pid === session && terminalFileId !== 0);
}

/** In a session's leader, before it makes its children: takes the terminal, which they inherit, and opens /dev/tty for
 *  those descriptions that were opened so. */
export function emitSessionTerminal(b: ProgramBuilder, process: Process, ctx: EmitContext): void {
  const { terminalFileId, pid } = process;
  if (terminalFileId === 0) return;
  b.sys('ioctl', [ctx.fdOf(terminalFileId), TIOCSCTTY, 0], `terminal of session ${pid}`);
  for (const file of ctx.image.files) {
    const terminal = terminalOf(file);
    if (terminal?.side !== 'controlling' || terminal.session !== pid) continue;
    emitOpen(b, { ...file, position: 0n }, terminal.path, ctx);
  }
}

/** In a process whose session has a terminal that it has given up itself. */
export function emitNoTerminal(b: ProgramBuilder, process: Process, ctx: EmitContext): void {
  const leader = leaderOf(ctx.image, process.sid);
  if (leader === undefined || leader === process || process.hasTerminal) return;
  const fd = ctx.fdOf(leader.terminalFileId);
  b.sys('ioctl', [fd, TIOCNOTTY, 0], `process ${process.pid} without a terminal`);
}

/** In a session's leader, when the groups have their members. */
export function emitForeground(b: ProgramBuilder, process: Process, ctx: EmitContext): void {
  const { terminalFileId, foregroundGroup } = process;
  if (terminalFileId === 0 || foregroundGroup === 0) return;
  const group = Buffer.alloc(4);
  group.writeInt32LE(translate(ctx.image, process, foregroundGroup), 0);
  const step = `group ${foregroundGroup} in the foreground`;
  b.sys('ioctl', [ctx.fdOf(terminalFileId), TIOCSPGRP, b.bytes(group)], step, { expect: 'any' });
}
