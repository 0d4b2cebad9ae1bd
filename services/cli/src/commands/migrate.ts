import { MigrateContainerRequest, type Operation } from '@ferry/api';
import { Command } from 'commander';
import { type ClusterOptions, withCluster, withClusterOptions } from '../cluster.js';
import { followToEnd } from '../follow.js';
import { bytesText, durationText } from '../output.js';
import { usage } from '../parse.js';

interface Options extends ClusterOptions {
  to?: string;
  any?: boolean;
  mode?: string;
  detach?: boolean;
}

export function build(): Command {
  const command = new Command()
    .description(
      'Moves a running container to another node, with its memory, PIDs and connections.',
    )
    .argument('<name>', 'container')
    .option('--to <node>', 'where to')
    .option('--any', 'to the node with the most free memory that accepts it')
    .option('--mode <mode>', 'auto or stop-copy')
    .option('--detach', 'do not wait for it')
    .addHelpText(
      'after',
      `
Examples:
  ferry migrate web --to h2
  ferry migrate web --any --json
  ferry migrate web --to h2 --detach; ferry op watch ID`,
    )
    .action(run);
  return withClusterOptions(command);
}

async function run(name: string, options: Options): Promise<void> {
  if ((options.to === undefined) === (options.any === undefined)) {
    throw usage('Either --to NODE or --any is needed', 'see "ferry node ls" for the nodes');
  }
  await withCluster(options, async (client) => {
    const request = { name, to: options.to ?? '', mode: options.mode ?? '' };
    const begun = await client.migrateContainer(MigrateContainerRequest.fromPartial(request));
    await followToEnd(client, begun, { ...options, success: migrationText });
  });
}

/** What a finished migration was, for people. */
export function migrationText({ container, result }: Operation): string {
  if (result?.$case !== 'migration') return `${container} has moved`;
  const { from, to, mode, downtimeMs, totalMs, bytesRaw, bytesWire, parts, warnings } =
    result.value;
  const lines = [
    `${container} moved from ${from} to ${to} (${mode}): downtime ${durationText(downtimeMs)}, ` +
      `total ${durationText(totalMs)}, ${bytesText(bytesRaw)} of memory in ${bytesText(bytesWire)}`,
    ...parts.map((part) => `  ${part.name.padEnd(14)} ${durationText(part.ms)}`),
    ...warnings.map((warning) => `Warning: ${warning}`),
  ];
  return lines.join('\n');
}
