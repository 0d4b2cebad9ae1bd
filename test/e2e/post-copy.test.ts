import assert from 'node:assert/strict';
import * as actions from '../support/actions.js';
import type { ClientMachine } from '../support/client-machine.js';
import { Cluster } from '../support/cluster.js';
import { sleep } from '../support/shell.js';

const KEYS = 200_000;
const COUNTER = 'counter';

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
  let cluster: Cluster;
  let client: ClientMachine;
  let address: string;
  let data: { keys: number; digest: string };

  before(async () => {
    cluster = await Cluster.start({ hosts: ['h1', 'h2'] });
    const rootfs = await actions.makeRootfsFolders(cluster.folder.path);
    address = await actions.runRedis(cluster, { name: 'redis', node: 'h1', rootfs: rootfs.redis });
    client = await cluster.client();
    await client.call('fill', address, actions.REDIS_PORT, KEYS);
    data = await actions.dataOf(client, address);
    await client.call('startCounter', address, actions.REDIS_PORT, COUNTER);
  });

  afterEach(function () {
    if (this.currentTest?.state === 'failed') console.error(cluster.logTails());
  });

  after(async () => {
    await cluster?.remove();
  });

  const migrate = async (to: string, ...options: string[]) => {
    const args = ['migrate', 'redis', '--to', to, ...options];
    return (await cluster.ferryJson<Moved>(args, 60_000)).operation.migration;
  };

  async function goesOn(): Promise<void> {
    const before = await client.call('counterReport');
    await sleep(300);
    const after = await client.call('counterReport');
    assert.ok(after.replies > before.replies + 20, 'the client goes on counting');
    assert.deepEqual(after.errors, []);
    assert.deepEqual([after.lostWrites, after.duplicatedWrites], [0, 0]);
  }

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
