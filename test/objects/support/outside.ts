import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { statFields, treeOf } from './processes.js';

/** What /proc says about a tree: `PID what` → value. Two of them are compared with `differences`. */
export type Outside = ReadonlyMap<string, string>;

const statusFields = [
  ...['Name', 'Umask', 'State', 'TracerPid', 'Uid', 'Gid', 'Groups', 'Threads', 'VmLck'],
  ...['SigPnd', 'ShdPnd', 'SigBlk', 'SigIgn', 'SigCgt', 'CapInh', 'CapPrm', 'CapEff', 'CapBnd'],
  ...['CapAmb', 'NoNewPrivs', 'Seccomp', 'Seccomp_filters', 'THP_enabled', 'Cpus_allowed_list'],
];

/** Fields of /proc/PID/stat by their number in proc(5): identity, priorities, the mm layout. */
const statNumbers = {
  ...{ pgrp: 5, session: 6, tty: 7, nice: 19, start_code: 26, end_code: 27, exit_signal: 38 },
  ...{ rt_priority: 40, policy: 41, start_data: 45, end_data: 46, start_brk: 47 },
  ...{ arg_start: 48, arg_end: 49, env_start: 50, env_end: 51 },
};

/** VmFlags that a restore may change: soft-dirty tracking, and accounting, which is decided by the
 *  protections a mapping has had in its life. */
const looseFlags = new Set(['sd', 'ac']);

/** Looks at a waiting tree from outside. Does not stop it; values that move by themselves (CPU
 *  time, memory counters, timers) are left out. */
export function observe(root: number): Outside {
  const seen = new Map<string, string>();
  const objects = new Map<string, number>();
  for (const pid of treeOf(root)) {
    observeProcess(pid, pid === root, seen, objects);
  }
  return seen;
}

function observeProcess(
  pid: number,
  isRoot: boolean,
  seen: Map<string, string>,
  objects: Map<string, number>,
): void {
  const put = (what: string, value: string) => seen.set(`${pid} ${what}`, value);
  const stat = statFields(pid) ?? [];
  if (!isRoot) put('ppid', stat[1] ?? '');
  put('is a zombie', `${stat[0] === 'Z'}`);
  if (stat[0] === 'Z') {
    for (const name of ['pgrp', 'session'] as const) put(name, stat[statNumbers[name] - 3] ?? '');
    return; // nothing else of it can be seen by anybody
  }
  for (const [name, number] of Object.entries(statNumbers)) put(name, stat[number - 3] ?? '');
  for (const [name, value] of statusOf(`/proc/${pid}`)) put(name, value);
  for (const name of ['cwd', 'root', 'exe']) put(name, link(`/proc/${pid}/${name}`));
  for (const name of ['cmdline', 'environ', 'limits', 'timerslack_ns', 'oom_score_adj']) {
    put(name, text(`/proc/${pid}/${name}`));
  }
  for (const name of ['coredump_filter', 'personality']) put(name, text(`/proc/${pid}/${name}`));
  put('cgroup', text(`/proc/${pid}/cgroup`).replace(/^\d+:name=(?!systemd).*:\/\n/gm, ''));
  observeMappings(pid, put);
  for (const fd of names(`/proc/${pid}/fd`)) {
    put(`fd ${fd}`, numbered(link(`/proc/${pid}/fd/${fd}`), objects));
    put(`fdinfo ${fd}`, fdinfo(text(`/proc/${pid}/fdinfo/${fd}`), objects));
  }
  for (const tid of names(`/proc/${pid}/task`)) {
    const values = [...statusOf(`/proc/${pid}/task/${tid}`)];
    const kept = values.filter(([name]) => /^(Name|Sig|Cap|NoNew|Seccomp|Cpus)/.test(name));
    put(`thread ${tid}`, kept.map(([name, value]) => `${name}=${value}`).join(' '));
  }
}

function statusOf(folder: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const line of text(`${folder}/status`).split('\n')) {
    const [name = '', value = ''] = line.split(':\t');
    if (statusFields.includes(name)) found.set(name, value.trim());
  }
  return found;
}

interface Mapping {
  readonly start: bigint;
  end: bigint;
  readonly perms: string;
  readonly offset: bigint;
  readonly file: string;
  flags: string;
}

/** smaps gives both the lines of maps and each mapping's flags. Neighbours that are alike are taken
 *  as one: whether the kernel has merged them depends on their history (anon_vma), not on what they
 *  are, and a restore may merge what had grown apart. */
