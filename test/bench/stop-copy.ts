import { join } from 'node:path';
import { containerNamed, type MigrationLine, migrate } from '../support/actions.js';
import type { Cluster } from '../support/cluster.js';
import { sleep } from '../support/shell.js';
import { type Figures, figuresOf } from './figures.js';
import { type MemoryPeak, watchMemory } from './memory-peak.js';
import { isIntact, logHas, makeRootfs } from './memory-program.js';
import { startBenchCluster } from './subjects.js';

export interface StopCopyRow {
  readonly case: string;
  readonly mode: string;
  readonly tls: boolean;
  readonly runs: number;
  /** From frozen at the source until the destination runs. */
  readonly freeze_ms: Figures;
  readonly total_ms: Figures;
  /** The first run, into memory that this machine may have to get from its host page by page. */
  readonly first_total_ms: number;
  /** Memory moved per second of the whole migration, the median run: millions of bytes per second, as found and as sent. */
  readonly raw_mb_s: number;
  readonly wire_mb_s: number;
  /** The same as MiB/s. */
  readonly raw_mib_s: number;
  readonly wire_mib_s: number;
  readonly source_agent_mib: number;
  readonly destination_agent_mib: number;
  readonly source_with_helpers_mib: number;
  readonly destination_with_helpers_mib: number;
  readonly errors: number;
}

const MODES = ['stop-copy', 'pre-copy'] as const;

/** Moves containers that hold so much memory, of which LZ4 saves about half, back and forth, and measures.
 *  @param tls  agents talk mutual TLS, as they do outside of measurements */
export async function stopCopy(
  sizesMib: readonly number[],
  say: (line: string) => void,
  { tls, runs }: { tls: boolean; runs: number },
): Promise<StopCopyRow[]> {
  const cluster = await startBenchCluster(say, { insecure: !tls });
  try {
    const rootfs = join(cluster.folder.path, 'rootfs');
    await makeRootfs(rootfs);
    const rows: StopCopyRow[] = [];
    for (const mib of sizesMib) {
      const name = `memory-${mib}`;
      const args = ['--node', 'h1', '--rootfs', rootfs, '--', '/memory', String(mib)];
      await cluster.ferryJson(['run', name, ...args]);
      await logHas(cluster, name, 'ready');
      for (const mode of MODES) {
        say(`${mib} MiB, ${mode}, ${tls ? 'TLS' : 'no TLS'}`);
        rows.push({ ...(await measure(cluster, { name, mib, mode, runs })), tls });
      }
      await cluster.ferryJson(['stop', name]);
    }
    return rows;
  } catch (error) {
    say(cluster.logTails());
    throw error;
  } finally {
    await cluster.remove();
  }
}

async function measure(
  cluster: Cluster,
  {
    name,
    mib,
    mode,
    runs,
  }: { name: string; mib: number; mode: (typeof MODES)[number]; runs: number },
): Promise<Omit<StopCopyRow, 'tls'>> {
  const lines: MigrationLine[] = [];
  const peaks = { source: [] as MemoryPeak[], destination: [] as MemoryPeak[] };
  let errors = 0;
  for (let i = 0; i < runs; i += 1) {
    const { node } = await containerNamed(cluster, name);
    const to = node === 'h1' ? 'h2' : 'h1';
    // Agents make ready for the next migration meanwhile.
    await sleep(2000);
    const source = watchMemory(cluster.pidOf(node));
    const destination = watchMemory(cluster.pidOf(to));
    const line = await migrate(cluster, name, to, { timeoutMs: 600_000, mode });
    peaks.source.push(source());
    peaks.destination.push(destination());
    if (line.mode !== mode) throw new Error(`${mode} became ${line.mode}`);
    lines.push(line);
    if (!(await isIntact(cluster, name))) errors += 1;
  }
  const total = figuresOf(lines.map(({ total_ms }) => total_ms));
  const middle = lines.find(({ total_ms }) => total_ms === total.median) ?? lines[0]!;
  const perSecond = (bytes: number) => bytes / (middle.total_ms / 1000);
  const most = (all: readonly MemoryPeak[], of: (peak: MemoryPeak) => number) =>
    Math.max(...all.map(of)) / 2 ** 20;
  return {
    case: `${mib} MiB`,
    mode,
    runs,
    freeze_ms: figuresOf(lines.map(({ downtime_ms }) => downtime_ms)),
    total_ms: total,
    first_total_ms: lines[0]?.total_ms ?? 0,
    raw_mb_s: perSecond(middle.bytes_raw) / 1e6,
    wire_mb_s: perSecond(middle.bytes_wire) / 1e6,
    raw_mib_s: perSecond(middle.bytes_raw) / 2 ** 20,
    wire_mib_s: perSecond(middle.bytes_wire) / 2 ** 20,
    source_agent_mib: most(peaks.source, ({ agentBytes }) => agentBytes),
    destination_agent_mib: most(peaks.destination, ({ agentBytes }) => agentBytes),
    source_with_helpers_mib: most(peaks.source, ({ withHelpersBytes }) => withHelpersBytes),
    destination_with_helpers_mib: most(
      peaks.destination,
      ({ withHelpersBytes }) => withHelpersBytes,
    ),
    errors,
  };
}
