import { statSync } from 'node:fs';
import { FerryError } from '@ferry/core';
import { Command } from 'commander';

interface Options {
  detach?: boolean;
  json?: boolean;
  newPidNamespace?: boolean;
  verify: boolean;
  node?: string;
  name?: string;
  controller?: string;
  tls?: string;
  tokenFile?: string;
  key?: string;
}

export function build(): Command {
  return new Command()
    .description(
      'Starts again what was checkpointed: a process tree (the directory that "ferry dump" made), here; or a\n' +
        'container (the file that "ferry checkpoint" made), on a node.',
    )
    .argument('<what>', 'directory of dump binaries, or checkpoint file')
    .option('--detach', 'print the root PID and return when the tree runs')
    .option('--new-pid-namespace', 'restore where no PID can be taken')
    .option('--no-verify', 'do not check the page contents before the start')
    .option('--node <node>', 'checkpoint file: where to start the container')
    .option('--name <name>', 'checkpoint file: another name for it')
    .option('--controller <address>', 'checkpoint file: HOST:PORT of the controller')
    .option('--tls <folder>', 'checkpoint file: ca.crt, tls.crt and tls.key (FERRY_TLS)')
    .option('--token-file <file>', 'checkpoint file: your token (FERRY_TOKEN_FILE)')
    .option('--key <file>', 'checkpoint file: opens it (FERRY_KEY, ~/.config/ferry/checkpoint.key)')
    .option('--json', 'print a JSON object')
    .addHelpText(
      'after',
      `
Examples:
  ferry restore /var/tmp/app                   stays; signals go to the tree, its exit status comes back
  ferry restore /var/tmp/app --detach
  ferry restore /var/tmp/app --new-pid-namespace
  ferry restore web.ferry --node h2 --name web2`,
    )
    .action(async (what: string, options: Options) => {
      await run(what, options);
    });
}

async function run(what: string, options: Options): Promise<void> {
  const stat = statSync(what, { throwIfNoEntry: false });
  if (stat === undefined) {
    throw new FerryError('cli.usage', `${what} does not exist`, {
      remedy: 'give the directory of "ferry dump" or the file of "ferry checkpoint"',
    });
  }
  if (stat.isDirectory()) {
    const { restoreFolder } = await import('./restore-local.js');
    process.exitCode = await restoreFolder(what, {
      detach: options.detach ?? false,
      json: options.json ?? false,
      newPidNamespace: options.newPidNamespace ?? false,
      verifyPages: options.verify,
    });
    return;
  }
  if (options.node !== undefined) {
    const { restoreOnNode } = await import('./restore-cluster.js');
    await restoreOnNode(what, { ...options, node: options.node });
    return;
  }
  throw new FerryError(
    'cli.usage',
    `${what} is a file: a container checkpoint needs a node to start on`,
    {
      remedy:
        'add --node NODE; a process tree is restored from the directory that "ferry dump" made',
    },
  );
}
