import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import type { ClientMachine } from './client-machine.js';
import type { Cluster } from './cluster.js';
import { makeRootfs } from './rootfs.js';
import { until } from './shell.js';

export const REDIS_PORT = 6379;

/** One migration as `ferry migrate --json` tells it. */
export interface MigrationLine {
  readonly container: string;
  readonly from: string;
  readonly to: string;
  readonly mode: string;
  readonly downtime_ms: number;
  readonly total_ms: number;
  readonly bytes_raw: number;
  readonly bytes_wire: number;
}

/** A container as `ferry ps --json` tells it. */
export interface ContainerLine {
  readonly name: string;
  readonly node: string;
  readonly state: string;
  readonly pid: number;
  readonly address: string;
}

/** Makes root filesystems to start containers from: one with Redis, one with a shell; gives their paths. */
export async function makeRootfsFolders(folder: string): Promise<{ redis: string; shell: string }> {
  const redis = join(folder, 'rootfs-redis');
  const shell = join(folder, 'rootfs-shell');
  await makeRootfs(redis, ['/usr/bin/redis-server']);
  await makeRootfs(shell, ['/bin/dash', '/bin/sleep']);
  return { redis, shell };
}

/** Starts Debian's redis-server as a container; gives its address. */
export async function runRedis(
  cluster: Cluster,
  where: { name: string; node: string; rootfs: string },
): Promise<string> {
  await cluster.ferryJson([
    ...['run', where.name, '--node', where.node, '--rootfs', where.rootfs, '--'],
    ...['/usr/bin/redis-server', '--port', String(REDIS_PORT), '--bind', '0.0.0.0'],
    ...['--protected-mode', 'no', '--save', '', '--appendonly', 'no'],
    ...['--enable-debug-command', 'yes', '--dir', '/data'],
  ]);
  return addressOf(await containerNamed(cluster, where.name));
}

/** Starts a shell that writes "tick 1", "tick 2", … ten times a second, each after a child of its own ended. */
export async function runTicker(
  cluster: Cluster,
  where: { name: string; node: string; rootfs: string },
): Promise<void> {
  const script = 'i=0; while :; do i=$((i+1)); echo "tick $i"; /bin/sleep 0.1; done';
  await cluster.ferryJson([
    ...['run', where.name, '--node', where.node, '--rootfs', where.rootfs, '--'],
    ...['/bin/dash', '-c', script],
  ]);
}

export async function containers(cluster: Cluster): Promise<ContainerLine[]> {
  const answer = await cluster.ferryJson<{ containers: ContainerLine[] }>(['ps']);
  return answer.containers;
}

export async function containerNamed(cluster: Cluster, name: string): Promise<ContainerLine> {
  return until(`container ${name}`, async () => {
    const found = (await containers(cluster)).find((line) => line.name === name);
    return found?.state === 'running' && found.pid > 0 ? found : undefined;
  });
}

function addressOf(container: ContainerLine): string {
  return container.address.split('/')[0] ?? '';
}

/** The PIDs that the processes of a container have inside it, in order, with their names. From the kernel: whoever
 *  shares the PID namespace of its first process. */
export async function pidsInside(cluster: Cluster, name: string): Promise<string> {
  const { pid } = await containerNamed(cluster, name);
  const namespace = readlinkSync(`/proc/${pid}/ns/pid`);
  const found: string[] = [];
  for (const entry of readdirSync('/proc').filter((value) => /^\d+$/.test(value))) {
    try {
      if (readlinkSync(`/proc/${entry}/ns/pid`) !== namespace) continue;
      for (const task of readdirSync(`/proc/${entry}/task`)) {
        const status = readFileSync(`/proc/${entry}/task/${task}/status`, 'utf8');
        const inside = /^NSpid:.*\s(\d+)$/m.exec(status)?.[1];
        found.push(`${inside} ${/^Name:\s+(.*)$/m.exec(status)?.[1]}`);
      }
    } catch {
      // It ended while we looked.
    }
  }
  return found.sort((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10)).join(', ');
}

/** Number of keys and the digest over all data, as Redis itself tells them. */
export async function dataOf(
  client: ClientMachine,
  address: string,
): Promise<{ keys: number; digest: string }> {
  const keys = await client.call('command', address, REDIS_PORT, 'DBSIZE');
  const digest = await client.call('command', address, REDIS_PORT, 'DEBUG', 'DIGEST');
  return { keys: Number(keys), digest: String(digest) };
}

/** Migrates one container with the command line; gives what it measured. */
export async function migrate(
  cluster: Cluster,
  name: string,
  to: string,
  { timeoutMs = 120_000, mode = 'auto' }: { timeoutMs?: number; mode?: string } = {},
): Promise<MigrationLine> {
  const answer = await cluster.ferryJson<{ operation: { migration: MigrationLine } }>(
    ['migrate', name, '--to', to, '--mode', mode],
    timeoutMs,
  );
  return migrationLine(answer.operation.migration);
}

/** The same, its progress shown on the descriptor `screen`. */
export async function migrateShown(
  cluster: Cluster,
  name: string,
  to: string,
  screen: number,
): Promise<MigrationLine> {
  const status = await cluster.ferryShown(['migrate', name, '--to', to], screen);
  if (status !== 0) throw new Error(`ferry migrate ${name} --to ${to} ended with ${status}`);
  const { operations } = await cluster.ferryJson<{
    operations: (OperationLine & { container: string; migration: MigrationLine })[];
  }>(['op', 'ls']);
  // The newest comes first.
  const own = operations.find(({ kind, container }) => kind === 'migrate' && container === name);
  if (own === undefined) throw new Error(`The migration of ${name} is not among the operations`);
  return migrationLine(own.migration);
}

export function migrationLine(line: MigrationLine): MigrationLine {
  const { container, from, to, mode, downtime_ms, total_ms, bytes_raw, bytes_wire } = line;
  return { container, from, to, mode, downtime_ms, total_ms, bytes_raw, bytes_wire };
}

/** An operation as `ferry op show --json` tells it. */
export interface OperationLine {
  readonly id: string;
  readonly kind: string;
  readonly state: string;
  readonly children?: readonly string[];
  readonly progress?: { readonly fraction: number; readonly message: string };
  readonly migration?: MigrationLine;
  readonly drain?: {
    readonly moved: number;
    readonly failed: number;
    readonly moves: readonly { container: string; to: string; state: string }[];
  };
  readonly error?: { readonly message: string };
}

export async function operation(cluster: Cluster, id: string): Promise<OperationLine> {
  const answer = await cluster.ferryJson<{ operation: OperationLine }>(['op', 'show', id]);
  return answer.operation;
}

/** Waits for the end of an operation. */
export async function finished(
  cluster: Cluster,
  id: string,
  progress: (line: OperationLine) => void,
  timeoutMs = 180_000,
): Promise<OperationLine> {
  const final = ['succeeded', 'failed', 'cancelled', 'in-doubt'];
  return until(
    `operation ${id}`,
    async () => {
      const line = await operation(cluster, id);
      progress(line);
      return final.includes(line.state) ? line : undefined;
    },
    { timeoutMs, everyMs: 400 },
  );
}

/** The number of ticks in a container's log.
 *  @throws Error when one is missing, repeated or out of order */
export async function ticksInLog(cluster: Cluster, name: string): Promise<number> {
  const { stdout } = await cluster.ferry(['logs', name]);
  const lines = stdout.split('\n').filter((line) => line !== '');
  lines.forEach((line, i) => {
    if (line !== `tick ${i + 1}`) throw new Error(`Line ${i + 1} of ${name}'s log is "${line}"`);
  });
  return lines.length;
}
