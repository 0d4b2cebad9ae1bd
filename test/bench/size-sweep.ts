import { readFileSync } from 'node:fs';
import { bothWays, compare } from './compare.js';
import { atMost, type BenchResult, type LiveRow } from './figures.js';
import { betweenHosts, startRedis } from './subjects.js';

/** Left for everything else. */
const SPARE_MIB = 2048;
/** Redis and its allocator need a little more than what it is filled with. */
const OVERHEAD = 1.12;
const STEP_MIB = 256;
/** Stop-and-copy of more takes many seconds a run, and tells no more. */
const LARGE_MIB = 2048;
const LARGE_RUNS = 3;
const LOAD = { writesPerSecond: 500, connections: 50 };

/** Redis of several sizes under few writes: whether the freeze depends on the size. */
export async function sizeSweep(
  { sizesMib, runs }: { sizesMib: readonly number[]; runs: number },
  say: (line: string) => void,
): Promise<BenchResult> {
  const sizes = fitting(sizesMib, say);
  return betweenHosts(say, async (place) => {
    const rows: LiveRow[] = [];
    for (const { mib, asked } of sizes) {
      const stopCopyRuns = mib > LARGE_MIB ? Math.min(runs, LARGE_RUNS) : runs;
      if (stopCopyRuns < runs) say(`${mib} MiB: stop-copy runs ${stopCopyRuns} times only`);
      const redis = await startRedis(place, `redis-${mib}`, { ...LOAD, mib }, say);
      const name = asked === mib ? `${mib} MiB` : `${mib} MiB (${asked} does not fit twice)`;
      rows.push(...(await compare(redis, name, bothWays(runs, stopCopyRuns), say)));
    }
    const live = rows.filter(({ mode }) => mode.includes('pre-copy'));
    const [first, last] = [live[0]!, live.at(-1)!];
    const ratio = last.freeze_ms.median / first.freeze_ms.median;
    const goal = `${last.case}: freeze <= 1.5 x that of ${first.case}, median`;
    return { rows, goals: [atMost(goal, ratio, 1.5)] };
  });
}

/** Source and destination are one machine here: a size that does not fit twice gives way to the largest that does. */
function fitting(asked: readonly number[], say: (line: string) => void) {
  const available = Number(
    /^MemAvailable:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1],
  );
  const room = (available / 1024 - SPARE_MIB) / 2 / OVERHEAD;
  const most = Math.floor(room / STEP_MIB) * STEP_MIB;
  return asked.map((mib) => {
    if (mib <= most) return { mib, asked: mib };
    say(`${mib} MiB does not fit into this machine's memory twice: ${most} MiB in its place`);
    return { mib: most, asked: mib };
  });
}
