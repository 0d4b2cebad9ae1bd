import { spawn } from 'node:child_process';
import { bundled } from '../../../controller/test/support/bundle.js';
import { main } from '../../src/program.js';

export interface Finished {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

let bundle: Promise<string> | undefined;

/** Runs the command line as a program of its own. `interruptAt`: gets SIGINT once its output
 *  matches. */
export async function ferry(
  args: readonly string[],
  options: { controller?: string; interruptAt?: RegExp } = {},
): Promise<Finished> {
  bundle ??= bundled('services/cli');
  const file = await bundle;
  const env = { ...process.env, FERRY_CONTROLLER: options.controller ?? '127.0.0.1:1' };
  const child = spawn(process.execPath, [file, ...args], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (data) => {
    stdout += data;
    interrupt();
  });
  child.stderr.on('data', (data) => {
    stderr += data;
    interrupt();
  });
  let interrupted = false;
  const interrupt = () => {
    if (interrupted || !options.interruptAt?.test(stdout + stderr)) return;
    interrupted = true;
    child.kill('SIGINT');
  };
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  return { status, stdout, stderr };
}

/** Runs the command line inside this process, one at a time: what a process of its own would do,
 *  much sooner. */
export async function ferryHere(args: readonly string[], controller: string): Promise<Finished> {
  const streams = [process.stdout, process.stderr] as const;
  const texts = ['', ''];
  const originals = streams.map((stream) => stream.write);
  const before = process.env.FERRY_CONTROLLER;
  process.env.FERRY_CONTROLLER = controller;
  for (const [index, stream] of streams.entries()) {
    stream.write = (part: string | Uint8Array) => {
      texts[index] += typeof part === 'string' ? part : Buffer.from(part).toString();
      return true;
    };
  }
  try {
    const status = await main(args);
    return { status, stdout: texts[0] ?? '', stderr: texts[1] ?? '' };
  } finally {
    for (const [index, stream] of streams.entries()) stream.write = originals[index]!;
    if (before === undefined) delete process.env.FERRY_CONTROLLER;
    else process.env.FERRY_CONTROLLER = before;
  }
}
