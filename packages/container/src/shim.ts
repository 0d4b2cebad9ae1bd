import { spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  fchownSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
} from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { FerryError, ferryRoot } from '@ferry/core';
import { call, SYSCALL } from '@ferry/linux';
import { z } from 'zod';
import { readLogFile } from './log.js';
import { runtimeText } from './runc.js';

/** The process beside each container that keeps its log and reaps it: native/shim.c. */

const FIONREAD = 0x541b;
const FLUSH_POLL_MS = 1;
const FLUSH_TIMEOUT_MS = 5000;

/** Which process it is: a PID alone may have been given to another since. */
export const processRefSchema = z.strictObject({ pid: z.number(), startTime: z.string() });
export type ProcessRef = z.output<typeof processRefSchema>;

export const shimSchema = z.strictObject({
  process: processRefSchema,
  /** Inodes of the pipes that are the container's stdout and stderr (`pipe:[N]`), decimal. */
  stdoutInode: z.string(),
  stderrInode: z.string(),
});
export type Shim = z.output<typeof shimSchema>;

export const exitSchema = z.strictObject({
  status: z.number().optional(),
  /** The signal's number. */
  signal: z.number().optional(),
  time: z.string(),
});
export type ExitRecord = z.output<typeof exitSchema>;

export interface ShimPlaces {
  readonly log: string;
  readonly exit: string;
  readonly pidFile: string;
  readonly runtimeLog: string;
}

/** Runs the runtime's `create` below a new shim.
 *  @param fds  descriptors of this process that become 3, 4, … of the container's first process
 *  @returns the shim, and the host PID of the container's first process
 *  @throws FerryError container.runtime with the runtime's own words; the shim has ended then */
export async function createWithShim(
  places: ShimPlaces,
  command: readonly string[],
  options: { fds: readonly number[]; signal?: AbortSignal | undefined },
): Promise<{ shim: Shim; pid: number }> {
  const { fds, signal } = options;
  signal?.throwIfAborted();
  for (const path of [places.exit, places.pidFile, places.runtimeLog])
    await rm(path, { force: true });
  const args = [places.log, places.exit, places.pidFile, String(fds.length), ...command];
  const child = spawn(join(ferryRoot(), 'packages', 'container', 'build', 'ferry-shim'), args, {
    stdio: ['ignore', 'pipe', 'pipe', ...fds],
    detached: true,
  });
  // Its process group: the runtime's `create` as well.
  const abort = () => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
    } catch {
      // It has ended by itself.
    }
  };
  signal?.addEventListener('abort', abort, { once: true });
  try {
    const said = await firstWords(child);
    signal?.throwIfAborted();
    const pipes = /^pipes (\d+) (\d+)$/m.exec(said.stdout);
    const status = Number(/^exit (\d+)$/m.exec(said.stdout)?.[1] ?? -1);
    if (
      status !== 0 ||
      pipes?.[1] === undefined ||
      pipes[2] === undefined ||
      child.pid === undefined
    ) {
      throw createFailed(await reasonOf(places, said.stderr));
    }
    const pid = Number(await readFile(places.pidFile, 'utf8'));
    // Killed from here on, it is not the runtime that failed.
    signal?.throwIfAborted();
    const shimProcess = processRef(child.pid);
    if (shimProcess === undefined) throw createFailed('the shim ended');
    return { shim: { process: shimProcess, stdoutInode: pipes[1], stderrInode: pipes[2] }, pid };
  } finally {
    signal?.removeEventListener('abort', abort);
    child.stdout?.destroy();
    child.stderr?.destroy();
    child.unref();
  }
}

/** What the shim says until it closes its stdout: then `create` has ended, one way or the other. */
async function firstWords(
  child: ReturnType<typeof spawn>,
): Promise<{ stdout: string; stderr: string }> {
  return await new Promise((resolve, reject) => {
    let stdout = '';
    let stderr = '';
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.stdout?.once('close', () => resolve({ stdout, stderr }));
    child.once('error', (cause) =>
      reject(
        new FerryError('setup.shim', 'The container shim could not be started', {
          cause,
          remedy: 'run "npm run build"',
        }),
      ),
    );
  });
}

