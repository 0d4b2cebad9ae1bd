import { FerryError } from '@ferry/core';
import { listDirectory, readProc, tryReadProc } from './read.js';

/** /proc/PID/stat, by the names of proc_pid_stat(5). */
export interface ProcStat {
  readonly pid: number;
  readonly comm: string;
  readonly state: string;
  readonly ppid: number;
  readonly pgrp: number;
  readonly session: number;
  readonly ttyNr: number;
  readonly flags: number;
  readonly threadCount: number;
  readonly startTime: bigint;
  readonly startCode: bigint;
  readonly endCode: bigint;
  readonly startStack: bigint;
  readonly exitSignal: number;
  readonly startData: bigint;
  readonly endData: bigint;
  readonly startBrk: bigint;
  readonly argStart: bigint;
  readonly argEnd: bigint;
  readonly envStart: bigint;
  readonly envEnd: bigint;
  readonly exitCode: number;
}

/** Parses one line of /proc/PID/stat; the command may contain spaces and parentheses. */
export function parseStat(text: string): ProcStat {
  const open = text.indexOf('(');
  const close = text.lastIndexOf(')');
  const rest = text
    .slice(close + 2)
    .trim()
    .split(' ');
  const field = (n: number): string => {
    const value = rest[n - 3];
    if (value === undefined) throw new FerryError('linux.proc', `stat has no field ${n}: ${text}`);
    return value;
  };
  return {
    pid: Number(text.slice(0, open)),
    comm: text.slice(open + 1, close),
    state: field(3),
    ppid: Number(field(4)),
    pgrp: Number(field(5)),
    session: Number(field(6)),
    ttyNr: Number(field(7)),
    flags: Number(field(9)),
    threadCount: Number(field(20)),
    startTime: BigInt(field(22)),
    startCode: BigInt(field(26)),
    endCode: BigInt(field(27)),
    startStack: BigInt(field(28)),
    exitSignal: Number(field(38)),
    startData: BigInt(field(45)),
    endData: BigInt(field(46)),
    startBrk: BigInt(field(47)),
    argStart: BigInt(field(48)),
    argEnd: BigInt(field(49)),
    envStart: BigInt(field(50)),
    envEnd: BigInt(field(51)),
    exitCode: Number(field(52)),
  };
}

export function procStat(pid: number): ProcStat {
  return parseStat(readProc(`/proc/${pid}/stat`));
}

/** As procStat; undefined when the process is gone. */
export function tryProcStat(pid: number): ProcStat | undefined {
  const text = tryReadProc(`/proc/${pid}/stat`);
  return text === undefined ? undefined : parseStat(text);
}

/** The lines of /proc/PID/status (or of one thread) by name. Each is looked for when it is asked for: some sixty there
 *  are, of which few are ever wanted. */
export class ProcStatus {
  readonly #text: string;

  constructor(text: string) {
    this.#text = `\n${text}`;
  }

  get(name: string): string | undefined {
    const label = `\n${name}:`;
    const at = this.#text.indexOf(label);
    if (at < 0) return undefined;
    const start = at + label.length;
    const end = this.#text.indexOf('\n', start);
    const value = this.#text.slice(start, end < 0 ? undefined : end);
    // A command may begin or end with blanks.
    return name === 'Name' ? value.slice(1) : value.trim();
  }
}

export function procStatus(path: string): ProcStatus {
  return new ProcStatus(readProc(path));
}

/** Thread ids of a process, the leader first. */
export function threadsOf(pid: number): number[] {
  return listDirectory(`/proc/${pid}/task`)
    .map(Number)
    .sort((a, b) => (a === pid ? -1 : b === pid ? 1 : a - b));
}

/** The thread by which a process is reached: its first one, or another where that has ended while others run on. /proc,
 *  ptrace(2) and kcmp(2) show of such a process only what they are asked of a thread that lives. */
export function livingTask(pid: number): number {
  if (!hasEnded(`/proc/${pid}/stat`)) return pid;
  try {
    return threadsOf(pid).find((tid) => !hasEnded(`/proc/${pid}/task/${tid}/stat`)) ?? pid;
  } catch {
    return pid; // all of it has ended meanwhile
  }
}

/** Whether a task is gone, or a zombie. */
function hasEnded(statPath: string): boolean {
  const text = tryReadProc(statPath);
  return text === undefined || 'ZX'.includes(parseStat(text).state);
}

/** Children of every thread of a process, as the kernel lists them: oldest first. */
export function childrenOf(pid: number, threads: readonly number[]): number[] {
  const children: number[] = [];
  for (const tid of threads) {
    const text = tryReadProc(`/proc/${pid}/task/${tid}/children`);
    for (const word of (text ?? '').split(' ')) if (word !== '') children.push(Number(word));
  }
  return children;
}

/** One mapping of /proc/PID/maps or smaps. */
export interface Mapping {
  readonly start: bigint;
  readonly end: bigint;
  readonly read: boolean;
  readonly write: boolean;
  readonly execute: boolean;
  readonly shared: boolean;
  readonly offset: bigint;
  /** `major:minor` of the device, hexadecimal, as the kernel prints it. */
  readonly device: string;
  readonly inode: bigint;
  /** As printed: a path with `\012` for newlines, `[heap]`, or empty. */
  readonly name: string;
  /** VmFlags of smaps; empty when read from maps. */
  readonly flags: readonly string[];
}

const MAPS_LINE = /^([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) (\S+) (\d+) *(.*)$/;

const VM_FLAGS = '\nVmFlags: ';

function isCapital(code: number): boolean {
  return code >= 65 && code <= 90;
}

/** A mapping's name, from its bytes; the kernel writes a newline as four characters. */
function nameOf(latin1: string): string {
  if (latin1 === '' || /^[\x20-\x5b\x5d-\x7e]+$/.test(latin1)) return latin1;
  return Buffer.from(latin1, 'latin1').toString('utf8').replace(/\\012/g, '\n');
}

/** Parses /proc/PID/maps or /proc/PID/smaps. */
export function parseMappings(text: string): Mapping[] {
  const mappings: (Mapping & { flags: readonly string[] })[] = [];
  let end = 0;
  for (let at = 0; at < text.length; at = end + 1) {
    end = text.indexOf('\n', at);
    if (end < 0) end = text.length;
    const match = MAPS_LINE.exec(text.slice(at, end));
    if (match === null) continue;
    const [, start, last, perms, offset, device, inode, name] = match as unknown as string[];
    let flags: readonly string[] = [];
    // In smaps some twenty lines about it follow, each with a capital letter first; its flags are the last.
    const from = isCapital(text.charCodeAt(end + 1)) ? text.indexOf(VM_FLAGS, end) : -1;
    if (from >= 0) {
      end = text.indexOf('\n', from + 1);
      if (end < 0) end = text.length;
      flags = text
        .slice(from + VM_FLAGS.length, end)
        .trim()
        .split(' ');
    }
    mappings.push({
      start: BigInt(`0x${start}`),
      end: BigInt(`0x${last}`),
      read: perms![0] === 'r',
      write: perms![1] === 'w',
      execute: perms![2] === 'x',
      shared: perms![3] === 's',
      offset: BigInt(`0x${offset}`),
      device: device!,
      inode: BigInt(inode!),
      name: nameOf(name!),
      flags,
    });
  }
  return mappings;
}
