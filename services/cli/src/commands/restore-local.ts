import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { FerryError } from '@ferry/core';
import { readImageFolder } from '@ferry/image';

export interface LocalRestoreOptions {
  readonly detach: boolean;
  readonly json: boolean;
  readonly newPidNamespace: boolean;
  readonly verifyPages: boolean;
}

/** Exit statuses of a dump binary that did not start (restorer.h), with what to do. */
const REFUSALS: Record<number, { code: string; remedy: string }> = {
  65: { code: 'restore.damaged', remedy: 'take the dump from where it was made again' },
  75: {
    code: 'restore.pidTaken',
    remedy: 'end the process that holds it, or restore with --new-pid-namespace',
  },
  97: { code: 'restore.failed', remedy: 'see the step named above; nothing was left running' },
  98: { code: 'restore.failed', remedy: 'see the step named above; nothing was left running' },
};

/** Restores the tree in an image directory by executing its root's dump binary.
 *  @returns the exit status to end with: in the foreground that of the restored root */
export async function restoreFolder(folder: string, options: LocalRestoreOptions): Promise<number> {
  const image = readImageFolder(folder);
  const args = [
    ...(options.detach ? ['--detach'] : []),
    ...(options.newPidNamespace ? ['--new-pid-namespace'] : []),
    ...(options.verifyPages ? [] : ['--no-verify-pages']),
  ];
  const file = join(folder, `${image.rootPid}.dump`);
  if (options.detach) return await restoreDetached(file, args, options);
  return await restoreInForeground(file, args);
}

/** Standard input, output and error stay the caller's: a tree that had those of its starter takes them over. */
async function restoreDetached(
  file: string,
  args: string[],
  options: LocalRestoreOptions,
): Promise<number> {
  const started = performance.now();
  const child = spawn(file, [...args, '--report-fd', '3'], {
    stdio: ['inherit', 'inherit', 'inherit', 'pipe'],
  });
  let report = '';
  child.stdio[3]?.on('data', (chunk: Buffer) => {
    report += chunk.toString();
  });
  const status = await exitStatus(child, file, 'exit');
  await drained(child.stdio[3] as Readable);
  if (status !== 0) throw refusal(status, report);
  const pid = Number(report.trim());
  const restoreMs = Math.round((performance.now() - started) * 1000) / 1000;
  process.stdout.write(options.json ? `${JSON.stringify({ pid, restoreMs })}\n` : `${pid}\n`);
  return 0;
}

/** Waits for the end of a pipe whose writers have ended. */
function drained(stream: Readable): Promise<void> {
  return new Promise((resolve) => {
    if (stream.readableEnded) resolve();
    stream.on('end', resolve).on('error', () => resolve());
    stream.resume();
  });
}

async function restoreInForeground(file: string, args: string[]): Promise<number> {
  const child = spawn(file, args, { stdio: 'inherit' });
  const forwarded: NodeJS.Signals[] = [
    'SIGINT',
    'SIGTERM',
    'SIGHUP',
    'SIGQUIT',
    'SIGUSR1',
    'SIGUSR2',
    'SIGWINCH',
  ];
  for (const signal of forwarded) process.on(signal, () => child.kill(signal));
  return await exitStatus(child, file, 'close');
}

function exitStatus(
  child: ReturnType<typeof spawn>,
  file: string,
  event: 'exit' | 'close',
): Promise<number> {
  return new Promise((resolve, reject) => {
    child.on('error', (cause) => {
      reject(
        new FerryError('restore.start', `${file} cannot be executed`, {
          cause,
          remedy: 'is its file system mounted noexec?',
        }),
      );
    });
    child.on(event, (code: number | null, signal: string | null) => {
      resolve(code ?? 128 + constants.signals[signal as NodeJS.Signals]);
    });
  });
}

function refusal(status: number, complaints: string): FerryError {
  const known = REFUSALS[status];
  const text = complaints.trim().replace(/^ferry: /gm, '');
  return new FerryError(
    known?.code ?? 'restore.failed',
    text || `The dump binary ended with status ${status}`,
    {
      remedy: known?.remedy ?? 'see its message',
    },
  );
}
