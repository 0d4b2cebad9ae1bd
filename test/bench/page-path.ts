import { type ChildProcess, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SegmentTable } from '@ferry/pages';
import { compare } from './compare.js';
import {
  atLeast,
  atMost,
  type BenchResult,
  type Figures,
  figuresOf,
  type LiveRow,
} from './figures.js';
import { compile } from './memory-program.js';
import type { EndFigures, PullOrder } from './page-path-end.js';

import { betweenHosts, startLoad } from './subjects.js';

const MIB = 1024 * 1024;
/** For comparison alone. */
const STOP_COPY_RUNS = 3;
const BARE_MESSAGES_KIB = [256, 1024] as const;
const BARE_BYTES = 1024 * MIB;

export interface PagePathRow {
  readonly case: string;
  readonly mode: string;
  readonly runs: number;
  /** Nothing stands here but in the first row. */
  readonly freeze_ms: Figures;
  readonly client_stall_ms: Figures;
  readonly total_ms: Figures;
  /** Medians. */
  readonly raw_mib_s: number;
  readonly wire_mib_s: number;
  readonly errors: number;
}

/** Medians of all runs, the most of any run for memory and delays. */
export interface PagePathFigures {
  readonly source_cpu_s: number;
  readonly destination_cpu_s: number;
  readonly source_agent_mib: number;
  readonly destination_agent_mib: number;
  /** The longest that the event loop of either end was late, and 99 of 100 looks. */
  readonly loop_delay_ms_max: number;
  readonly loop_delay_ms_p99: number;
}

interface Run extends PagePathFigures {
  readonly ms: number;
  readonly raw: number;
  readonly wire: number;
}

/** Scan, read, LZ4, gRPC, LZ4, write: from one process into another, each end in a process as its agent is, beside what
 *  gRPC alone carries between them in the same run, and a whole stop-and-copy migration of as much. */
export async function pagePath(
  { mib, runs }: { mib: number; runs: number },
  say: (line: string) => void,
): Promise<BenchResult> {
  const rows: (PagePathRow & Partial<PagePathFigures>)[] = [];
  rows.push(await wholeMigration(mib, Math.min(runs, STOP_COPY_RUNS), say));
  const bare = new Map<number, Run[]>(BARE_MESSAGES_KIB.map((kib) => [kib, []]));
  const paths: Run[] = [];
  for (let i = 0; i < runs; i += 1) {
    for (const [kib, made] of bare) {
      const order = { table: '', messageBytes: kib * 1024, totalBytes: BARE_BYTES };
      made.push(await withChildren((children) => measure(order, children)));
    }
    paths.push(await onePath(mib));
    const rates = [...bare].map(([kib, made]) => `${kib} KiB ${made.at(-1)!.raw.toFixed(0)}`);
    say(`${i + 1}/${runs} bare ${rates.join(', ')}; pages ${paths.at(-1)!.raw.toFixed(0)} MiB/s`);
  }
  for (const [kib, made] of bare) rows.push(rowOf(`bare gRPC, ${kib} KiB`, 'bare', made));
  const pages = rowOf(`pages, ${mib} MiB`, 'pages', paths);
  rows.push(pages);
  const shares = paths.map(
    ({ raw }, i) => raw / Math.max(...[...bare.values()].map((made) => made[i]!.raw)),
  );
  const goals = [
    atLeast('raw >= 75 % of the fastest bare stream, median', figuresOf(shares).median, 0.75),
    atMost('source resident <= 300 MiB', pages.source_agent_mib, 300),
    atMost('destination resident <= 300 MiB', pages.destination_agent_mib, 300),
    atMost('event loop never late by more than 5 ms', pages.loop_delay_ms_max, 5),
  ];
  return { rows, goals };
}

async function wholeMigration(
  mib: number,
  runs: number,
  say: (line: string) => void,
): Promise<LiveRow> {
  return betweenHosts(say, async (place) => {
    const running = await startLoad(place, 'load', { mib });
    const ways = [{ wishes: { mode: 'stop-copy' }, runs }];
    return (await compare(running, `migration of ${mib} MiB`, ways, say))[0]!;
  });
}

async function withChildren<T>(body: (children: ChildProcess[]) => Promise<T>): Promise<T> {
  const children: ChildProcess[] = [];
  try {
    return await body(children);
  } finally {
    for (const child of children) child.kill('SIGKILL');
  }
}

