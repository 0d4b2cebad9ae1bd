import { compare, type Way } from './compare.js';
import { atMost, type BenchResult } from './figures.js';
import { betweenHosts, startLoad } from './subjects.js';

const MAX_DOWNTIME_MS = 50;

/** A program that writes much of its memory anew all the time: whether its migration comes to an end, and how long it
 *  stands then. */
export async function hotWriter(
  { mib, mibPerSecond, runs }: { mib: number; mibPerSecond: number; runs: number },
  say: (line: string) => void,
): Promise<BenchResult> {
  return betweenHosts(say, async (place) => {
    const writer = await startLoad(place, 'hot', { mib, mibPerSecond });
    const live = { mode: 'auto', maxDowntimeMs: MAX_DOWNTIME_MS };
    const ways: Way[] = [
      { wishes: { mode: 'stop-copy' }, runs },
      { wishes: { ...live, onNoConvergence: 'throttle' }, runs, label: 'pre-copy, throttle' },
      { wishes: { ...live, mode: 'hybrid' }, runs, label: 'hybrid' },
    ];
    const name = `${mibPerSecond} MiB/s of ${mib} MiB at random`;
    const rows = await compare(writer, name, ways, say);
    const bound = MAX_DOWNTIME_MS * 1.2;
    const goals = rows
      .slice(1, ways.length)
      .map((row) =>
        atMost(`${row.mode}: freeze <= ${bound} ms, median`, row.freeze_ms.median, bound),
      );
    return { rows, goals };
  });
}