/** The runtime's own log, else what it wrote to stderr, which is the container's, else the shim's
 *  words. */
async function reasonOf(places: ShimPlaces, shimText: string): Promise<string> {
  const runtimeLog = await readFile(places.runtimeLog, 'utf8').catch(() => '');
  if (runtimeLog.trim() !== '') return runtimeLog;
  const lines: string[] = [];
  for await (const { stream, line } of readLogFile(places.log, { tail: 10 })) {
    if (stream === 'stderr') lines.push(line);
  }
  return lines.length === 0 ? shimText : lines.join('\n');
}

function createFailed(text: string): FerryError {
  return new FerryError(
    'container.runtime',
    `The runtime could not create it: ${runtimeText(text)}`,
  );
}

/** Waits until every byte that the container has written is in the log file. The container must be
 *  frozen (or ended): the shim keeps nothing in memory, so with empty pipes and the shim asleep in
 *  poll(2), all is written.
 *  @throws FerryError container.log after five seconds */
export async function flushShim(shim: Shim, options: { signal?: AbortSignal | undefined } = {}) {
  const { pid } = shim.process;
  const pipes = [...openPipes(shim)];
  try {
    for (let waitedMs = 0; waitedMs < FLUSH_TIMEOUT_MS; waitedMs += FLUSH_POLL_MS) {
      options.signal?.throwIfAborted();
      if (!isAlive(shim.process)) return;
      // In this order: nobody fills the pipes, so once they are empty only the shim's last write is
      // open.
      if (pipes.every(isEmpty) && inPoll(pid)) return;
      await sleep(FLUSH_POLL_MS);
    }
  } finally {
    for (const fd of pipes) closeSync(fd);
  }
  throw new FerryError('container.log', `The log process ${pid} did not take in all output`, {
    remedy: 'check that the state folder has free space',
  });
}

/** Lets a container open its own output anew (/dev/stdout), whose root is somebody else than who made the pipes. */
export function giveOutput(shim: Shim, { uid, gid }: { uid: number; gid: number }): void {
  for (const fd of openPipes(shim)) {
    try {
      fchownSync(fd, uid, gid);
    } finally {
      closeSync(fd);
    }
  }
}

/** The shim's own read ends, found by inode among its descriptors. */
function* openPipes(shim: Shim): Generator<number> {
  const { pid } = shim.process;
  const folder = `/proc/${pid}/fd`;
  for (const name of existsSync(folder) ? readdirSync(folder) : []) {
    const path = `${folder}/${name}`;
    const inode = pipeInode(path);
    if (inode !== shim.stdoutInode && inode !== shim.stderrInode) continue;
    try {
      yield openSync(path, 'r');
    } catch {
      // It has just closed it: the stream has ended.
    }
  }
}

function pipeInode(path: string): string | undefined {
  try {
    return /^pipe:\[(\d+)\]$/.exec(readlinkSync(path))?.[1];
  } catch {
    return undefined;
  }
}

function isEmpty(fd: number): boolean {
  const count = Buffer.alloc(4);
  call('ioctl', fd, FIONREAD, count);
  return count.readInt32LE() === 0;
}

/** /proc/PID/syscall starts with the number of the system call that the process sleeps in;
 *  proc(5). */
function inPoll(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/syscall`, 'utf8').startsWith(`${SYSCALL.poll} `);
  } catch {
    return false;
  }
}

/** What identifies a running process: its PID and when it started (clock ticks since boot, proc(5),
 *  field 22). */
export function processRef(pid: number): ProcessRef | undefined {
  const startTime = startTimeOf(pid);
  return startTime === undefined ? undefined : { pid, startTime };
}

/** Whether it is that very process, and not a zombie. */
export function isAlive(process: ProcessRef): boolean {
  return startTimeOf(process.pid) === process.startTime;
}

function startTimeOf(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The command in parentheses may hold anything, blanks and parentheses too.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
  } catch {
    return undefined;
  }
}
