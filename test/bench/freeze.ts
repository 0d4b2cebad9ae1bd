import { type ChildProcess, spawn } from 'node:child_process';
import { openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeRunFolder, removeRun } from '../support/run-folder.js';
import { run, until } from '../support/shell.js';
import { compile } from './memory-program.js';

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
  /** Medians of the parts: stopping all threads, reading their state, writing the dump binaries. */
  readonly stop_ms: number;
  readonly capture_ms: number;
  readonly write_ms: number;
}

/** What `ferry dump --json` tells of its times. */
interface Report {
  readonly frozenMs: number;
  readonly freezeMs: number;
  readonly captureMs: number;
  readonly writeMs: number;
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
    const reports: Report[] = [];
    for (let i = 0; i < RUNS; i += 1) {
      const out = join(folder.path, `dump-${i}`);
      const args = ['dump', '--pid', String(pid), '--out', out, '--leave-running', '--json'];
      reports.push(JSON.parse(await run(FERRY, args, { env: folder.env })));
      rmSync(out, { recursive: true });
    }
    const at = (share: number, part: keyof Report): number => {
      const sorted = reports.map((report) => report[part]).sort((a, b) => a - b);
      return sorted[Math.ceil(share * sorted.length) - 1] ?? Number.NaN;
    };
    say(`frozen for ${reports.map(({ frozenMs }) => frozenMs.toFixed(1)).join(' ')} ms`);
    return [
      {
        mappings: readFileSync(`/proc/${pid}/maps`, 'utf8').trimEnd().split('\n').length,
        descriptors: readdirSync(`/proc/${pid}/fd`).length,
        runs: RUNS,
        median_ms: at(0.5, 'frozenMs'),
        p99_ms: at(0.99, 'frozenMs'),
        max_ms: at(1, 'frozenMs'),
        stop_ms: at(0.5, 'freezeMs'),
        capture_ms: at(0.5, 'captureMs'),
        write_ms: at(0.5, 'writeMs'),
      },
    ];
  } finally {
    child?.kill('SIGKILL');
    await removeRun(folder.id);
  }
}
