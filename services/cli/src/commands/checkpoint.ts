import { existsSync } from 'node:fs';
import { CheckpointContainerRequest, type ClusterClient, type Operation } from '@ferry/api';
import { publicHalf } from '@ferry/migration';
import { Command } from 'commander';
import { download } from '../checkpoint-file.js';
import { type ClusterOptions, withCluster, withClusterOptions } from '../cluster.js';
import { follow, missing, progressScreen, throwUnlessSucceeded } from '../follow.js';
import { keyFileOf, readKeyFile } from '../key-file.js';
import { bytesText, durationText, print, printJson, warningLines } from '../output.js';
import { usage } from '../parse.js';

interface Options extends ClusterOptions {
  out: string;
  leaveRunning?: boolean;
  force?: boolean;
  fetch?: string;
  key?: string;
  plain?: boolean;
}

export function build(): Command {
  const command = new Command()
    .description(
      'Saves the complete state of a container in a file on this machine. The container ends, unless --leave-running.',
    )
    .argument('[name]', 'container')
    .requiredOption('--out <file>', 'file to make')
    .option('--leave-running', 'let the container run on')
    .option('--force', 'overwrite the file')
    .option('--key <file>', 'encrypt for this key (FERRY_KEY, ~/.config/ferry/checkpoint.key)')
    .option('--plain', 'do not encrypt the file')
    .option('--fetch <operation>', 'only fetch the file of a checkpoint operation that has ended')
    .addHelpText(
      'after',
      `
The file is encrypted for the key that "ferry key init" made; the node has its public half only.

What of the container is not in the file is told as a warning ("warnings" with --json).

The file is written on the node first and removed there once it has arrived here whole; when the transfer fails,
--fetch OPERATION gets it again.

Examples:
  ferry checkpoint web --out web.ferry --leave-running
  ferry checkpoint --fetch mf3k2-1a2b3c --out web.ferry
  ferry restore web.ferry --node h2`,
    )
    .action(run);
  return withClusterOptions(command);
}

async function run(name: string | undefined, options: Options): Promise<void> {
  if ((name === undefined) === (options.fetch === undefined)) {
    throw missing('The name of the container', 'ferry checkpoint NAME --out FILE');
  }
  if (existsSync(options.out) && !options.force) {
    throw usage(`${options.out} exists`, 'choose another name, or add --force');
  }
  await withCluster(options, async (client) => {
    const ended =
      options.fetch === undefined
        ? await make(client, name ?? '', options)
        : await client.getOperation({ id: options.fetch });
    throwUnlessSucceeded(ended);
    if (ended.result?.$case !== 'checkpoint') {
      throw usage(`Operation ${ended.id} is not a checkpoint`, 'see "ferry op ls"');
    }
    const { value } = ended.result;
    await download(client, { operation: ended.id, file: options.out, ...value });
    if (options.json) return printJson({ operation: ended, file: options.out });
    const about =
      `${value.container} is in ${options.out}: ${bytesText(value.sizeBytes)}, ` +
      `downtime ${durationText(value.downtimeMs)}`;
    print([about, ...warningLines(value.warnings)].join('\n'));
  });
}

async function make(client: ClusterClient, name: string, options: Options): Promise<Operation> {
  const sealFor = options.plain ? Buffer.alloc(0) : publicHalf(readKeyFile(keyFileOf(options.key)));
  const request = { name, leaveRunning: options.leaveRunning ?? false, sealFor };
  const begun = await client.checkpointContainer(CheckpointContainerRequest.fromPartial(request));
  return await follow(client, begun.id, progressScreen(options));
}
