import { compare } from './compare.js';
import { atMost, type BenchResult } from './figures.js';
import { betweenHosts, startRedis } from './subjects.js';

export interface RedisLiveOptions {
  readonly mib: number;
  readonly writesPerSecond: number;
  readonly connections: number;
  readonly runs: number;
  /** Runs of stop-and-copy, for comparison. */
  readonly stopCopyRuns: number;
}

/** Redis under writes, moved back and forth: how long it stands, and how long its clients wait. */
export async function redisLive(
  options: RedisLiveOptions,
  say: (line: string) => void,
): Promise<BenchResult> {
  const { mib, writesPerSecond, runs, stopCopyRuns } = options;
  return betweenHosts(say, async (place) => {
    const redis = await startRedis(place, 'redis', options, say);
    const name = `${mib} MiB, ${writesPerSecond} writes/s`;
    const ways = [
      { wishes: { mode: 'stop-copy' }, runs: stopCopyRuns },
      { wishes: { mode: 'auto' }, runs },
    ];
    const rows = await compare(redis, name, ways, say);
    const { freeze_ms: freeze, client_stall_ms: stall } = rows[1]!;
    const errors = rows.reduce((sum, row) => sum + row.errors, 0);
    const goals = [
      atMost('freeze <= 20 ms, median', freeze.median, 20),
      atMost('freeze <= 50 ms, p99', freeze.p99, 50),
      atMost('client stall <= 30 ms, median', stall.median, 30),
      atMost('client stall <= freeze + 10 ms, median', stall.median - freeze.median, 10),
      atMost('no lost, repeated or failed write, all connections alive', errors, 0),
    ];
    return { rows, goals };
  });
}
