// The benchmarks. Usage: npm run bench [-- NAME... --json --runs N …], see docs/benchmarks.md.
// With --json each prints one line, {"bench":NAME,"rows":[…]}.
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { capture } from './capture.js';
import type { BenchResult } from './figures.js';
import { freeze } from './freeze.js';
import { growth } from './growth.js';
import { hotWriter } from './hot-writer.js';
import { idle } from './idle.js';
import { many } from './many.js';
import { pagePath } from './page-path.js';
import { parallel } from './parallel.js';
import { redisLive } from './redis-live.js';
import { shared } from './shared.js';
import { sizeSweep } from './size-sweep.js';
import { stopCopy } from './stop-copy.js';
import { throughput } from './throughput.js';

const { values, positionals } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    /** Of `capture`: only what has this in its name. */
    case: { type: 'string' },
    /** Sizes, in MiB, in place of a benchmark's own. */
    mib: { type: 'string' },
    /** Writes a second, of Redis. */
    rate: { type: 'string', default: '10000' },
    runs: { type: 'string' },
  },
  allowPositionals: true,
});
type Say = (line: string) => void;
const mib = values.mib?.split(',').map(Number);
const runs = (usual: number): number => Number(values.runs ?? usual);
const writesPerSecond = Number(values.rate);

const benches: Record<string, (say: Say) => Promise<BenchResult>> = {
  'redis-live': (say) =>
    redisLive(
      {
        ...{ mib: mib?.[0] ?? 700, writesPerSecond, connections: 50 },
        ...{ runs: runs(20), stopCopyRuns: Math.min(10, runs(10)) },
      },
      say,
    ),
  'size-sweep': (say) =>
    sizeSweep({ sizesMib: mib ?? [100, 700, 4096, 12_288], runs: runs(10) }, say),
  idle: (say) => idle({ runs: runs(20) }, say),
  'hot-writer': (say) =>
    hotWriter({ mib: mib?.[0] ?? 1024, mibPerSecond: 100, runs: runs(10) }, say),
  shared: (say) => shared({ sizesMib: mib ?? [100, 700], runs: runs(10) }, say),
  throughput: (say) => throughput({ mib: mib?.[0] ?? 700, runs: runs(10), writesPerSecond }, say),
  'page-path': (say) => pagePath({ mib: mib?.[0] ?? 4096, runs: runs(10) }, say),
  many: (say) => many({ runs: runs(10) }, say),
  parallel: (say) => parallel({ runs: runs(10) }, say),
  'stop-copy': async (say) => ({
    rows: await stopCopy(mib ?? [64, 1024, 4096], say, { tls: false, runs: runs(10) }),
    goals: [],
  }),
  // What encryption costs: one size tells.
  'stop-copy-tls': async (say) => ({
    rows: await stopCopy([1024], say, { tls: true, runs: runs(10) }),
    goals: [],
  }),
  freeze: async (say) => ({ rows: await freeze(say), goals: [] }),
  capture: async (say) => ({
    rows: await capture({ runs: runs(100), only: values.case }, say),
    goals: [],
  }),
  growth: async (say) => await growth(say),
};
const unknown = positionals.filter((name) => !(name in benches));
if (unknown.length > 0) {
  console.error(`There is no benchmark ${unknown.join(', ')}. There are: ${Object.keys(benches)}`);
  process.exit(2);
}
const chosen = positionals.length > 0 ? positionals : Object.keys(benches);
const say: Say = (line) => console.error(`  ${line}`);

const machine = { cpus: cpus().length, model: cpus()[0]?.model, node: process.version };
for (const name of chosen) {
  console.error(`${name}:`);
  const { rows, goals } = await benches[name]!(say);
  for (const { goal, measured, reached } of goals) {
    say(`${reached ? 'reached' : 'NOT reached'}: ${goal} (${Math.round(measured * 100) / 100})`);
  }
  if (values.json) console.log(JSON.stringify({ bench: name, rows, goals, machine }));
  else console.table(rows.map(rounded));
}

/** Numbers for people: one decimal; several of them side by side. */
function rounded(row: object): Record<string, unknown> {
  const text = (value: unknown): unknown =>
    typeof value === 'number' ? Math.round(value * 10) / 10 : value;
  return Object.fromEntries(
    Object.entries(row)
      .filter(([key]) => key !== 'parts_ms')
      .map(([key, value]) => [
        key,
        typeof value === 'object' && value !== null
          ? Object.values(value).map(text).join(' / ')
          : text(value),
      ]),
  );
}
