import { type ChildProcess, spawn } from 'node:child_process';
import { openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeRunFolder, removeRun } from '../support/run-folder.js';
import { run, until } from '../support/shell.js';
import { compile } from './stop-copy.js';

const RUNS = 20;
const FERRY = fileURLToPath(new URL('../../bin/ferry', import.meta.url));

export interface FreezeRow {
  readonly mappings: number;
  readonly descriptors: number;
  readonly runs: number;
  /** From the first thread stopped to the last let go, as the program itself could notice. */
  readonly median_ms: number;
  readonly p99_ms: number;
  readonly max_ms: number;
}

/** Freezes, captures and thaws a small process again and again. */
export async function freeze(say: (line: string) => void): Promise<FreezeRow[]> {
  const folder = await makeRunFolder();
  let child: ChildProcess | undefined;
  try {
    const program = join(folder.path, 'small');
    await compile('small', program);
    const output = join(folder.path, 'small.out');
    const log = openSync(output, 'w');
    child = spawn(program, { env: folder.env, stdio: ['ignore', log, log] });
    const { pid } = child;
    await until('the program', () =>
      readFileSync(output, 'utf8').startsWith('ready') ? true : undefined,
    );
    const times: number[] = [];
    for (let i = 0; i < RUNS; i += 1) {
      const out = join(folder.path, `dump-${i}`);
      const args = ['dump', '--pid', String(pid), '--out', out, '--leave-running', '--json'];
      const answer = JSON.parse(await run(FERRY, args, { env: folder.env }));
      times.push(Number(answer.frozenMs));
      rmSync(out, { recursive: true });
    }
    const sorted = times.sort((a, b) => a - b);
    say(`frozen for ${sorted.map((time) => time.toFixed(1)).join(' ')} ms`);
    const at = (share: number): number =>
      sorted[Math.ceil(share * sorted.length) - 1] ?? Number.NaN;
    return [
      {
        mappings: readFileSync(`/proc/${pid}/maps`, 'utf8').trimEnd().split('\n').length,
        descriptors: readdirSync(`/proc/${pid}/fd`).length,
        runs: RUNS,
        median_ms: at(0.5),
        p99_ms: at(0.99),
        max_ms: at(1),
      },
    ];
  } finally {
    child?.kill('SIGKILL');
    await removeRun(folder.id);
  }
}
