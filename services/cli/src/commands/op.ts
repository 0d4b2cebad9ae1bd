import { ListOperationsRequest, type Operation } from '@ferry/api';
import { Command } from 'commander';
import { type ClusterOptions, withCluster, withClusterOptions } from '../cluster.js';
import { follow, progressScreen, throwUnlessSucceeded } from '../follow.js';
import { durationText, print, printJson, table, timeText, warningLines } from '../output.js';
import { parseCount } from '../parse.js';
import { migrationText } from './migrate.js';

interface ListOptions extends ClusterOptions {
  active?: boolean;
  container?: string;
  node?: string;
  limit?: string;
}
interface CancelOptions extends ClusterOptions {
  reason?: string;
  wait?: boolean;
}

export function build(): Command {
  const group = new Command().description(
    'Operations: what was asked of the cluster, and how far it is.',
  );
  group.addCommand(
    withClusterOptions(
      new Command('ls')
        .description('Lists operations, newest first.')
        .option('--active', 'only those that have not ended')
        .option('--container <name>', 'only those on it')
        .option('--node <node>', 'only those that concern it')
        .option('--limit <number>', 'at most so many (50)')
        .addHelpText(
          'after',
          '\nExamples:\n  ferry op ls --active\n  ferry op ls --container web --json',
        )
        .action(list),
    ),
  );
  group.addCommand(
    withClusterOptions(
      new Command('show')
        .description('Shows one operation.')
        .argument('<id>')
        .addHelpText('after', '\nExample:\n  ferry op show mf3k2-1a2b3c --json')
        .action(show),
    ),
  );
  group.addCommand(
    withClusterOptions(
      new Command('watch')
        .description(
          'Shows the progress of an operation until it ends; exit status 1 when it fails.',
        )
        .argument('<id>')
        .addHelpText('after', '\nExample:\n  ferry op watch mf3k2-1a2b3c')
        .action(watch),
    ),
  );
  group.addCommand(
    withClusterOptions(
      new Command('cancel')
        .description(
          'Asks an operation to end. Past the point of no return it ends as if not asked.',
        )
        .argument('<id>')
        .option('--reason <text>')
        .option('--wait', 'until it has ended')
        .addHelpText('after', '\nExample:\n  ferry op cancel mf3k2-1a2b3c --wait')
        .action(cancel),
    ),
  );
  return group;
}

async function list(options: ListOptions): Promise<void> {
  const range = { what: '--limit', min: 1, max: 10_000 };
  const limit = options.limit === undefined ? 50 : parseCount(options.limit, range);
  await withCluster(options, async (client) => {
    const operations: Operation[] = [];
    const { container = '', node = '', active: activeOnly = false } = options;
    for (let pageToken = ''; ; ) {
      const pageSize = Math.min(500, limit - operations.length);
      const request = { container, node, activeOnly, pageSize, pageToken };
      const page = await client.listOperations(ListOperationsRequest.fromPartial(request));
      operations.push(...page.operations);
      pageToken = page.nextPageToken;
      if (pageToken === '' || operations.length >= limit) break;
    }
    if (options.json) return printJson({ operations });
    const head = ['ID', 'KIND', 'STATE', 'CONTAINER', 'NODE', 'BEGUN', 'PROGRESS'];
    print(table(head, operations.map(row)));
  });
}

function row(operation: Operation): string[] {
  const { id, kind, state, container, node, source, createdAtMs, progress } = operation;
  const where = source === '' ? node : `${source} -> ${node}`;
  const fraction = progress === undefined ? '-' : `${Math.floor(progress.fraction * 100)} %`;
  const now = state === 'scheduled' ? timeText(operation.scheduledAtMs) : fraction;
  return [id, kind, state, container || '-', where || '-', timeText(createdAtMs), now];
}

async function show(id: string, options: ClusterOptions): Promise<void> {
  await withCluster(options, async (client) => {
    const operation = await client.getOperation({ id });
    if (options.json) printJson({ operation });
    else print(operationText(operation));
  });
}

async function watch(id: string, options: ClusterOptions): Promise<void> {
  await withCluster(options, async (client) => {
    const operation = await follow(client, id, progressScreen(options));
    if (options.json) printJson({ operation });
    else print(operationText(operation));
    throwUnlessSucceeded(operation);
  });
}

async function cancel(id: string, options: CancelOptions): Promise<void> {
  await withCluster(options, async (client) => {
    let operation = await client.cancelOperation({ id, reason: options.reason ?? '' });
    if (options.wait) operation = await follow(client, id, progressScreen(options));
    if (options.json) return printJson({ operation });
    const asked = operation.state === 'running' || operation.state === 'in-doubt';
    print(asked ? `${id} is asked to end` : `${id} is ${operation.state}`);
  });
}

/** Everything about an operation, for people. */
export function operationText(operation: Operation): string {
  const { id, kind, state, container, node, source, error, progress, cron } = operation;
  const took = Number(operation.finishedAtMs - operation.startedAtMs);
  const lines: [string, string][] = [
    ['operation', `${id} (${kind})`],
    ['state', state + (operation.cancelRequested && state === 'running' ? ', asked to end' : '')],
    ['container', container],
    ['node', source === '' ? node : `${source} -> ${node}`],
    ['schedule', cron],
    ['begins', operation.scheduledAtMs > 0n ? timeText(operation.scheduledAtMs) : ''],
    ['created', timeText(operation.createdAtMs)],
    ['took', operation.finishedAtMs > 0n && operation.startedAtMs > 0n ? durationText(took) : ''],
    ['part of', operation.parent],
    ['progress', progress === undefined ? '' : `${progress.phase} ${progress.message}`.trim()],
    ['error', error === undefined ? '' : error.message],
    ['remedy', error?.remedy ?? ''],
  ];
  const text = lines
    .filter(([, value]) => value !== '')
    .map(([name, value]) => `${name.padEnd(10)} ${value}`);
  if (operation.result?.$case === 'migration') text.push(migrationText(operation));
  if (operation.result?.$case === 'checkpoint') {
    text.push(...warningLines(operation.result.value.warnings));
  }
  if (operation.result?.$case === 'drain') {
    for (const { container: moved, to, state: how, reason } of operation.result.value.moves) {
      text.push(
        `  ${moved}: ${how}${to === '' ? '' : ` to ${to}`}${reason === '' ? '' : ` (${reason})`}`,
      );
    }
  }
  return text.join('\n');
}
