import { type ChildProcess, spawn } from 'node:child_process';
import * as actions from '../support/actions.js';
import type { ClientMachine } from '../support/client-machine.js';
import { sleep } from '../support/shell.js';
import { atLeast, type BenchResult, figuresOf, type LiveRow } from './figures.js';
import { type Move, move, moveText, rowOf } from './moves.js';
import {
  betweenHosts,
  keysOf,
  type Place,
  startFilledRedis,
  startRedis,
  VALUE_BYTES,
} from './subjects.js';

const CONNECTIONS = 50;
const BEFORE_MS = 3000;
const SAMPLE_MS = 25;
/** A stop-and-copy has no time before its freeze in which there were something to measure. */
const STOP_COPY_RUNS = 3;
const GOAL = 0.85;

interface Sample {
  readonly at: number;
  /** Commands that Redis has processed. */
  readonly commands: number;
}

type ThroughputRow = LiveRow & {
  /** Commands a second before the migration, and from its beginning to the freeze: medians. */
  readonly before_per_s: number;
  readonly during_per_s: number;
  readonly ratio: number;
};

/** What Redis does for its clients while its memory is copied, beside what it did before: with clients that ask as fast as
 *  they get answers, and with a steady rate. */
export async function throughput(
  { mib, runs, writesPerSecond }: { mib: number; runs: number; writesPerSecond: number },
  say: (line: string) => void,
): Promise<BenchResult> {
  return betweenHosts(say, async (place) => {
    const rows: ThroughputRow[] = [];
    rows.push(...(await steady(place, { mib, runs, writesPerSecond }, say)));
    rows.push(...(await saturated(place, { mib, runs }, say)));
    const goals = rows
      .filter(({ mode }) => mode !== 'stop-copy')
      .map((row) => atLeast(`${row.case}: >= 85 % of the throughput before`, row.ratio, GOAL));
    return { rows, goals };
  });
}

async function steady(
  place: Place,
  { mib, runs, writesPerSecond }: { mib: number; runs: number; writesPerSecond: number },
  say: (line: string) => void,
): Promise<ThroughputRow[]> {
  const load = { mib, writesPerSecond, connections: CONNECTIONS };
  const redis = await startRedis(place, 'steady', load, say);
  const name = `${mib} MiB, ${writesPerSecond} writes/s asked for`;
  const address = await addressOf(place, 'steady');
  const rows = await bothModes({ ...redis, address, case: name }, runs, say);
  const errors = await redis.stop();
  return rows.map((row) => ({ ...row, errors }));
}

async function saturated(
  place: Place,
  { mib, runs }: { mib: number; runs: number },
  say: (line: string) => void,
): Promise<ThroughputRow[]> {
  const { cluster } = place;
  const name = 'saturated';
  const address = await startFilledRedis(place, name, mib);
  const [program = '', ...args] = [
    ...cluster.network.on('client'),
    ...['redis-benchmark', '-h', address, '-p', String(actions.REDIS_PORT), '-q', '-l'],
    ...['-t', 'set', '-c', String(CONNECTIONS), '-r', String(keysOf(mib))],
    ...['-d', String(VALUE_BYTES)],
  ];
  const clients = spawn(program, args, { env: cluster.folder.env, stdio: 'ignore' });
  try {
    const text = `${mib} MiB, ${CONNECTIONS} clients as fast as they can`;
    const rows = await bothModes({ ...place, name, address, case: text }, runs, say);
    const errors = hasEnded(clients) ? 1 : 0;
    return rows.map((row) => ({ ...row, errors }));
  } finally {
    clients.kill('SIGKILL');
    await cluster.ferryJson(['stop', name]);
  }
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

async function addressOf({ cluster }: Place, name: string): Promise<string> {
  return (await actions.containerNamed(cluster, name)).address.split('/')[0] ?? '';
}

interface Watched extends Place {
  readonly name: string;
  readonly address: string;
  readonly case: string;
}

async function bothModes(
  watched: Watched,
  runs: number,
  say: (line: string) => void,
): Promise<ThroughputRow[]> {
  const rows: ThroughputRow[] = [];
  const watcher = await watched.cluster.client();
  for (const mode of ['stop-copy', 'auto']) {
    say(`${watched.case}, ${mode}`);
    const made: (Move & { before: number; during: number })[] = [];
    const count = mode === 'auto' ? runs : Math.min(runs, STOP_COPY_RUNS);
    for (let i = 0; i < count; i += 1) {
      const done = await watchedMove(watched, watcher, mode);
      made.push(done);
      const rates = `${done.before.toFixed(0)} then ${done.during.toFixed(0)} commands/s`;
      say(`${i + 1}/${count} ${rates}; ${moveText(done)}`);
    }
    const [before, during] = [median(made, 'before'), median(made, 'during')];
    const row = rowOf(watched.case, made, { errors: 0 });
    const ratio = figuresOf(made.map((done) => done.during / done.before)).median;
    rows.push({ ...row, before_per_s: before, during_per_s: during, ratio });
  }
  await watcher.stop();
  return rows;
}

function median<K extends string>(all: readonly Record<K, number>[], field: K): number {
  return figuresOf(all.map((one) => one[field])).median;
}

async function watchedMove(watched: Watched, watcher: ClientMachine, mode: string) {
  const samples: Sample[] = [];
  let over = false;
  const sampling = (async () => {
    while (!over) {
      samples.push(await sample(watched.address, watcher));
      await sleep(SAMPLE_MS);
    }
  })();
  await sleep(BEFORE_MS);
  const askedAt = performance.now();
  const done = await move(watched, { mode });
  over = true;
  await sampling;
  // The longest time between two answers is the freeze.
  const gaps = samples.slice(1).map((next, i) => next.at - samples[i]!.at);
  const frozen = gaps.indexOf(Math.max(...gaps));
  const beganAt = Math.max(askedAt, samples[frozen + 1]!.at - done.totalMs);
  const first = samples.findIndex(({ at }) => at >= beganAt);
  const asked = samples.findIndex(({ at }) => at >= askedAt);
  return {
    ...done,
    before: rate(samples.slice(0, asked)),
    during: rate(samples.slice(first, frozen + 1)),
  };
}

async function sample(address: string, watcher: ClientMachine): Promise<Sample> {
  const info = await watcher.call('command', address, actions.REDIS_PORT, 'INFO', 'stats');
  const commands = Number(/total_commands_processed:(\d+)/.exec(String(info))?.[1]);
  return { at: performance.now(), commands };
}

function rate(samples: readonly Sample[]): number {
  const [first, last] = [samples[0], samples.at(-1)];
  if (first === undefined || last === undefined || first === last) return Number.NaN;
  return ((last.commands - first.commands) / (last.at - first.at)) * 1000;
}
