import { type ChildProcess, execFile, type SpawnOptions, spawn } from 'node:child_process';
import { openSync } from 'node:fs';

/** What a program that was run to its end left behind. */
export interface Finished {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly input?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** Milliseconds after which the program is killed and the call fails. */
  readonly timeoutMs?: number;
}

/** Runs a program to its end; its exit status is part of the answer, not a failure. */
export function tryRun(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<Finished> {
  return new Promise((resolve, reject) => {
    const { input, timeoutMs = 60_000, ...rest } = options;
    const settings = { ...rest, timeout: timeoutMs, maxBuffer: 64 << 20 };
    const child = execFile(program, [...args], settings, (error, stdout, stderr) => {
      if (error?.killed === true || typeof error?.code === 'string') {
        const text = `${program} ${args.join(' ')} did not run to its end: ${error.message}\n${stderr}`;
        reject(new Error(text));
        return;
      }
      const status = error === null ? 0 : (error.code ?? 128);
      resolve({ status, stdout, stderr });
    });
    child.stdin?.on('error', () => undefined);
    child.stdin?.end(input ?? '');
  });
}

/** Runs a program that must end well; gives its standard output.
 *  @throws Error with what it printed on its standard error. */
export async function run(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<string> {
  const { status, stdout, stderr } = await tryRun(program, args, options);
  if (status !== 0) {
    throw new Error(`${program} ${args.join(' ')} ended with ${status}: ${stderr || stdout}`);
  }
  return stdout;
}

/** Starts a program whose output goes to the end of `logFile`. */
export function startLogged(
  argv: readonly string[],
  logFile: string,
  options: SpawnOptions = {},
): ChildProcess {
  const log = openSync(logFile, 'a');
  const [program, ...args] = argv;
  if (program === undefined) throw new Error('No program given');
  return spawn(program, args, { ...options, stdio: ['ignore', log, log] });
}

/** Asks again until `probe` gives something, or fails after `timeoutMs` saying what was waited for. */
export async function until<T>(
  what: string,
  probe: () => T | undefined | Promise<T | undefined>,
  { timeoutMs = 15_000, everyMs = 50 } = {},
): Promise<T> {
  const end = performance.now() + timeoutMs;
  let last: unknown;
  for (;;) {
    try {
      const value = await probe();
      if (value !== undefined) return value;
    } catch (error) {
      last = error;
    }
    if (performance.now() > end) {
      throw new Error(`Waited ${timeoutMs} ms in vain for ${what}`, { cause: last });
    }
    await sleep(everyMs);
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
