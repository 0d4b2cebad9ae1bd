import { type DrainMove, DrainNodeRequest, type Operation } from '@ferry/api';
import { Command } from 'commander';
import { type ClusterOptions, withCluster, withClusterOptions } from '../cluster.js';
import { followToEnd } from '../follow.js';
import { agoText, bytesText, print, printJson, table, timeText } from '../output.js';
import { parseCount, parseDuration, parseTime, usage } from '../parse.js';

interface DrainOptions extends ClusterOptions {
  at?: string;
  cron?: string;
  timeZone?: string;
  concurrency?: string;
  mode?: string;
  timeout?: string;
  dryRun?: boolean;
  wait?: boolean;
}

export function build(): Command {
  const group = new Command().description('Nodes of the cluster.');
  group.addCommand(
    withClusterOptions(
      new Command('ls')
        .description('Lists nodes.')
        .addHelpText('after', '\nExamples:\n  ferry node ls\n  ferry node ls --json')
        .action(list),
    ),
  );
  group.addCommand(
    withClusterOptions(
      new Command('cordon')
        .description('Makes a node take no new containers; those it has stay.')
        .argument('<node>')
        .addHelpText('after', '\nExample:\n  ferry node cordon h1')
        .action((node: string, options: ClusterOptions) => cordon(node, options, true)),
    ),
  );
  group.addCommand(
    withClusterOptions(
      new Command('uncordon')
        .description('Makes a node take containers again.')
        .argument('<node>')
        .addHelpText('after', '\nExample:\n  ferry node uncordon h1')
        .action((node: string, options: ClusterOptions) => cordon(node, options, false)),
    ),
  );
  group.addCommand(drainCommand());
  return group;
}

function drainCommand(): Command {
  const command = new Command('drain')
    .description(
      'Cordons a node and moves its containers to others: now, at a time, or by a schedule.',
    )
    .argument('<node>')
    .option('--at <time>', 'start then: +10m, 22:30 or 2026-05-01T22:30:00Z')
    .option(
      '--cron <expression>',
      '5 fields, or 6 with seconds first; "ferry op cancel ID" ends it',
    )
    .option('--time-zone <zone>', 'of --cron, such as Europe/Berlin (UTC)')
    .option('--concurrency <number>', 'containers moved at once (2)')
    .option('--mode <mode>', 'of the migrations: auto or stop-copy')
    .option(
      '--timeout <duration>',
      'give up what is not moved so long after it began: 90s, 30m, 2h',
    )
    .option('--dry-run', 'only show where each container would go')
    .option('--wait', 'follow it to its end')
    .addHelpText(
      'after',
      `
Examples:
  ferry node drain h1 --dry-run
  ferry node drain h1 --wait --concurrency 4
  ferry node drain h1 --at 22:30 --timeout 2h
  ferry node drain h1 --cron "0 3 * * 6" --time-zone Europe/Berlin`,
    )
    .action(drain);
  return withClusterOptions(command);
}

async function list(options: ClusterOptions): Promise<void> {
  await withCluster(options, async (client) => {
    const { nodes } = await client.listNodes({});
    if (options.json) return printJson({ nodes });
    const rows = nodes.map((node) => [
      ...[node.name, node.state + (node.cordoned && node.state === 'down' ? ', cordoned' : '')],
      ...[node.address, String(node.containers), bytesText(node.resources?.memoryFreeBytes ?? 0n)],
      bytesText(node.resources?.diskFreeBytes ?? 0n),
      ...[agoText(node.lastHeartbeatAtMs, Date.now()), node.cordonReason || '-'],
      ...(node.inDoubt.length === 0 ? [] : [node.inDoubt.join(' ')]),
    ]);
    const doubts = nodes.some(({ inDoubt }) => inDoubt.length > 0);
    const head = ['NAME', 'STATE', 'ADDRESS', 'CONTAINERS', 'FREE MEMORY', 'FREE DISK', 'SEEN'];
    print(table([...head, 'CORDONED BY', ...(doubts ? ['IN DOUBT'] : [])], rows));
  });
}

async function cordon(node: string, options: ClusterOptions, on: boolean): Promise<void> {
  await withCluster(options, async (client) => {
    const changed = on ? await client.cordonNode({ node }) : await client.uncordonNode({ node });
    if (options.json) return printJson({ node: changed });
    print(on ? `${node} takes no new containers` : `${node} takes containers`);
  });
}

async function drain(node: string, options: DrainOptions): Promise<void> {
  if (options.at !== undefined && options.cron !== undefined) {
    throw usage('--at and --cron exclude each other', 'give one of them');
  }
  if (options.wait && options.cron !== undefined) {
    throw usage('A schedule has no end to wait for', 'leave out --wait');
  }
  const range = { what: '--concurrency', min: 1, max: 32 };
  const concurrency =
    options.concurrency === undefined ? 0 : parseCount(options.concurrency, range);
  const atMs = options.at === undefined ? 0n : BigInt(parseTime(options.at, Date.now()));
  const { cron = '', timeZone = '', mode = '', dryRun = false } = options;
  const timeoutMs = options.timeout === undefined ? 0n : BigInt(parseDuration(options.timeout));
  const request = { node, atMs, cron, timeZone, concurrency, mode, dryRun, timeoutMs };
  await withCluster(options, async (client) => {
    const answer = await client.drainNode(DrainNodeRequest.fromPartial(request), {
      deadlineMs: 120_000,
    });
    if (answer.operation === undefined) return printPlan(answer.plan, node, options);
    if (options.wait) {
      const success = ({ result }: Operation) => {
        const moved = result?.$case === 'drain' ? result.value.moved : 0;
        return `${node} is drained; ${moved} containers moved`;
      };
      await followToEnd(client, answer.operation, { ...options, success });
    } else if (options.json) printJson({ operation: answer.operation });
    else print(begunText(answer.operation));
  });
}

function begunText({ id, kind, node, state, scheduledAtMs }: Operation): string {
  if (kind === 'drain-schedule') {
    const next = `next at ${timeText(scheduledAtMs)}`;
    return `Drain of ${node} is scheduled, ${next}; "ferry op cancel ${id}" ends the schedule`;
  }
  const when = state === 'scheduled' ? `begins at ${timeText(scheduledAtMs)}` : 'has begun';
  return `Drain of ${node} ${when}; "ferry op watch ${id}" shows it`;
}

function printPlan(plan: readonly DrainMove[], node: string, options: ClusterOptions): void {
  const rows = plan.map(({ container, to, reason, remedy }) => [
    ...[container, to || 'nowhere', reason || '-', remedy || '-'],
  ]);
  if (options.json) printJson({ plan });
  else if (plan.length === 0) print(`There is nothing to move on ${node}`);
  else print(table(['CONTAINER', 'TO', 'WHY NOT', 'REMEDY'], rows));
}
