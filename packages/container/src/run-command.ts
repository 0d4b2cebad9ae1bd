import { spawn } from 'node:child_process';
import { FerryError } from '@ferry/core';

/** How a command ended and what it wrote. */
export interface CommandResult {
  readonly status: number;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
}

export interface CommandOptions {
  readonly signal?: AbortSignal | undefined;
  /** Written to its stdin, which is /dev/null otherwise. */
  readonly input?: string | Buffer | undefined;
  readonly env?: NodeJS.ProcessEnv;
}

/** Runs a program to its end and returns whatever its status is.
 *  @throws FerryError container.command when it cannot be started; the abort reason when aborted
 *    (it is killed) */
export async function runCommand(
  file: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const { signal, input, env } = options;
  signal?.throwIfAborted();
  const child = spawn(file, [...args], {
    stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    ...(env === undefined ? {} : { env }),
  });
  const abort = () => child.kill('SIGKILL');
  signal?.addEventListener('abort', abort, { once: true });
  try {
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    child.stdout?.on('data', (chunk: Buffer) => stdout.push(chunk));
    child.stderr?.on('data', (chunk: Buffer) => stderr.push(chunk));
    // It may end without reading its input.
    child.stdin?.on('error', () => undefined);
    child.stdin?.end(input);
    const status = await new Promise<number>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code) => resolve(code ?? 128));
    });
    signal?.throwIfAborted();
    return { status, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr) };
  } catch (cause) {
    signal?.throwIfAborted();
    throw new FerryError('container.command', `${file} could not be started`, {
      cause,
      remedy: `install ${file}, or put it on the PATH`,
    });
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}

/** Runs a program that must succeed.
 *  @throws FerryError container.command with what it wrote to stderr */
export async function mustRun(
  file: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const result = await runCommand(file, args, options);
  if (result.status === 0) return result;
  const said = result.stderr.toString('utf8').trim() || result.stdout.toString('utf8').trim();
  throw new FerryError(
    'container.command',
    `${file} ${args.slice(0, 6).join(' ')} failed with status ${result.status}: ${said}`,
  );
}
