import { join } from 'node:path';
import { containerNamed } from '../support/actions.js';
import { sleep } from '../support/shell.js';
import { atMost, type BenchResult, figuresOf, type Goal, type LiveRow } from './figures.js';
import { isIntact, logHas, makeRootfs } from './memory-program.js';
import { type Move, move, otherHost, rowOf } from './moves.js';
import { betweenHosts, type Place } from './subjects.js';

const AT_ONCE = [2, 4, 8] as const;
const MIB = 64;
const REST_MS = 2500;
/** For comparison alone. */
const STOP_COPY_RUNS = 3;

type Order = 'one after the other' | 'at once';

/** Moves containers of 64 MiB one after the other, then as many at once, again and again. */
export async function parallel(
  { runs }: { runs: number },
  say: (line: string) => void,
): Promise<BenchResult> {
  return betweenHosts(say, async (place) => {
    const rootfs = join(place.cluster.folder.path, 'rootfs');
    await makeRootfs(rootfs);
    const rows: LiveRow[] = [];
    const goals: Goal[] = [];
    for (const count of AT_ONCE) {
      const names = Array.from({ length: count }, (_, i) => `par-${count}-${i}`);
      for (const name of names) await start(place, rootfs, name);
      const few = Math.min(runs, STOP_COPY_RUNS);
      const group = { place, names };
      rows.push(await measure(group, { order: 'at once', mode: 'stop-copy', runs: few }, say));
      const single = { order: 'one after the other', mode: 'auto', runs } as const;
      const alone = await measure(group, single, say);
      const together = await measure(group, { ...single, order: 'at once' }, say);
      rows.push(alone, together);
      const totals = together.total_ms.median / alone.total_ms.median;
      goals.push(atMost(`${count} at once: total <= one after the other, median`, totals, 1));
      const freezes = together.freeze_ms.median / alone.freeze_ms.median;
      goals.push(atMost(`${count} at once: freeze <= 2 x a single one's, median`, freezes, 2));
      for (const name of names) await place.cluster.ferryJson(['stop', name]);
    }
    return { rows, goals };
  });
}

async function start({ cluster }: Place, rootfs: string, name: string): Promise<void> {
  const args = ['--node', 'h1', '--rootfs', rootfs, '--', '/memory', String(MIB)];
  await cluster.ferryJson(['run', name, ...args]);
  await logHas(cluster, name, 'ready');
  await containerNamed(cluster, name);
}

async function measure(
  { place, names }: { place: Place; names: readonly string[] },
  { order, mode, runs }: { order: Order; mode: string; runs: number },
  say: (line: string) => void,
): Promise<LiveRow> {
  const subjects = names.map((name) => ({ ...place, name }));
  const all: Move[] = [];
  const totals: number[] = [];
  for (let i = 0; i < runs; i += 1) {
    await sleep(REST_MS);
    const to = await otherHost(subjects[0]!);
    const made: Move[] = [];
    if (order === 'at once') {
      made.push(...(await Promise.all(subjects.map((one) => move(one, { mode }, to)))));
    } else {
      for (const one of subjects) made.push(await move(one, { mode }, to));
    }
    totals.push(order === 'at once' ? span(made) : sum(made));
    all.push(...made);
    const freezes = made.map(({ downtimeMs }) => downtimeMs.toFixed(1)).join(' ');
    say(
      `${names.length} ${order}, ${mode} ${i + 1}/${runs}: ${totals.at(-1)!.toFixed(0)} ms; freezes ${freezes} ms`,
    );
  }
  let errors = 0;
  for (const name of names) if (!(await isIntact(place.cluster, name))) errors += 1;
  const row = rowOf(`${names.length} of ${MIB} MiB ${order}`, all, { errors });
  return { ...row, total_ms: figuresOf(totals) };
}

/** From the first call to the last answer. */
function span(made: readonly Move[]): number {
  const [first, last] = [made.map(({ askedAt }) => askedAt), made.map(({ endedAt }) => endedAt)];
  return Math.max(...last) - Math.min(...first);
}

/** Each from its call to its answer. */
function sum(made: readonly Move[]): number {
  return made.reduce((total, { askedAt, endedAt }) => total + endedAt - askedAt, 0);
}
