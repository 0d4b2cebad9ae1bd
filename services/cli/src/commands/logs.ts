import { once } from 'node:events';
import type { LogChunk } from '@ferry/api';
import { Command } from 'commander';
import { type ClusterOptions, withCluster, withClusterOptions } from '../cluster.js';
import { parseCount } from '../parse.js';

interface Options extends ClusterOptions {
  follow?: boolean;
  tail?: string;
}

export function build(): Command {
  const command = new Command()
    .description('Prints what a container wrote: its stdout on stdout, its stderr on stderr.')
    .argument('<name>', 'container')
    .option('-f, --follow', 'go on with what it writes from now on')
    .option('--tail <lines>', 'only the last ones; 0: none')
    .addHelpText(
      'after',
      `
With --json: an array of {"stream", "text"}; with --follow one such object a line.

Examples:
  ferry logs web
  ferry logs web -f --tail 20`,
    )
    .action(run);
  return withClusterOptions(command);
}

async function run(name: string, options: Options): Promise<void> {
  const range = { what: '--tail', min: 0, max: 100_000 };
  const tailLines = options.tail === undefined ? undefined : parseCount(options.tail, range);
  const follow = options.follow ?? false;
  await withCluster(options, async (client) => {
    const chunks = client.containerLogs({ name, options: { follow, tailLines } });
    const all: { stream: string; text: string }[] = [];
    for await (const chunk of chunks) {
      if (!options.json) await write(chunk);
      else if (follow) process.stdout.write(`${JSON.stringify(plain(chunk))}\n`);
      else all.push(plain(chunk));
    }
    if (options.json && !follow) process.stdout.write(`${JSON.stringify(all)}\n`);
  });
}

async function write({ stream, data }: LogChunk): Promise<void> {
  const out = stream === 'stderr' ? process.stderr : process.stdout;
  if (!out.write(data)) await once(out, 'drain');
}

function plain({ stream, data }: LogChunk) {
  return { stream, text: data.toString('utf8') };
}
