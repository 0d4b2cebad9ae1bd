import { bothWays, compare } from './compare.js';
import { atMost, type BenchResult, type Goal, type LiveRow } from './figures.js';
import { betweenHosts, type Load, startLoad } from './subjects.js';

interface Case {
  readonly name: string;
  readonly load: Load;
  readonly count: number;
  /** What one of them may cost, where that is a goal. */
  readonly of?: { readonly one: string; readonly ms: number };
}

const CASES: readonly Case[] = [
  {
    name: '100 processes of 10 MiB',
    load: { mib: 10, processes: 100, mibOfEach: 10 },
    ...{ count: 100, of: { one: 'process', ms: 1 } },
  },
  { name: '1000 threads', load: { mib: 16, threads: 1000 }, count: 1000 },
  {
    name: '1000 connections',
    load: { mib: 16, connections: 1000 },
    ...{ count: 1000, of: { one: 'connection', ms: 0.1 } },
  },
];

/** Many processes, threads, connections: what each of them adds to a freeze. */
export async function many(
  { runs }: { runs: number },
  say: (line: string) => void,
): Promise<BenchResult> {
  return betweenHosts(say, async (place) => {
    const rows: (LiveRow & { freeze_ms_each: number })[] = [];
    const goals: Goal[] = [];
    for (const [i, { name, load, count, of }] of CASES.entries()) {
      const running = await startLoad(place, `many-${i}`, load);
      const made = await compare(running, name, bothWays(runs), say);
      rows.push(...made.map((row) => ({ ...row, freeze_ms_each: row.freeze_ms.median / count })));
      if (of === undefined) continue;
      const text = `freeze <= ${of.ms} ms for each ${of.one}, median`;
      goals.push(atMost(text, made[1]!.freeze_ms.median / count, of.ms));
    }
    return { rows, goals };
  });
}
