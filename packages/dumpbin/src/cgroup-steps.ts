import type { ControlGroup, Process, Thread } from '@ferry/image';
import type { CompileContext } from './compile-context.js';
import { ownTid } from './pid-numbers.js';
import type { Argument, ProgramBuilder } from './program.js';

const EEXIST = 17;
const AT_FDCWD = -100;
const O_WRONLY = 1;
const O_PATH_DIRECTORY = 0o10200000;
const TYPE = 'cgroup.type';

/** Puts this process into its control groups; groups that are gone are made again, with what was set in them. */
export function emitControlGroups(b: ProgramBuilder, groups: readonly ControlGroup[]): void {
  for (const group of groups) {
    emitLevels(b, group);
    // A group of cgroup v2 that holds processes hands nothing on to others.
    if (!group.unified) emitProperties(b, group);
    emitJoin(b, group);
    if (group.unified) emitProperties(b, group);
    const below = { ...group, levels: group.empty };
    emitLevels(b, below);
    emitProperties(b, below);
    emitFiles(b, group);
    emitFiles(b, below);
  }
}

/** Whom the files of a group belong to, and their modes. */
function emitFiles(b: ProgramBuilder, { mountpoint, levels }: ControlGroup): void {
  for (const { path, files } of levels) {
    for (const { name, mode, user, group } of files) {
      const file = `${folderOf(mountpoint, path)}${name === '' ? '' : `/${name}`}`;
      b.sys('chown', [b.cstr(file), user, group], `owner of ${file}`, { expect: 'any' });
      b.sys('chmod', [b.cstr(file), mode], `mode of ${file}`, { expect: 'any' });
    }
  }
}

/** Makes the groups that threads of this process are in, and keeps a way to them: when the threads are made, the process
 *  may have other mounts and another root directory. */
export function emitThreadGroups(b: ProgramBuilder, process: Process, ctx: CompileContext): void {
  const groups = process.threads.flatMap(({ controlGroups }) => controlGroups);
  if (groups.length === 0) return;
  for (const group of groups) {
    emitLevels(b, group);
    emitProperties(b, group);
  }
  const slot = b.slotFor('control group');
  const step = 'keep a way to control groups';
  b.sys('open', [b.cstr('/'), O_PATH_DIRECTORY, 0], step, { into: slot });
  b.moveFd(slot, ctx.service('groups'), step);
}

/** Puts a thread, just made by the first one of its process, into its groups. */
export function emitThreadJoin(b: ProgramBuilder, thread: Thread, ctx: CompileContext): void {
  for (const { mountpoint, path, unified } of thread.controlGroups) {
    const file = `${folderOf(mountpoint, path)}/${unified ? 'cgroup.threads' : 'tasks'}`;
    const at = { folder: ctx.service('groups'), file: file.slice(1) };
    emitWrite(b, at, Buffer.from(`${ownTid(thread)}`), `thread ${thread.tid}: join ${file}`);
  }
}

function folderOf(mountpoint: string, path: string): string {
  return `${mountpoint}${path === '/' ? '' : path}`;
}

function emitLevels(b: ProgramBuilder, { mountpoint, levels }: ControlGroup): void {
  for (const { path, properties } of levels) {
    const folder = folderOf(mountpoint, path);
    const step = `control group ${folder}`;
    b.sys('mkdir', [b.cstr(folder), 0o755], step, { expect: { orErrno: EEXIST } });
    for (const { name, value } of properties) {
      if (isSetFirst(name)) emitSet(b, `${folder}/${name}`, value);
    }
  }
}

/** What a group with others below it takes no more: devices_update_access, security/device_cgroup.c. */
function isSetFirst(name: string): boolean {
  return name === TYPE || name.startsWith('devices.');
}

function emitProperties(b: ProgramBuilder, { mountpoint, levels }: ControlGroup): void {
  for (const { path, properties } of levels) {
    for (const { name, value } of properties) {
      if (!isSetFirst(name)) emitSet(b, `${folderOf(mountpoint, path)}/${name}`, value);
    }
  }
}

/** Whoever still has the group may have settings that forbid it; the process is in it all the same. */
function emitSet(b: ProgramBuilder, file: string, value: Uint8Array): void {
  const slot = b.slotFor('control group');
  b.sys('open', [b.cstr(file), O_WRONLY, 0], `open ${file}`, { into: slot, expect: 'any' });
  b.sys('write', [slot, b.bytes(value), value.length], `set ${file}`, { expect: 'any' });
  b.sys('close', [slot], `close ${file}`, { expect: 'any' });
}

/** A process joins a domain; from there its thread may go on to a threaded group below (cgroups(7)). */
function emitJoin(b: ProgramBuilder, { mountpoint, path, levels }: ControlGroup): void {
  const isThreaded = (level: (typeof levels)[number]): boolean =>
    level.properties.some(({ name }) => name === TYPE);
  const first = levels.findIndex(isThreaded);
  const domain = first < 0 ? path : (levels[first - 1]?.path ?? '/');
  const join = (file: string): void =>
    emitWrite(b, { folder: AT_FDCWD, file }, Buffer.from('0'), `join ${file}`);
  join(`${folderOf(mountpoint, domain)}/cgroup.procs`);
  if (domain !== path) join(`${folderOf(mountpoint, path)}/cgroup.threads`);
}

function emitWrite(
  b: ProgramBuilder,
  { folder, file }: { folder: Argument; file: string },
  text: Buffer,
  step: string,
): void {
  const slot = b.slotFor('control group');
  b.sys('openat', [folder, b.cstr(file), O_WRONLY, 0], `${step}: open`, { into: slot });
  b.sys('write', [slot, b.bytes(text), text.length], step);
  b.sys('close', [slot], `${step}: close`);
}
