// The demonstration: three hosts on this machine, a Redis container that moves between them while a client counts.
// Usage: npm run demo [-- --json] [--keys N]
import { parseArgs } from 'node:util';
import * as steps from '../test/support/actions.js';
import type { ClientMachine } from '../test/support/client-machine.js';
import { Cluster } from '../test/support/cluster.js';
import { sleep } from '../test/support/shell.js';
import { brokenPromises, type DemoResult, reportText } from './result.js';
import { Screen } from './screen.js';

const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    keys: { type: 'string', default: '1000000' },
  },
});
const keyCount = Number(options.keys);
const screen = new Screen(options.json ? process.stderr : process.stdout);
const COUNTER = 'counter';

async function main(): Promise<DemoResult> {
  screen.phase('Three hosts on this machine');
  const cluster = await Cluster.start({
    rehearsed: true,
    hosts: ['h1', 'h2', 'h3'],
    progress: (line) => screen.note(line),
  });
  let result: DemoResult;
  const leftovers: string[] = [];
  try {
    result = await play(cluster);
    screen.phase('The end: stopping all, looking for what is left');
    await stopContainers(cluster);
    leftovers.push(...(await cluster.shutDown()));
  } catch (error) {
    screen.print(cluster.logTails());
    throw error;
  } finally {
    leftovers.push(...(await cluster.remove()));
  }
  return { ...result, leftovers };
}

async function play(cluster: Cluster): Promise<DemoResult> {
  screen.phase('A Redis container on h1');
  const rootfs = await steps.makeRootfsFolders(cluster.folder.path);
  const address = await steps.runRedis(cluster, {
    name: 'redis',
    node: 'h1',
    rootfs: rootfs.redis,
  });
  screen.note(`redis-server answers at ${address}:${steps.REDIS_PORT}`);
  const client = await cluster.client();
  client.onProgress = (done) => screen.bar('setting keys', done, keyCount);
  await client.call('fill', address, steps.REDIS_PORT, keyCount);
  const before = await steps.dataOf(client, address);
  const pids = [await steps.pidsInside(cluster, 'redis')];
  screen.note(`${before.keys.toLocaleString('en')} keys, digest ${before.digest.slice(0, 12)}…`);
  screen.note(`tasks in the container: ${pids[0]}`);

  screen.phase('A client counts over one TCP connection, without pause');
  await client.call('startCounter', address, steps.REDIS_PORT, COUNTER);
  await sleep(1000);
  await tellCounting(client);

  const migrations = [];
  for (const to of ['h2', 'h1']) {
    screen.phase(`ferry migrate redis --to ${to}`);
    const line = await steps.migrateShown(cluster, 'redis', to, options.json ? 2 : 1);
    migrations.push(line);
    screen.note(
      `${line.mode}, downtime ${Math.round(line.downtime_ms)} ms, total ${Math.round(line.total_ms)} ms`,
    );
    pids.push(await steps.pidsInside(cluster, 'redis'));
    await sleep(500);
    await tellCounting(client);
  }

  const drain = await drainOnSchedule(cluster, client, rootfs);
  migrations.push(...drain.migrations);
  pids.push(await steps.pidsInside(cluster, 'redis'));
  await tellCounting(client);

  screen.phase('Comparing');
  const { report, sameConnection } = await client.call('stopCounter', COUNTER);
  for (const error of report.errors.slice(0, 5)) screen.note(`client error: ${error}`);
  await client.call('command', address, steps.REDIS_PORT, 'DEL', COUNTER);
  const after = await steps.dataOf(client, address);
  const wrong = await client.call('check', address, steps.REDIS_PORT, keyCount, 10_000);
  screen.note(`${after.keys.toLocaleString('en')} keys, digest ${after.digest.slice(0, 12)}…`);
  return {
    migrations,
    same_pids: pids.every((list) => list === pids[0]),
    same_connection: sameConnection,
    client_errors: report.errors.length,
    lost_writes: report.lostWrites,
    duplicated_writes: report.duplicatedWrites,
    leftovers: [],
    drain: drain.counts,
    same_data: after.keys === before.keys && after.digest === before.digest && wrong.length === 0,
    keys: after.keys,
    increments: report.replies,
    longest_stall_ms: report.longestStallMs,
  };
}

async function tellCounting(client: ClientMachine): Promise<void> {
  const report = await client.call('counterReport');
  const counted = report.replies.toLocaleString('en');
  const stall = Math.round(report.longestStallMs);
  screen.note(
    `the client has counted to ${counted}; ${report.lostWrites} lost, ${report.duplicatedWrites} twice, ` +
      `${report.errors.length} errors; longest wait ${stall} ms`,
  );
}

async function drainOnSchedule(
  cluster: Cluster,
  client: ClientMachine,
  rootfs: { redis: string; shell: string },
) {
  screen.phase('h1 gets three small containers more, and is drained on a schedule');
  const tickers = ['ticker-1', 'ticker-2'];
  for (const name of tickers) {
    await steps.runTicker(cluster, { name, node: 'h1', rootfs: rootfs.shell });
  }
  const cache = { name: 'cache', node: 'h1', rootfs: rootfs.redis };
  const cacheAddress = await steps.runRedis(cluster, cache);
  await client.call('command', cacheAddress, steps.REDIS_PORT, 'SET', 'greeting', 'hello');
  const at = new Date(Date.now() + 3000);
  const order = ['node', 'drain', 'h1', '--at', at.toISOString()];
  screen.note(`ferry ${order.join(' ')}`);
  const { operation } = await cluster.ferryJson<{ operation: steps.OperationLine }>(order);
  let last = '';
  const done = await steps.finished(cluster, operation.id, (line) => {
    const text = `${line.state}${line.progress?.message ? `: ${line.progress.message}` : ''}`;
    if (text !== last) screen.note(text);
    last = text;
  });
  if (done.error !== undefined) screen.note(done.error.message);
  const migrations = [];
  for (const id of done.children ?? []) {
    const child = await steps.operation(cluster, id);
    if (child.migration !== undefined) migrations.push(steps.migrationLine(child.migration));
  }
  const left = (await steps.containers(cluster)).filter(({ node }) => node === 'h1');
  for (const { name } of left) screen.note(`still on h1: ${name}`);
  for (const name of tickers) {
    const ticks = await steps.ticksInLog(cluster, name);
    screen.note(`${name}: ${ticks} lines in its log, each once and in order`);
  }
  const greeting = await client.call('command', cacheAddress, steps.REDIS_PORT, 'GET', 'greeting');
  if (greeting !== 'hello') throw new Error(`The small Redis answers ${String(greeting)}`);
  const moved = done.drain?.moved ?? 0;
  return { migrations, counts: { moved, failed: (done.drain?.failed ?? 0) + left.length } };
}

async function stopContainers(cluster: Cluster): Promise<void> {
  for (const { name } of await steps.containers(cluster)) {
    await cluster.ferryJson(['stop', name]);
  }
}

try {
  const result = await main();
  const broken = brokenPromises(result);
  screen.print(`\n${reportText(result)}\n`);
  screen.print(broken.length === 0 ? 'All held.' : `Not held:\n  ${broken.join('\n  ')}`);
  if (options.json) console.log(JSON.stringify(result));
  process.exitCode = broken.length === 0 ? 0 : 1;
} catch (error) {
  screen.print(`\nThe demo failed: ${error instanceof Error ? error.stack : String(error)}`);
  for (let cause = (error as Error).cause; cause !== undefined; cause = (cause as Error).cause) {
    screen.print(`caused by: ${cause instanceof Error ? cause.stack : String(cause)}`);
  }
  process.exitCode = 1;
}
