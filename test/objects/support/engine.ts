import { spawn } from 'node:child_process';
import { appendFileSync, existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ferryRoot } from '@ferry/core';

export interface Outcome {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

const commandTimeoutMs = 30_000;

/** The command that starts Ferry: FERRY_COMMAND (split at blanks), else bin/ferry, else the bundle. */
export function ferryCommand(): string[] {
  const chosen = process.env.FERRY_COMMAND;
  if (chosen !== undefined && chosen !== '') return chosen.split(' ');
  const wrapper = join(ferryRoot(), 'bin/ferry');
  return existsSync(wrapper) ? [wrapper] : [process.execPath, join(ferryRoot(), 'dist/ferry.mjs')];
}

/** Whether there is an engine to test at all. */
export function engineExists(): boolean {
  return existsSync(join(ferryRoot(), 'dist/ferry.mjs')) || process.env.FERRY_COMMAND !== undefined;
}

/** Runs a program to its end and appends its command line to LOG, for those who repeat a failure.
 *  @throws when it cannot be started; a failing status is returned, not thrown */
export function run(command: readonly string[], log: string): Promise<Outcome> {
  const [program = '', ...args] = command;
  appendFileSync(log, `${command.map(quote).join(' ')}\n`);
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      env: { ...process.env, FERRY_TRIAL: dirname(log) },
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: commandTimeoutMs,
      killSignal: 'SIGKILL',
    });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.on('error', reject);
    // A detached tree may hold the pipes open: the end of the program counts, not of its output.
    child.on('exit', (code, signal) => {
      setTimeout(() => {
        child.stdout.destroy();
        child.stderr.destroy();
        appendFileSync(log, `# status ${code ?? signal}\n${comment(stdout + stderr)}`);
        resolve({ code, signal, stdout, stderr });
      }, 5);
    });
  });
}

/** Runs `ferry ARGS`.
 *  @throws with all it printed when it does not exit 0 */
export async function ferry(args: readonly string[], log: string): Promise<Outcome> {
  const outcome = await run([...ferryCommand(), ...args], log);
  if (outcome.code !== 0) throw new Error(describeOutcome(`ferry ${args.join(' ')}`, outcome));
  return outcome;
}

export function describeOutcome(what: string, outcome: Outcome): string {
  const { code, signal, stdout, stderr } = outcome;
  return `${what}: status ${code ?? signal}\n${stdout}${stderr}`;
}

function quote(word: string): string {
  return /^[\w./:=@,+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

function comment(text: string): string {
  return text === '' ? '' : `${text.trimEnd().replaceAll(/^/gm, '# ')}\n`;
}
