import assert from 'node:assert/strict';
import * as actions from '../support/actions.js';
import type { ClientMachine } from '../support/client-machine.js';
import { Cluster } from '../support/cluster.js';
import { sleep } from '../support/shell.js';
import { tracesOf } from '../support/traces.js';

const KEYS = 50_000;
const COUNTER = 'counter';

describe('a Redis container under load moves between hosts', function () {
  this.timeout(120_000);
  let cluster: Cluster;
  let client: ClientMachine;
  let address: string;
  let pids: string;
  let data: { keys: number; digest: string };

  before(async () => {
    cluster = await Cluster.start({ hosts: ['h1', 'h2'] });
    const rootfs = await actions.makeRootfsFolders(cluster.folder.path);
    const where = { name: 'redis', node: 'h1', rootfs: rootfs.redis };
    address = await actions.runRedis(cluster, where);
    client = await cluster.client();
    await client.call('fill', address, actions.REDIS_PORT, KEYS);
    data = await actions.dataOf(client, address);
    assert.equal(data.keys, KEYS);
    pids = await actions.pidsInside(cluster, 'redis');
    assert.match(pids, /^1 redis-server/);
    await client.call('startCounter', address, actions.REDIS_PORT, COUNTER);
  });

  afterEach(function () {
    if (this.currentTest?.state === 'failed') console.error(cluster.logTails());
  });

  after(async () => {
    await cluster?.remove();
  });

  for (let round = 1; round <= 5; round += 1) {
    for (const [from, to] of [
      ['h1', 'h2'],
      ['h2', 'h1'],
    ] as const) {
      it(`from ${from} to ${to}, round ${round}`, async () => {
        const before = await client.call('counterReport');
        const line = await actions.migrate(cluster, 'redis', to);
        assert.deepEqual([line.container, line.from, line.to], ['redis', from, to]);
        assert.ok(line.downtime_ms > 0 && line.downtime_ms <= line.total_ms);
        assert.ok(line.bytes_raw > KEYS * 60, `${line.bytes_raw} bytes of memory`);
        assert.ok(line.bytes_wire > 0 && line.bytes_wire < line.bytes_raw);
        assert.equal((await actions.containerNamed(cluster, 'redis')).node, to);
        assert.equal(await actions.pidsInside(cluster, 'redis'), pids);
        assert.deepEqual(containersLeft(cluster, from), []);
        await sleep(300);
        const after = await client.call('counterReport');
        assert.ok(after.replies > before.replies + 100, 'the client goes on counting');
        assert.deepEqual(after.errors, []);
        assert.deepEqual([after.lostWrites, after.duplicatedWrites], [0, 0]);
      });
    }
  }

  it('and in the end the client has its connection, and Redis its data', async () => {
    const { report, sameConnection } = await client.call('stopCounter', COUNTER);
    assert.equal(sameConnection, true);
    assert.deepEqual(report.errors, []);
    assert.deepEqual([report.lostWrites, report.duplicatedWrites], [0, 0]);
    await client.call('command', address, actions.REDIS_PORT, 'DEL', COUNTER);
    assert.deepEqual(await actions.dataOf(client, address), data);
    const wrong = await client.call('check', address, actions.REDIS_PORT, KEYS, 5000);
    assert.deepEqual(wrong, []);
  });

  it('and when it is stopped, nothing is left', async () => {
    await cluster.ferryJson(['stop', 'redis']);
    assert.deepEqual(await actions.containers(cluster), []);
    assert.deepEqual(await cluster.shutDown(), []);
  });
});

/** The processes of containers on a host, by its control group. */
function containersLeft(cluster: Cluster, host: string): string[] {
  const mark = `ferry-${cluster.folder.id}-${host}/`;
  return tracesOf(cluster.folder.id).cgroups.filter((path) => path.includes(mark));
}
