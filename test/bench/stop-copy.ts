import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { containerNamed, migrate } from '../support/actions.js';
import { Cluster } from '../support/cluster.js';
import { run, until } from '../support/shell.js';
import { type MemoryPeak, watchMemory } from './memory-peak.js';

export interface StopCopyRow {
  readonly memory_mib: number;
  readonly mode: string;
  readonly downtime_ms: number;
  readonly total_ms: number;
  /** Memory moved per second of the whole migration, and the same as sent; millions of bytes per second. */
  readonly raw_mb_per_s: number;
  readonly wire_mb_per_s: number;
  readonly source_agent_mib: number;
  readonly destination_agent_mib: number;
  readonly source_with_helpers_mib: number;
  readonly destination_with_helpers_mib: number;
  readonly intact: boolean;
}

/** Moves containers that hold so much memory, of which LZ4 saves about half, and measures. */
export async function stopCopy(
  sizesMib: readonly number[],
  say: (line: string) => void,
): Promise<StopCopyRow[]> {
  const cluster = await Cluster.start({ hosts: ['h1', 'h2'], progress: say });
  try {
    const rootfs = join(cluster.folder.path, 'rootfs');
    await makeRootfs(rootfs);
    const rows: StopCopyRow[] = [];
    for (const mib of sizesMib) {
      say(`a container with ${mib} MiB`);
      rows.push(await measure(cluster, rootfs, mib));
    }
    return rows;
  } catch (error) {
    say(cluster.logTails());
    throw error;
  } finally {
    await cluster.remove();
  }
}

async function makeRootfs(rootfs: string): Promise<void> {
  const binary = join(rootfs, 'memory');
  for (const name of ['proc', 'sys', 'dev', 'tmp'])
    mkdirSync(join(rootfs, name), { recursive: true });
  await compile('memory', binary);
}

/** Compiles test/bench/programs/NAME.c into a static program. */
export async function compile(name: string, out: string): Promise<void> {
  const source = new URL(`./programs/${name}.c`, import.meta.url).pathname;
  await run('cc', ['-O2', '-static', '-o', `${out}.new`, source]);
  copyFileSync(`${out}.new`, out);
}

async function measure(cluster: Cluster, rootfs: string, mib: number): Promise<StopCopyRow> {
  const name = `memory-${mib}`;
  const args = ['--node', 'h1', '--rootfs', rootfs, '--', '/memory', String(mib)];
  await cluster.ferryJson(['run', name, ...args]);
  await logHas(cluster, name, 'ready');
  const source = watchMemory(cluster.pidOf('h1'));
  const destination = watchMemory(cluster.pidOf('h2'));
  const line = await migrate(cluster, name, 'h2', 600_000);
  const peaks = { source: source(), destination: destination() };
  process.kill((await containerNamed(cluster, name)).pid, 'SIGUSR1');
  const intact = (await logHas(cluster, name, 'intact|damaged')) === 'intact';
  await cluster.ferryJson(['stop', name]);
  const seconds = line.total_ms / 1000;
  return {
    memory_mib: mib,
    mode: line.mode,
    downtime_ms: line.downtime_ms,
    total_ms: line.total_ms,
    raw_mb_per_s: line.bytes_raw / 1e6 / seconds,
    wire_mb_per_s: line.bytes_wire / 1e6 / seconds,
    source_agent_mib: peaks.source.agentBytes / 2 ** 20,
    destination_agent_mib: peaks.destination.agentBytes / 2 ** 20,
    source_with_helpers_mib: withHelpers(peaks.source),
    destination_with_helpers_mib: withHelpers(peaks.destination),
    intact,
  };
}

const withHelpers = (peak: MemoryPeak): number => peak.withHelpersBytes / 2 ** 20;

async function logHas(cluster: Cluster, name: string, pattern: string): Promise<string> {
  const wanted = new RegExp(`^(?:${pattern})`, 'm');
  return until(
    `"${pattern}" in the log of ${name}`,
    async () => wanted.exec((await cluster.ferry(['logs', name])).stdout)?.[0],
    { timeoutMs: 120_000, everyMs: 200 },
  );
}
