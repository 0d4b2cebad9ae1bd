import { strict as assert } from 'node:assert';
import { ClientMachine } from '../../../test/support/client-machine.js';
import { type HostName, TwoAgents } from './support/two-agents.js';

const REDIS = ['/usr/bin/redis-server', '--port', '6379', '--save', '', '--protected-mode', 'no'];
const PRINTER = 'i=0; while :; do i=$((i+1)); echo "line $i"; read -t 0.02 x </dev/zero; done';

describe('agent: containers that move', function () {
  this.timeout(120_000);
  let two: TwoAgents;
  let client: ClientMachine;
  before(async () => {
    two = await TwoAgents.start();
    const rootfs = await two.rootfs(['/usr/bin/redis-server', '/usr/bin/redis-cli', '/bin/bash']);
    await two.run('h1', { name: 'redis', rootfs, args: REDIS });
    await two.run('h1', { name: 'printer', rootfs, args: ['/bin/bash', '-c', PRINTER] });
    client = await ClientMachine.start(two.network.on('client'), two.folder.env);
  });
  after(async () => {
    await client?.stop();
    assert.deepEqual(await two?.remove(), []);
  });

  const cli = async (host: HostName, ...args: string[]) => {
    const { stdout } = await two.at(host).agent.host.exec('redis', ['/usr/bin/redis-cli', ...args]);
    return stdout.toString().trim();
  };

  it('arrive with their memory and their connections, there and back', async () => {
    await cli('h1', 'set', 'word', 'kept');
    const { address } = (await two.at('h1').agent.host.get('redis')).record.network;
    await client.call('startCounter', address, 6379, 'count');
    const route: [HostName, HostName][] = [
      ['h1', 'h2'],
      ['h2', 'h1'],
      ['h1', 'h2'],
    ];
    for (const [i, [from, to]] of route.entries()) {
      const result = await two.migrate('redis', from, to, `move-${i}`);
      assert.equal(result.epoch, BigInt(i + 2));
      assert(result.bytesRaw > 1_000_000n && result.bytesWire < result.bytesRaw);
      assert(result.downtimeMs > 0 && result.downtimeMs < result.totalMs);
      assert.equal(await cli(to, 'get', 'word'), 'kept');
      assert.equal((await two.states(from)).redis, undefined);
      assert.equal((await two.states(to)).redis, 'running');
    }
    const { report, sameConnection } = await client.call('stopCounter', 'count');
    assert(sameConnection);
    assert.deepEqual([report.lostWrites, report.duplicatedWrites, report.errors], [0, 0, []]);
    assert(report.replies > 100, `${report.replies} replies`);
    assert.equal(await cli('h2', 'get', 'count'), String(report.lastReply));
  });

  it('arrive with their log, no line lost or twice', async () => {
    const { pid } = await two.at('h1').agent.host.get('printer');
    assert(pid !== undefined && pid > 0);
    await two.migrate('printer', 'h1', 'h2', 'printer-0');
    await two.migrate('printer', 'h2', 'h1', 'printer-1');
    await new Promise((done) => setTimeout(done, 300));
    const lines: string[] = [];
    for await (const { line } of two.at('h1').agent.host.readLog('printer')) lines.push(line);
    const expected = lines.map((_line, i) => `line ${i + 1}`);
    assert.deepEqual(lines, expected);
    assert(lines.length > 10);
  });

  it('answer a repeated call with the same result, and are not moved twice', async () => {
    const first = await two.migrate('redis', 'h2', 'h1', 'again');
    const { client: agent } = two.at('h1');
    const journey = { migrationId: 'again', epoch: first.epoch, container: 'redis' };
    const request = two.receiveRequest(journey, 'h2', 'h1');
    let second: unknown;
    for await (const { event } of agent.receiveMigration(request)) {
      if (event?.$case === 'result') second = event.value;
    }
    assert.deepEqual(second, first);
    assert.equal((await agent.queryMigration({ migrationId: 'again' })).state, 'succeeded');
    assert.equal((await two.states('h1')).redis, 'running');
  });

  it('go on while their agent ends and starts again, and can be moved after it', async () => {
    await cli('h1', 'set', 'word', 'still');
    await two.stopAgent('h1');
    await two.startAgent('h1');
    assert.equal(await cli('h1', 'get', 'word'), 'still');
    assert.deepEqual(await two.states('h1'), { printer: 'running', redis: 'running' });
    await two.migrate('redis', 'h1', 'h2', 'restarted');
    assert.equal(await cli('h2', 'get', 'word'), 'still');
  });
});
