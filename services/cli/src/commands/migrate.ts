import { MigrateContainerRequest, type Operation, type PostCopyReport } from '@ferry/api';
import { Command } from 'commander';
import { type ClusterOptions, withCluster, withClusterOptions } from '../cluster.js';
import { followToEnd } from '../follow.js';
import { bytesText, durationText, warningLines } from '../output.js';
import { parseCount, parseDuration, parseSize, usage } from '../parse.js';

const WAYS = 'throttle, post-copy, stop-copy or abort';
const MODES =
  'auto, pre-copy, hybrid, post-copy or stop-copy (auto: pre-copy where it is possible)';

interface Options extends ClusterOptions {
  maxDowntime: string;
  maxRounds: string;
  timeout: string;
  bandwidth?: string;
  onNoConvergence: string;
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
    .option('--mode <mode>', MODES)
    .option('--max-downtime <duration>', 'copy while it runs until it will stand for less', '50ms')
    .option('--max-rounds <n>', 'copy at most so often what has changed', '30')
    .option('--timeout <duration>', 'copy for at most so long while it runs', '2m')
    .option('--bandwidth <size>', 'memory a second while it runs, at most; none: as fast as can be')
    .option('--on-no-convergence <way>', `when memory changes too fast: ${WAYS}`, 'throttle')
    .option('--detach', 'do not wait for it')
    .addHelpText(
      'after',
      `
Examples:
  ferry migrate web --to h2
  ferry migrate web --any --json
  ferry migrate db --to h2 --max-downtime 20ms --on-no-convergence abort
  ferry migrate db --to h2 --mode hybrid
  ferry migrate db --to h2 --on-no-convergence post-copy
  ferry migrate web --to h2 --detach; ferry op watch ID

With hybrid and post-copy the container runs on the other node before all of its
memory is there. Until it is, the loss of either host loses the container.`,
    )
    .action(run);
  return withClusterOptions(command);
}

async function run(name: string, options: Options): Promise<void> {
  if ((options.to === undefined) === (options.any === undefined)) {
    throw usage('Either --to NODE or --any is needed', 'see "ferry node ls" for the nodes');
  }
  await withCluster(options, async (client) => {
    const policy = policyOf(options);
    const request = { name, to: options.to ?? '', mode: options.mode ?? '', policy };
    const begun = await client.migrateContainer(MigrateContainerRequest.fromPartial(request));
    await followToEnd(client, begun, { ...options, success: migrationText });
  });
}

/** @throws FerryError cli.usage */
function policyOf(options: Options) {
  const { maxRounds, bandwidth, onNoConvergence } = options;
  return {
    maxDowntimeMs: parseDuration(options.maxDowntime),
    maxRounds: parseCount(maxRounds, { what: 'The number of rounds', min: 1, max: 1000 }),
    roundsTimeoutMs: parseDuration(options.timeout),
    bandwidthBytesPerSecond: bandwidth === undefined ? 0n : parseSize(bandwidth),
    onNoConvergence,
  };
}

/** Of memory that came once it ran. */
function laterText(later: PostCopyReport): string {
  const { faults, longestStallMs, bytesFetched, bytesPushed, ms, reconnections } = later;
  const again = reconnections === 0 ? '' : `, ${reconnections} connections lost`;
  return (
    `  memory followed for ${durationText(ms)}: ${bytesText(bytesFetched)} for ${faults} waiting threads ` +
    `(longest ${durationText(longestStallMs)}), ${bytesText(bytesPushed)} in the background${again}`
  );
}

/** What a finished migration was, for people. */
export function migrationText({ container, result }: Operation): string {
  if (result?.$case !== 'migration') return `${container} has moved`;
  const { from, to, mode, rounds, downtimeMs, totalMs, bytesRaw, bytesWire, parts, warnings } =
    result.value;
  const { predicted, later } = result.value;
  const how = rounds === 0 ? mode : `${mode}, ${rounds} rounds`;
  const lines = [
    `${container} moved from ${from} to ${to} (${how}): downtime ${durationText(downtimeMs)}, ` +
      `total ${durationText(totalMs)}, ${bytesText(bytesRaw)} of memory in ${bytesText(bytesWire)}`,
    ...(predicted === undefined
      ? []
      : [
          `  predicted: downtime ${durationText(predicted.downtimeMs)}, total ${durationText(predicted.totalMs)}, ` +
            `${bytesText(predicted.bytes)}; memory changed at ${bytesText(Math.round(predicted.dirtyBytesPerSecond))}/s, ` +
            `was sent at ${bytesText(Math.round(predicted.sentBytesPerSecond))}/s`,
        ]),
    ...(later === undefined ? [] : [laterText(later)]),
    ...parts.map((part) => `  ${part.name.padEnd(14)} ${durationText(part.ms)}`),
    ...warningLines(warnings),
  ];
  return lines.join('\n');
}
