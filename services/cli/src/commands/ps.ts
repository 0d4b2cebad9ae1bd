import { Command } from 'commander';
import { type ClusterOptions, withCluster, withClusterOptions } from '../cluster.js';
import { agoText, bytesText, print, printJson, table } from '../output.js';

interface Options extends ClusterOptions {
  node?: string;
}

export function build(): Command {
  const command = new Command()
    .description('Lists containers.')
    .option('--node <node>', 'only those on it')
    .addHelpText('after', '\nExamples:\n  ferry ps\n  ferry ps --node h1 --json')
    .action(run);
  return withClusterOptions(command);
}

async function run(options: Options): Promise<void> {
  await withCluster(options, async (client) => {
    const { containers } = await client.listContainers({ node: options.node ?? '' });
    if (options.json) return printJson({ containers });
    const rows = containers.map((container) => [
      ...[container.name, container.node || '-', container.state, container.address || '-'],
      container.pid > 0 ? String(container.pid) : '-',
      container.memoryBytes > 0n ? bytesText(container.memoryBytes) : '-',
      agoText(container.createdAtMs, Date.now()),
      container.operation || '-',
    ]);
    const head = ['NAME', 'NODE', 'STATE', 'ADDRESS', 'PID', 'MEMORY', 'AGE', 'OPERATION'];
    print(table(head, rows));
  });
}
