import { bothWays, compare } from './compare.js';
import { atMost, type BenchResult, type LiveRow } from './figures.js';
import { betweenHosts, startLoad } from './subjects.js';

const MIB_PER_SECOND = 2;
const KINDS = ['anonymous', 'memfd'] as const;

/** Memory that four processes share, of several sizes under few writes: whether the freeze depends on the size. */
export async function shared(
  { sizesMib, runs }: { sizesMib: readonly number[]; runs: number },
  say: (line: string) => void,
): Promise<BenchResult> {
  return betweenHosts(say, async (place) => {
    const rows: LiveRow[] = [];
    const goals = [];
    for (const kind of KINDS) {
      const live: LiveRow[] = [];
      for (const mib of sizesMib) {
        const load = { mib, mibPerSecond: MIB_PER_SECOND, shared: kind };
        const running = await startLoad(place, `shared-${kind}-${mib}`, load);
        const found = await compare(running, `${kind}, ${mib} MiB`, bothWays(runs), say);
        rows.push(...found);
        live.push(...found.filter(({ mode }) => mode.includes('pre-copy')));
      }
      const [first, last] = [live[0]!, live.at(-1)!];
      const ratio = last.freeze_ms.median / first.freeze_ms.median;
      const goal = `${last.case}: freeze <= 1.5 x that of ${first.case}, median`;
      goals.push(atMost(goal, ratio, 1.5));
    }
    return { rows, goals };
  });
}
