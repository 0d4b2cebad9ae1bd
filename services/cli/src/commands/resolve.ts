import { Command } from 'commander';
import { type ClusterOptions, withCluster, withClusterOptions } from '../cluster.js';
import { print, printJson } from '../output.js';
import { operationText } from './op.js';

interface Options extends ClusterOptions {
  runOn: string;
  iHaveFenced: string;
}

export function build(): Command {
  const command = new Command()
    .description(
      'Ends the doubt of a migration whose two nodes cannot both be asked: says which of them runs the container. ' +
        'You answer for the other one: it is off, or cut off for good, and will not run it. ' +
        'What can still be asked is asked first, and the command is refused where it contradicts.',
    )
    .argument('<operation>')
    .requiredOption('--run-on <node>', 'the node that runs the container from now on')
    .requiredOption('--i-have-fenced <node>', 'the other node of the migration')
    .addHelpText(
      'after',
      `
Examples:
  ferry op ls --active
  ferry op show mf3k2-1a2b3c                                  # "in-doubt", and what is needed
  ferry resolve mf3k2-1a2b3c --run-on h2 --i-have-fenced h1
  ferry resolve mf3k2-1a2b3c --run-on h1 --i-have-fenced h2 --json`,
    )
    .action(run);
  return withClusterOptions(command);
}

async function run(id: string, options: Options): Promise<void> {
  await withCluster(options, async (client) => {
    const { runOn, iHaveFenced: fenced } = options;
    const operation = await client.resolveOperation({ id, runOn, fenced }, { deadlineMs: 60_000 });
    if (options.json) return printJson({ operation });
    print(`"${operation.container}" runs on ${runOn}`);
    print(operationText(operation));
  });
}
