import { Command } from 'commander';
import { type ClusterOptions, withCluster, withClusterOptions } from '../cluster.js';
import { followToEnd } from '../follow.js';
import { parseDuration } from '../parse.js';

interface Options extends ClusterOptions {
  grace?: string;
  keep?: boolean;
  detach?: boolean;
}

export function build(): Command {
  const command = new Command()
    .description('Ends a container and removes it.')
    .argument('<name>', 'container')
    .option('--grace <duration>', 'between SIGTERM and SIGKILL (10s)')
    .option('--keep', 'keep its files, logs and record')
    .option('--detach', 'do not wait for it')
    .addHelpText('after', '\nExamples:\n  ferry stop web\n  ferry stop web --grace 1m --keep')
    .action(run);
  return withClusterOptions(command);
}

async function run(name: string, options: Options): Promise<void> {
  const graceMs = options.grace === undefined ? 0 : parseDuration(options.grace);
  await withCluster(options, async (client) => {
    const begun = await client.stopContainer({ name, graceMs, keep: options.keep ?? false });
    await followToEnd(client, begun, { ...options, success: () => `${name} has ended` });
  });
}
