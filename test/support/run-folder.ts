import { randomInt } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sleep, tryRun } from './shell.js';
import { RUN_VARIABLE, traceLines, tracesOf } from './traces.js';

/** One run of a test or of the demo: its id, and the folder that everything of it lies in. */
export interface RunFolder {
  /** Eight letters and digits that occur nowhere else on the machine. */
  readonly id: string;
  readonly path: string;
  /** The environment for every process of the run: carries the id, keeps temporary files inside the folder. */
  readonly env: NodeJS.ProcessEnv;
}

const PREFIX = 'ferry-';
/** Before a run's id: the file that says whose it is. */
const OWNER = 'ferry-owner-';
/** Of runs, and of single trials: nothing else on a machine is called so. */
const ID = /^(f[a-z0-9]{7}|ferry-trial-[\w-]+-[A-Za-z0-9]{6})$/;

/** Makes the folder of a new run, owned by this process. Runs whose owner is gone are removed first. */
export async function makeRunFolder(): Promise<RunFolder> {
  await removeStaleRuns();
  const letters = 'abcdefghijkmnpqrstuvwxyz23456789';
  const id = `f${Array.from({ length: 7 }, () => letters[randomInt(letters.length)]).join('')}`;
  const path = join(tmpdir(), `${PREFIX}${id}`);
  mkdirSync(join(path, 'tmp'), { recursive: true });
  own(id);
  const env = { ...process.env, [RUN_VARIABLE]: id, TMPDIR: join(path, 'tmp') };
  return { id, path, env };
}

/** Says that everything with `id` in its name is this process's: once it has ended, the next run removes it. */
export function own(id: string): void {
  const owner = { id, pid: process.pid, startTime: startTimeOf(process.pid) };
  writeFileSync(ownerFile(id), JSON.stringify(owner));
}

/** What is left of it is to stay. */
export function disown(id: string): void {
  rmSync(ownerFile(id), { force: true });
}

function ownerFile(id: string): string {
  return join(tmpdir(), OWNER + id);
}

/** Removes everything of the run `id` from this machine, by exact names and numbers, whatever state it is in.
 *  @throws Error naming what would not go. */
export async function removeRun(id: string): Promise<void> {
  await endProcesses(id);
  await removeCgroups(id);
  // Single steps may fail where another process clears up the same run; what counts is what is left.
  for (const path of tracesOf(id).mounts) await tryRun('umount', ['--lazy', path]);
  for (const name of tracesOf(id).namespaces) await tryRun('ip', ['netns', 'delete', name]);
  for (const name of tracesOf(id).links) await tryRun('ip', ['link', 'delete', name]);
  const { mounts, files } = tracesOf(id);
  // Never delete through a mount: below it may be what belongs to others.
  if (mounts.length > 0) throw new Error(`Still mounted: ${mounts.join(', ')}`);
  for (const path of files) await tryRun('rm', ['-rf', '--one-file-system', path]);
  const left = traceLines(tracesOf(id));
  if (left.length > 0) throw new Error(`Could not be removed: ${left.join(', ')}`);
}

async function endProcesses(id: string): Promise<void> {
  for (let round = 0; round < 100; round += 1) {
    const { processes, cgroups } = tracesOf(id);
    if (processes.length === 0) return;
    for (const path of cgroups) thaw(path);
    for (const { pid } of processes) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It ended by itself meanwhile.
      }
    }
    await sleep(50);
  }
  const left = tracesOf(id).processes.map(({ pid, what }) => `${pid} (${what})`);
  throw new Error(`These processes do not end: ${left.join(', ')}`);
}

/** A task in a frozen v1 group cannot even be killed. */
function thaw(cgroup: string): void {
  for (const [file, value] of [
    ['freezer.state', 'THAWED'],
    ['cgroup.freeze', '0'],
  ] as const) {
    try {
      // No O_CREAT: a group of the other kind has no such file.
      writeFileSync(join(cgroup, file), value, { flag: 'r+' });
    } catch {
      // Not there, or gone.
    }
  }
}

async function removeCgroups(id: string): Promise<void> {
  for (let round = 0; round < 40; round += 1) {
    const { cgroups } = tracesOf(id);
    if (cgroups.length === 0) return;
    for (const path of cgroups) {
      try {
        rmdirSync(path);
      } catch {
        // Busy for a moment after its last task ended.
      }
    }
    await sleep(50);
  }
}

/** Removes the runs whose owner ended without doing so (killed, or the machine's power went). */
export async function removeStaleRuns(): Promise<string[]> {
  const removed: string[] = [];
  for (const name of readdirSync(tmpdir()).filter((entry) => entry.startsWith(OWNER))) {
    const owner = readOwner(join(tmpdir(), name));
    if (owner === undefined || startTimeOf(owner.pid) === owner.startTime) continue;
    await removeRun(owner.id);
    removed.push(owner.id);
  }
  return removed;
}

function readOwner(file: string): { id: string; pid: number; startTime: string } | undefined {
  try {
    const owner = JSON.parse(readFileSync(file, 'utf8'));
    return ID.test(owner.id) ? owner : undefined;
  } catch {
    return undefined;
  }
}

/** In clock ticks since boot: with the PID it names one process for ever. Empty when there is none. */
function startTimeOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  } catch {
    return '';
  }
}
