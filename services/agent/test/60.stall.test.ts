import { strict as assert } from 'node:assert';
import { setTimeout as sleep } from 'node:timers/promises';
import { ClientMachine } from '../../../test/support/client-machine.js';
import { FaultyPort } from './support/faulty-port.js';
import { type HostName, TwoAgents } from './support/two-agents.js';

const REDIS = ['/usr/bin/redis-server', '--port', '6379', '--save', '', '--protected-mode', 'no'];

describe('agent: what a client notices of a migration', function () {
  this.timeout(120_000);
  let two: TwoAgents;
  let client: ClientMachine;
  before(async () => {
    two = await TwoAgents.start();
    const rootfs = await two.rootfs(['/usr/bin/redis-server']);
    await two.run('h1', { name: 'redis', rootfs, args: REDIS });
    client = await ClientMachine.start(two.network.on('client'), two.folder.env);
  });
  after(async () => {
    await client?.stop();
    assert.deepEqual(await two?.remove(), []);
  });

  it('is the pause alone: nothing that either side said is lost', async () => {
    const { address } = (await two.at('h1').agent.host.get('redis')).record.network;
    await client.call('startCounter', address, 6379, 'count');
    const route: [HostName, HostName][] = [
      ['h1', 'h2'],
      ['h2', 'h1'],
    ];
    const excess: number[] = [];
    for (const [i, [from, to]] of route.entries()) {
      await client.call('resetStalls');
      const { downtimeMs } = await two.migrate('redis', from, to, `move-${i}`);
      const { longestStallMs } = await client.call('counterReport');
      excess.push(longestStallMs - downtimeMs);
    }
    const { report, sameConnection } = await client.call('stopCounter', 'count');
    assert(sameConnection);
    // A segment that was lost is sent again after 200 ms at the earliest. One of the two may have met a busy machine.
    assert(Math.min(...excess) < 150, `the client stood longer than the container: ${excess} ms`);
    assert.deepEqual([report.lostWrites, report.duplicatedWrites, report.errors], [0, 0, []]);
  });

  it('loses nothing either when the migration is given up while all is frozen', async () => {
    const { address } = (await two.at('h1').agent.host.get('redis')).record.network;
    await client.call('startCounter', address, 6379, 'count');
    const asked: Promise<number>[] = [];
    const heldMs = 200;
    async function* cutOff<T>(chunks: AsyncIterable<T>): AsyncGenerator<T> {
      for await (const chunk of chunks) {
        // A connection that begins now: were its first packet lost, it would be sent again after a second.
        const answered = client.call('command', address, 6379, 'PING');
        asked.push(answered.then(() => performance.now()));
        await sleep(heldMs);
        yield chunk;
        return;
      }
    }
    two.wrapSource = (port) => new FaultyPort(port, { pages: cutOff });
    await assert.rejects(two.migrate('redis', 'h1', 'h2', 'given-up'), { code: 'pages.truncated' });
    two.wrapSource = undefined;
    const endedAt = performance.now();
    const late = (await Promise.all(asked)).map((at) => at - endedAt);
    assert.equal(late.length, 1);
    assert(late[0]! < 500, `answered ${late} ms after the end`);
    const { report, sameConnection } = await client.call('stopCounter', 'count');
    assert(sameConnection);
    assert.deepEqual([report.lostWrites, report.duplicatedWrites, report.errors], [0, 0, []]);
  });
});