function observeMappings(pid: number, put: (what: string, value: string) => void): void {
  const found: Mapping[] = [];
  for (const line of text(`/proc/${pid}/smaps`).split('\n')) {
    const mapping = parseMapping(line);
    const last = found.at(-1);
    if (mapping !== undefined) found.push(mapping);
    else if (last !== undefined && line.startsWith('VmFlags:')) {
      const flags = line.slice(8).trim().split(' ');
      last.flags = flags.filter((flag) => !looseFlags.has(flag)).join(' ');
      mergeLast(found);
    }
  }
  for (const { start, end, perms, offset, file, flags } of found) {
    const range = `${start.toString(16)}-${end.toString(16)}`;
    put(`map ${range}`, `${perms} ${offset.toString(16)} ${file} (${flags})`);
  }
}

function parseMapping(line: string): Mapping | undefined {
  const parts = /^([0-9a-f]+)-([0-9a-f]+) (\S+) (\S+) (\S+) (\S+)\s*(.*)$/.exec(line);
  if (parts === null) return undefined;
  const [, start, end, perms = '', offset, device, inode, path = ''] = parts;
  // Memory objects without a name in the file system get a new number when made anew.
  const made = /^\/(memfd:|SYSV)| \(deleted\)$/.test(path);
  const file = made ? path : `${device} ${inode} ${path}`;
  const [from, to, at] = [BigInt(`0x${start}`), BigInt(`0x${end}`), BigInt(`0x${offset}`)];
  return { start: from, end: to, perms, offset: at, file, flags: '' };
}

function mergeLast(found: Mapping[]): void {
  const [before, last] = found.slice(-2);
  if (before === undefined || last === undefined || before.end !== last.start) return;
  if (before.perms !== last.perms || before.file !== last.file) return;
  if (before.flags !== last.flags) return;
  const isFile = !/^00:00 0 /.test(last.file);
  if (isFile && before.offset + (before.end - before.start) !== last.offset) return;
  before.end = last.end;
  found.pop();
}

/** Replaces an inode number by the order of its first appearance: sharing shows, the number not. */
function numbered(target: string, objects: Map<string, number>): string {
  const anonymous = /^(socket|pipe):\[\d+\]$/.exec(target);
  if (anonymous === null) return target;
  return `${anonymous[1]} number ${orderOf(target, objects)}`;
}

function orderOf(object: string, objects: Map<string, number>): number {
  if (!objects.has(object)) objects.set(object, objects.size);
  return objects.get(object) ?? 0;
}

/** Without what names this boot's inodes and mounts, and without the time that runs. Members of an
 *  epoll set come in an order that means nothing. */
function fdinfo(content: string, objects: Map<string, number>): string {
  const moving = /^(mnt_id|ino|it_value|ticks|lock|scm_fds):/;
  const lines = content.split('\n').filter((line) => line !== '' && !moving.test(line));
  const isWallClock = /^clockid: [08]$/m.test(content);
  return (
    lines
      .map((line) => line.replaceAll(/ (ino|sdev):[0-9a-f]+/g, ''))
      .map((line) => line.replace(/^(eventfd-id): \d+/, (id) => `${orderOf(id, objects)}`))
      // On a clock that is never set, an absolute time is as good as a relative one.
      .filter((line) => isWallClock || !line.startsWith('settime flags:'))
      .sort()
      .join('; ')
  );
}

const LOOKS = 20;
const PAUSE_MS = 50;

/** What differs even after a while: a thread of low priority that is let go takes its time to be back in the call that it
 *  slept in. */
export async function lastingDifferences(
  root: number,
  before: Outside,
  ignored: readonly RegExp[],
): Promise<string[]> {
  for (let looks = LOOKS; ; looks--) {
    const found = differences(before, observe(root), ignored);
    if (found.length === 0 || looks === 0) return found;
    await sleep(PAUSE_MS);
  }
}

/** @returns one line for each value that is not the same, apart from those `ignored` */
export function differences(before: Outside, after: Outside, ignored: readonly RegExp[]): string[] {
  const found: string[] = [];
  for (const what of new Set([...before.keys(), ...after.keys()])) {
    const was = before.get(what) ?? '(nothing)';
    const is = after.get(what) ?? '(nothing)';
    if (was === is) continue;
    const line = `${what}: was ${JSON.stringify(was)}, is ${JSON.stringify(is)}`;
    if (!ignored.some((pattern) => pattern.test(line))) found.push(line);
  }
  return found;
}

function names(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

function text(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '(unreadable)';
  }
}

function link(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '(unreadable)';
  }
}
