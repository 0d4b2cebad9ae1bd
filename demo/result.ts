import type { MigrationLine } from '../test/support/actions.js';

/** The last line of `npm run demo -- --json`. Every value is measured. */
export interface DemoResult {
  migrations: MigrationLine[];
  same_pids: boolean;
  same_connection: boolean;
  client_errors: number;
  lost_writes: number;
  duplicated_writes: number;
  leftovers: string[];
  drain: { moved: number; failed: number };
  /** Number of keys and DEBUG DIGEST, before the first and after the last migration. */
  same_data: boolean;
  keys: number;
  increments: number;
  longest_stall_ms: number;
}

/** What the demo promises and did not hold; empty when all is well. */
export function brokenPromises(result: DemoResult): string[] {
  const promises: [boolean, string][] = [
    [result.migrations.length >= 2, 'the container did not migrate there and back'],
    [result.same_pids, 'the PIDs in the container changed'],
    [result.same_connection, "the client's connection was not the same at the end"],
    [result.same_data, 'the data in Redis changed'],
    [result.client_errors === 0, `the client saw ${result.client_errors} errors`],
    [result.lost_writes === 0, `${result.lost_writes} writes were lost`],
    [result.duplicated_writes === 0, `${result.duplicated_writes} writes were made twice`],
    [result.drain.moved > 0, 'the drain moved no container'],
    [result.drain.failed === 0, `${result.drain.failed} containers could not be drained`],
    [result.leftovers.length === 0, `left behind: ${result.leftovers.join(', ')}`],
  ];
  return promises.filter(([held]) => !held).map(([, text]) => text);
}

const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const ms = (value: number): string => `${Math.round(value)} ms`;

/** The report for people. */
export function reportText(result: DemoResult): string {
  const rows = [
    ['container', 'from', 'to', 'mode', 'downtime', 'total', 'memory', 'sent'],
    ...result.migrations.map((line) => [
      line.container,
      line.from,
      line.to,
      line.mode,
      ms(line.downtime_ms),
      ms(line.total_ms),
      mib(line.bytes_raw),
      mib(line.bytes_wire),
    ]),
  ];
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  const table = rows.map(
    (row) => `  ${row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('  ')}`,
  );
  const yes = (value: boolean): string => (value ? 'yes' : 'NO');
  const count = (value: number): string => value.toLocaleString('en');
  return [
    'Report',
    ...table,
    '',
    `  the same PIDs in the container      ${yes(result.same_pids)}`,
    `  ${`the same data, ${count(result.keys)} keys`.padEnd(35)} ${yes(result.same_data)}`,
    `  the client's connection unbroken    ${yes(result.same_connection)}`,
    `  increments over that connection     ${count(result.increments)}`,
    `    lost / made twice / errors        ${result.lost_writes} / ${result.duplicated_writes} / ${result.client_errors}`,
    `    the longest wait for an answer    ${ms(result.longest_stall_ms)}`,
    `  drained on schedule: moved / failed ${result.drain.moved} / ${result.drain.failed}`,
    `  left behind on this machine         ${result.leftovers.length === 0 ? 'nothing' : result.leftovers.join(', ')}`,
  ].join('\n');
}