async function onePath(mib: number): Promise<Run> {
  const folder = mkdtempSync(join(tmpdir(), 'ferry-bench-'));
  try {
    return await withChildren(async (children) => {
      const from = await program('memory', mib, { folder, children, says: 'ready' });
      const to = await program('room', mib, { folder, children, says: '0x' });
      const pages = (mib * MIB) / 4096;
      const segment = {
        ...{ hostPid: from.pid, address: largest(from.pid, mib) },
        ...{ pid: to.pid, targetAddress: BigInt(to.line), pages },
      };
      const table = SegmentTable.from([segment]).encode().toString('base64');
      return await measure({ table, messageBytes: 0, totalBytes: 0 }, children);
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function rowOf(name: string, mode: string, made: readonly Run[]): PagePathRow & PagePathFigures {
  const of = (field: keyof Run): Figures => figuresOf(made.map((run) => run[field]));
  const none = figuresOf([]);
  return {
    ...{ case: name, mode, runs: made.length, freeze_ms: none, client_stall_ms: none },
    total_ms: of('ms'),
    raw_mib_s: of('raw').median,
    wire_mib_s: of('wire').median,
    errors: 0,
    source_cpu_s: of('source_cpu_s').median,
    destination_cpu_s: of('destination_cpu_s').median,
    source_agent_mib: of('source_agent_mib').max,
    destination_agent_mib: of('destination_agent_mib').max,
    loop_delay_ms_max: of('loop_delay_ms_max').max,
    loop_delay_ms_p99: of('loop_delay_ms_p99').median,
  };
}

async function program(
  name: string,
  mib: number,
  options: { folder: string; children: ChildProcess[]; says: string },
): Promise<{ pid: number; line: string }> {
  const binary = join(options.folder, name);
  await compile(name, binary);
  const child = spawn(binary, [String(mib)], { stdio: ['ignore', 'pipe', 'inherit'] });
  options.children.push(child);
  const [data] = (await once(child.stdout, 'data')) as [Buffer];
  const line = data.toString().trim();
  if (!line.startsWith(options.says)) throw new Error(`${name} said "${line}"`);
  return { pid: child.pid ?? 0, line };
}

/** Where the mapping of `mib` MiB, or the one that the kernel joined it with, ends with that size. */
function largest(pid: number, mib: number): bigint {
  for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
    const [start = 0n, end = 0n] = (line.split(' ')[0] ?? '')
      .split('-')
      .map((text) => BigInt(`0x${text || '0'}`));
    if (end - start >= BigInt(mib * MIB)) return start;
  }
  throw new Error(`Process ${pid} has no mapping of ${mib} MiB`);
}

function end(role: string, children: ChildProcess[]): ChildProcess {
  const script = new URL('./page-path-end.ts', import.meta.url).pathname;
  const child = fork(script, [role], { execArgv: ['--import', 'tsx'] });
  children.push(child);
  return child;
}

/** The next message of `child`, which must not end before. */
async function said(child: ChildProcess): Promise<unknown[]> {
  const ended = once(child, 'exit').then(([status]) => {
    throw new Error(`One end of the page path ended with ${status}`);
  });
  return await Promise.race([once(child, 'message'), ended]);
}

async function measure(order: Omit<PullOrder, 'address'>, children: ChildProcess[]): Promise<Run> {
  const source = end('serve', children);
  const [{ port }] = (await said(source)) as [{ port: number }];
  const destination = end('pull', children);
  destination.send({ ...order, address: `127.0.0.1:${port}` });
  const [there] = (await said(destination)) as [EndFigures];
  source.send('report');
  const [here] = (await said(source)) as [EndFigures];
  source.kill('SIGKILL');
  await once(source, 'exit');
  return {
    ms: there.seconds * 1000,
    raw: there.raw / MIB / there.seconds,
    wire: there.wire / MIB / there.seconds,
    source_cpu_s: here.cpuSeconds,
    destination_cpu_s: there.cpuSeconds,
    source_agent_mib: here.residentBytesMax / MIB,
    destination_agent_mib: there.residentBytesMax / MIB,
    loop_delay_ms_max: Math.max(here.loopDelayMsMax, there.loopDelayMsMax),
    loop_delay_ms_p99: Math.max(here.loopDelayMsP99, there.loopDelayMsP99),
  };
}
