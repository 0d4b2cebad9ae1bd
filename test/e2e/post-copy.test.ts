import assert from 'node:assert/strict';
import type { Cluster } from '../support/cluster.js';
import { RedisUnderLoad } from '../support/redis-under-load.js';
import { sleep } from '../support/shell.js';

const KEYS = 200_000;

interface Later {
  readonly faults: number;
  readonly longest_stall_ms: number;
  readonly bytes_fetched: number;
  readonly bytes_pushed: number;
  readonly reconnections: number;
}
interface Moved {
  readonly operation: { readonly migration: { readonly mode: string; readonly later?: Later } };
}

describe('a Redis container under load runs before its memory is there', function () {
  this.timeout(120_000);
  let redis: RedisUnderLoad;
  let cluster: Cluster;

  before(async () => {
    redis = await RedisUnderLoad.start(KEYS);
    cluster = redis.cluster;
  });

  afterEach(function () {
    if (this.currentTest?.state === 'failed') console.error(cluster.logTails());
  });

  after(async () => {
    await redis?.cluster.remove();
  });

  const migrate = async (to: string, ...options: string[]) => {
    const args = ['migrate', 'redis', '--to', to, ...options];
    return (await cluster.ferryJson<Moved>(args, 60_000)).operation.migration;
  };

  const goesOn = () => redis.countsThrough(async () => {});

  it('with what the rounds have not brought (hybrid)', async () => {
    const { mode, later } = await migrate('h2', '--mode', 'hybrid');
    assert.equal(mode, 'hybrid');
    assert.ok((later?.bytes_fetched ?? 0) + (later?.bytes_pushed ?? 0) > 0);
    await goesOn();
  });

  it('at once (post-copy)', async () => {
    const { mode, later } = await migrate('h1', '--mode', 'post-copy');
    assert.equal(mode, 'post-copy');
    assert.ok((later?.faults ?? 0) > 0 && (later?.longest_stall_ms ?? 0) > 0);
    assert.ok((later?.bytes_pushed ?? 0) > KEYS * 60);
    await goesOn();
  });

  it('and goes on when the line between the hosts was cut meanwhile', async () => {
    const moved = migrate('h2', '--mode', 'post-copy', '--bandwidth', '2MiB');
    moved.catch(() => {}); // looked at below
    const id = await fetching();
    await cluster.network.cable('h1', 'down');
    await sleep(7000);
    await cluster.network.cable('h1', 'up');
    await assert.rejects(
      cluster.ferryJson(['op', 'cancel', id]),
      /runs at its destination already/,
    );
    const { later } = await moved;
    assert.ok((later?.reconnections ?? 0) > 0);
    await goesOn();
  });

  it('and in the end the client has its connection, and Redis its data', () => redis.isWhole());

  /** The operation that is under way, once the container runs at its destination. */
  async function fetching(): Promise<string> {
    for (let i = 0; i < 200; i += 1) {
      const { operations } = await cluster.ferryJson<{
        operations: { id: string; state: string; progress?: { phase?: string } }[];
      }>(['op', 'ls']);
      const found = operations.find(({ progress, state }) => {
        return state === 'running' && progress?.phase === 'post-copy';
      });
      if (found !== undefined) return found.id;
      await sleep(50);
    }
    throw new Error('it never came to that');
  }
});
