import { ContainerNetwork, ContainerSpec, RunContainerRequest } from '@ferry/api';
import { Command } from 'commander';
import { type ClusterOptions, withCluster, withClusterOptions } from '../cluster.js';
import { followToEnd, missing } from '../follow.js';
import { collect, parseMount, parsePair, parseSize, parseUser, usage } from '../parse.js';

interface Options extends ClusterOptions {
  name?: string;
  node?: string;
  rootfs?: string;
  bundle?: string;
  memory?: string;
  cpus?: string;
  env: string[];
  mount: string[];
  label: string[];
  cwd?: string;
  user?: string;
  hostname?: string;
  readOnly?: boolean;
  ip?: string;
  mac?: string;
  detach?: boolean;
}

export function build(): Command {
  const command = new Command()
    .description('Starts a container on a node. What follows "--" belongs to the program.')
    .usage('[NAME] [options] -- PROGRAM [ARGUMENT...]')
    .argument('[words...]', 'name of the container (unless --name), then program and arguments')
    .option('--name <name>', 'name of the container, unique in the cluster')
    .option('--node <node>', 'where to start it; otherwise where most memory is free')
    .option(
      '--rootfs <dir>',
      "directory on the node that becomes the container's root (read-only layer)",
    )
    .option('--bundle <dir>', 'OCI bundle on the node, instead of --rootfs')
    .option('--memory <size>', 'limit, such as 512m')
    .option('--cpus <number>', 'limit, such as 1.5')
    .option('--env <name=value>', 'environment variable; repeatable', collect, [])
    .option('--mount <source:destination[:ro]>', 'directory of the node; repeatable', collect, [])
    .option('--label <key=value>', 'repeatable', collect, [])
    .option('--cwd <dir>', 'working directory')
    .option('--user <uid[:gid]>', 'whom to run as')
    .option('--hostname <name>', 'otherwise the name of the container')
    .option('--read-only', 'the root filesystem cannot be written')
    .option('--ip <address/prefix>', 'otherwise a free one of the cluster')
    .option('--mac <address>', 'otherwise made from the IP address')
    .option('--detach', 'do not wait until it runs')
    .addHelpText(
      'after',
      `
Examples:
  ferry run cache --node h1 --rootfs /srv/redis --memory 2g -- /usr/bin/redis-server --port 6379
  ferry run --name web --bundle /srv/bundles/web
  ferry run --name mapped --bundle /srv/bundles/mapped   # its users mapped: user namespace, uidMappings, gidMappings
  ferry run job --rootfs /srv/alpine --env MODE=fast --mount /srv/data:/data:ro -- /bin/work`,
    )
    .action(run);
  return withClusterOptions(command);
}

async function run(words: string[], options: Options): Promise<void> {
  const [name = '', args] =
    options.name === undefined ? [words[0], words.slice(1)] : [options.name, words];
  if (name === '') throw missing('The name of the container', 'ferry run NAME ... -- PROGRAM');
  const spec = specOf(name, args, options);
  await withCluster(options, async (client) => {
    const node = options.node ?? '';
    const begun = await client.runContainer(RunContainerRequest.fromPartial({ spec, node }));
    await followToEnd(client, begun, {
      ...options,
      success: ({ node: where, result }) => {
        const address = result?.$case === 'started' ? result.value.address : '';
        return `${name} runs on ${where}${address === '' ? '' : ` with address ${address}`}`;
      },
    });
  });
}

/** The message for what the user typed. @throws FerryError cli.usage */
export function specOf(name: string, args: string[], options: Options): ContainerSpec {
  if ((options.rootfs === undefined) === (options.bundle === undefined)) {
    throw usage('Either --rootfs or --bundle is needed', 'name the directory on the node');
  }
  if (options.rootfs !== undefined && args.length === 0) {
    throw missing('The program', 'put it last: ferry run NAME --rootfs DIR -- PROGRAM');
  }
  for (const entry of options.env) parsePair(entry);
  const network =
    options.ip === undefined && options.mac === undefined
      ? undefined
      : ContainerNetwork.fromPartial({ address: options.ip ?? '', mac: options.mac ?? '' });
  return {
    ...ContainerSpec.create(),
    ...{ name, args, rootfs: options.rootfs ?? '', bundle: options.bundle ?? '' },
    ...{ env: [...options.env], cwd: options.cwd ?? '', hostname: options.hostname ?? '' },
    ...(options.user === undefined ? {} : parseUser(options.user)),
    memoryLimitBytes: options.memory === undefined ? 0n : parseSize(options.memory),
    cpuLimitMillis: options.cpus === undefined ? 0 : cpuMillis(options.cpus),
    readOnlyRootfs: options.readOnly ?? false,
    mounts: options.mount.map(parseMount),
    labels: Object.fromEntries(options.label.map(parsePair)),
    network,
  };
}

function cpuMillis(text: string): number {
  const millis = /^[0-9]{1,4}(\.[0-9]{1,3})?$/.test(text) ? Math.round(Number(text) * 1000) : 0;
  if (millis > 0) return millis;
  throw usage(`"${text}" is not a number of CPUs`, 'write 2 or 0.5');
}
