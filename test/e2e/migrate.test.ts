import assert from 'node:assert/strict';
import * as actions from '../support/actions.js';
import type { Cluster } from '../support/cluster.js';
import { RedisUnderLoad } from '../support/redis-under-load.js';
import { tracesOf } from '../support/traces.js';

const KEYS = 50_000;

describe('a Redis container under load moves between hosts', function () {
  this.timeout(120_000);
  let redis: RedisUnderLoad;
  let cluster: Cluster;
  let pids: string;

  before(async () => {
    redis = await RedisUnderLoad.start(KEYS);
    cluster = redis.cluster;
    pids = await actions.pidsInside(cluster, 'redis');
    assert.match(pids, /^1 redis-server/);
  });

  afterEach(function () {
    if (this.currentTest?.state === 'failed') console.error(cluster.logTails());
  });

  after(async () => {
    await redis?.cluster.remove();
  });

  for (let round = 1; round <= 5; round += 1) {
    for (const [from, to] of [
      ['h1', 'h2'],
      ['h2', 'h1'],
    ] as const) {
      it(`from ${from} to ${to}, round ${round}`, async () => {
        await redis.countsThrough(async () => {
          const line = await actions.migrate(cluster, 'redis', to);
          assert.deepEqual([line.container, line.from, line.to], ['redis', from, to]);
          assert.ok(line.downtime_ms > 0 && line.downtime_ms <= line.total_ms);
          assert.ok(line.bytes_raw > KEYS * 60, `${line.bytes_raw} bytes of memory`);
          assert.ok(line.bytes_wire > 0 && line.bytes_wire < line.bytes_raw);
          assert.equal((await actions.containerNamed(cluster, 'redis')).node, to);
          assert.equal(await actions.pidsInside(cluster, 'redis'), pids);
          assert.deepEqual(containersLeft(cluster, from), []);
        });
      });
    }
  }

  it('and in the end the client has its connection, and Redis its data', () => redis.isWhole());

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
