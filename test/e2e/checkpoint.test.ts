import assert from 'node:assert/strict';
import { readFileSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import * as actions from '../support/actions.js';
import type { ClientMachine } from '../support/client-machine.js';
import { Cluster } from '../support/cluster.js';
import { tryRun } from '../support/shell.js';

const KEYS = 20_000;

describe('a container goes to disk and back', function () {
  this.timeout(120_000);
  let cluster: Cluster;
  let client: ClientMachine;
  let address: string;
  let pids: string;
  let data: { keys: number; digest: string };
  let file: string;

  before(async () => {
    cluster = await Cluster.start({ hosts: ['h1', 'h2'] });
    file = join(cluster.folder.path, 'redis.ferry');
    const rootfs = await actions.makeRootfsFolders(cluster.folder.path);
    const where = { name: 'redis', node: 'h1', rootfs: rootfs.redis };
    address = await actions.runRedis(cluster, where);
    client = await cluster.client();
    await client.call('fill', address, actions.REDIS_PORT, KEYS);
    data = await actions.dataOf(client, address);
    pids = await actions.pidsInside(cluster, 'redis');
  });

  afterEach(function () {
    if (this.currentTest?.state === 'failed') console.error(cluster.logTails());
  });

  after(async () => {
    await cluster?.remove();
  });

  it('a checkpoint leaves it running when asked to', async () => {
    await client.call('startCounter', address, actions.REDIS_PORT, 'counter');
    await cluster.ferryJson(['checkpoint', 'redis', '--out', file, '--leave-running']);
    assert.ok(statSync(file).size > 100_000);
    assert.equal(readFileSync(file).toString('latin1', 0, 8), 'FERRYENC');
    const { report, sameConnection } = await client.call('stopCounter', 'counter');
    assert.equal(sameConnection, true);
    assert.deepEqual([report.errors, report.lostWrites, report.duplicatedWrites], [[], 0, 0]);
    assert.equal(await actions.pidsInside(cluster, 'redis'), pids);
    await client.call('command', address, actions.REDIS_PORT, 'DEL', 'counter');
  });

  it('a file that is there already is not overwritten', async () => {
    const answer = await cluster.ferry(['checkpoint', 'redis', '--out', file]);
    assert.notEqual(answer.status, 0);
    assert.match(answer.stderr, /redis\.ferry/);
    assert.deepEqual(await actions.dataOf(client, address), data);
  });

  it('without --leave-running it is gone, and starts again on another host', async () => {
    await cluster.ferryJson(['checkpoint', 'redis', '--out', file, '--force']);
    assert.deepEqual(await actions.containers(cluster), []);
    await cluster.ferryJson(['restore', file, '--node', 'h2']);
    const { node } = await actions.containerNamed(cluster, 'redis');
    assert.equal(node, 'h2');
    assert.equal(await actions.pidsInside(cluster, 'redis'), pids);
    assert.deepEqual(await actions.dataOf(client, address), data);
    const wrong = await client.call('check', address, actions.REDIS_PORT, KEYS, 5000);
    assert.deepEqual(wrong, []);
  });

  it('the runtime knows the restored container as its own', async () => {
    const root = join(cluster.stateDir('h2'), 'run', 'runc');
    const list = JSON.parse((await tryRun('runc', ['--root', root, 'list', '-f', 'json'])).stdout);
    assert.equal(list.length, 1);
    assert.equal(list[0].status, 'running');
    const inside = await tryRun('runc', [
      ...['--root', root, 'exec', list[0].id],
      ...['/usr/bin/redis-server', '--version'],
    ]);
    assert.match(inside.stdout, /Redis server v=/, inside.stderr);
  });

  it('a damaged or truncated file starts nothing, and says so', async () => {
    await cluster.ferryJson(['stop', 'redis']);
    const broken = `${file}.broken`;
    const half = Math.floor(statSync(file).size / 2);
    await tryRun('cp', [file, broken]);
    truncateSync(broken, half);
    const truncated = await cluster.ferry(['restore', broken, '--node', 'h1']);
    assert.equal(truncated.status, 1, truncated.stdout);
    assert.match(truncated.stderr, /truncat|damage|end|short|hash/i);
    await tryRun('cp', [file, broken]);
    await tryRun('dd', [
      ...['if=/dev/urandom', `of=${broken}`, 'bs=1', 'count=64', `seek=${half}`, 'conv=notrunc'],
    ]);
    const damaged = await cluster.ferry(['restore', broken, '--node', 'h1']);
    assert.equal(damaged.status, 1, damaged.stdout);
    assert.match(damaged.stderr, /damage|hash|content|checksum/i);
    assert.deepEqual(await actions.containers(cluster), []);
  });

  it('the whole file still starts, under another name too', async () => {
    await cluster.ferryJson(['restore', file, '--node', 'h1', '--name', 'redis-2']);
    assert.equal((await actions.containerNamed(cluster, 'redis-2')).node, 'h1');
    assert.deepEqual(await actions.dataOf(client, address), data);
    await cluster.ferryJson(['stop', 'redis-2']);
    assert.deepEqual(await cluster.shutDown(), []);
  });
});
