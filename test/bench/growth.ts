import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { openSync, readFileSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeRunFolder, type RunFolder, removeRun } from '../support/run-folder.js';
import { run, until } from '../support/shell.js';
import { atMost, type Goal } from './figures.js';
import { compile } from './memory-program.js';

const RUNS = 5;
const FERRY = fileURLToPath(new URL('../../bin/ferry', import.meta.url));
/** What a capture's time may grow with: a quarter, a half, all of what is tried. The cost of one more must stay as it is. */
const SIZES = {
  processes: [250, 500, 1000],
  threads: [250, 500, 1000],
  descriptors: [2500, 5000, 10_000],
  connections: [250, 500, 1000],
  mappings: [2500, 5000, 10_000],
} as const;

export interface GrowthRow {
  readonly kind: string;
  readonly count: number;
  readonly runs: number;
  /** Medians. Stopping every thread; reading the state; both, for one object more. */
  readonly stop_ms: number;
  readonly capture_ms: number;
  readonly frozen_ms: number;
  readonly us_each: number;
}

interface Report {
  readonly freezeMs: number;
  readonly captureMs: number;
  readonly frozenMs: number;
}

/** What stopping and capturing all of them may take. */
const FROZEN_MS_MAX: Partial<Record<keyof typeof SIZES, number>> = {
  threads: 100,
  descriptors: 300,
  connections: 100,
};
/** What one costs among all of them, to what it costs among a quarter: 1 is linear. What does not grow at all makes it
 *  less. */
const STEEPER_MAX = 1.5;

/** How the time of a freeze grows with the number of objects: `ferry dump --leave-running` of a program with so many. */
export async function growth(
  say: (line: string) => void,
): Promise<{ rows: GrowthRow[]; goals: Goal[] }> {
  const folder = await makeRunFolder();
  try {
    const program = join(folder.path, 'many');
    await compile('many', program);
    const rows: GrowthRow[] = [];
    for (const [kind, counts] of Object.entries(SIZES)) {
      for (const count of counts) {
        say(`${count} ${kind}`);
        rows.push(await measure(folder, program, kind, count));
      }
    }
    return { rows, goals: goalsOf(rows) };
  } finally {
    await removeRun(folder.id);
  }
}

function goalsOf(rows: readonly GrowthRow[]): Goal[] {
  return Object.entries(FROZEN_MS_MAX)
    .flatMap(([kind, bound]) => {
      const row = rows.findLast((each) => each.kind === kind);
      if (row === undefined) return [];
      return [atMost(`${row.count} ${kind} <= ${bound} ms`, row.stop_ms + row.capture_ms, bound)];
    })
    .concat(
      Object.keys(SIZES).flatMap((kind) => {
        const curve = rows.filter((row) => row.kind === kind);
        const [first, last] = [curve[0], curve.at(-1)];
        if (first === undefined || last === undefined) return [];
        const steeper = last.us_each / first.us_each;
        return [
          atMost(`one of all ${kind} to one of a quarter <= ${STEEPER_MAX}`, steeper, STEEPER_MAX),
        ];
      }),
    );
}

async function measure(
  folder: RunFolder,
  program: string,
  kind: string,
  count: number,
): Promise<GrowthRow> {
  const output = join(folder.path, `${kind}-${count}.out`);
  const log = openSync(output, 'w');
  const child = spawn(program, [kind, String(count)], {
    env: folder.env,
    stdio: ['ignore', log, log],
    detached: true,
  });
  const clients: Socket[] = [];
  try {
    if (kind === 'connections') clients.push(...(await clientsOf(output, count)));
    await until('the program', () =>
      /^ready$/m.test(readFileSync(output, 'utf8')) ? true : undefined,
    );
    const reports: Report[] = [];
    for (let i = 0; i < RUNS; i += 1) reports.push(await dump(folder, child));
    const median = (part: keyof Report): number =>
      reports.map((report) => report[part]).sort((a, b) => a - b)[RUNS >> 1] ?? Number.NaN;
    return {
      kind,
      count,
      runs: RUNS,
      stop_ms: median('freezeMs'),
      capture_ms: median('captureMs'),
      frozen_ms: median('frozenMs'),
      us_each: ((median('freezeMs') + median('captureMs')) * 1000) / count,
    };
  } finally {
    for (const client of clients) client.destroy();
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
  }
}

async function dump(folder: RunFolder, child: ChildProcess): Promise<Report> {
  const out = join(folder.path, 'dump');
  const args = ['dump', '--pid', String(child.pid), '--out', out, '--leave-running', '--json'];
  const report: Report = JSON.parse(await run(FERRY, args, { env: folder.env }));
  rmSync(out, { recursive: true });
  return report;
}

/** Connects `count` clients to the port that the program tells. */
async function clientsOf(output: string, count: number): Promise<Socket[]> {
  const port = await until(
    'the port',
    () => /^port (\d+)$/m.exec(readFileSync(output, 'utf8'))?.[1],
  );
  const clients: Socket[] = [];
  for (let i = 0; i < count; i += 1) {
    const client = connect(Number(port), '127.0.0.1');
    await once(client, 'connect');
    clients.push(client);
  }
  return clients;
}
