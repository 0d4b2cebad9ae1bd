import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import * as actions from '../support/actions.js';
import type { ClientMachine } from '../support/client-machine.js';
import { Cluster } from '../support/cluster.js';
import { run, sleep, until } from '../support/shell.js';

const COUNTER = 'counter';

describe('what goes wrong between hosts', function () {
  this.timeout(120_000);
  let cluster: Cluster;
  let client: ClientMachine;
  let address: string;
  let rootfs: { redis: string; shell: string };

  before(async () => {
    cluster = await Cluster.start({
      hosts: ['h1', 'h2', 'h3'],
      // The disk of h3 is full but for a little.
      prepareHost: async (host, stateDir) => {
        if (host !== 'h3') return;
        mkdirSync(stateDir);
        await run('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'none', stateDir]);
      },
    });
    rootfs = await actions.makeRootfsFolders(cluster.folder.path);
    const where = { name: 'redis', node: 'h1', rootfs: rootfs.redis };
    address = await actions.runRedis(cluster, where);
    client = await cluster.client();
    await client.call('fill', address, actions.REDIS_PORT, 100_000);
    await client.call('startCounter', address, actions.REDIS_PORT, COUNTER);
  });

  afterEach(async function () {
    if (this.currentTest?.state === 'failed') console.error(cluster.logTails());
  });

  after(async () => {
    await cluster?.remove();
  });

  /** Whatever was tried: Redis runs on h1 as before, and the client has noticed nothing. */
  async function unharmed(): Promise<void> {
    const before = await client.call('counterReport');
    await until('the client to count on', async () => {
      const { replies } = await client.call('counterReport');
      return replies > before.replies + 100 ? true : undefined;
    });
    const report = await client.call('counterReport');
    assert.deepEqual(report.errors, []);
    assert.deepEqual([report.lostWrites, report.duplicatedWrites], [0, 0]);
    assert.equal((await actions.containerNamed(cluster, 'redis')).node, 'h1');
  }

  async function fails(args: readonly string[], status: number, text: RegExp): Promise<void> {
    const answer = await cluster.ferry(args);
    assert.equal(answer.status, status, `${args.join(' ')}: ${answer.stdout}${answer.stderr}`);
    assert.match(answer.stderr, text);
  }

  const usage: [string, readonly string[], RegExp][] = [
    ['an unknown command', ['teleport'], /teleport/],
    ['a missing argument', ['migrate'], /name|argument/i],
    ['an unknown option', ['migrate', 'redis', '--fast'], /--fast/],
    ['a time that is none', ['node', 'drain', 'h1', '--at', 'noonish'], /noonish/],
  ];
  for (const [what, args, text] of usage) {
    it(`${what}: exit status 2, and the value is named`, () => fails(args, 2, text));
  }

  it('a schedule that is none is named', () =>
    fails(['node', 'drain', 'h1', '--cron', '61 * * * *'], 1, /61/));

  it('a container that does not exist is named', () =>
    fails(['migrate', 'nosuch', '--to', 'h2'], 1, /nosuch/));

  it('a node that does not exist is named', async () => {
    await fails(['migrate', 'redis', '--to', 'h9'], 1, /h9/);
    await unharmed();
  });

  it('the node where it already is, is refused', async () => {
    await fails(['migrate', 'redis', '--to', 'h1'], 1, /h1/);
    await unharmed();
  });

  it('a root filesystem that is not there is named', () =>
    fails(['run', 'lost', '--node', 'h1', '--rootfs', '/nowhere', '--', '/bin/x'], 1, /\/nowhere/));

  it('a name that is taken is refused', () =>
    fails(['run', 'redis', '--node', 'h2', '--rootfs', rootfs.redis, '--', '/bin/x'], 1, /redis/));

  it('a destination without room is refused before anything freezes', async () => {
    await client.call('resetStalls');
    await fails(['migrate', 'redis', '--to', 'h3'], 1, /disk|room|space/i);
    await unharmed();
    const { longestStallMs } = await client.call('counterReport');
    assert.ok(longestStallMs < 1000, `a wait of ${longestStallMs} ms`);
  });

  it('a destination whose agent is down is refused, and taken when it is back', async () => {
    await cluster.end('h2', 'SIGKILL');
    await fails(['migrate', 'redis', '--to', 'h2'], 1, /h2/);
    await unharmed();
    await cluster.startAgent('h2');
    assert.equal((await actions.migrate(cluster, 'redis', 'h2')).to, 'h2');
    assert.equal((await actions.migrate(cluster, 'redis', 'h1')).to, 'h1');
    await unharmed();
  });

  it("a destination's agent that is killed in the middle leaves the source running", async () => {
    const order = cluster.ferry(['migrate', 'redis', '--to', 'h2']);
    await until('the migration to begin', async () => {
      const { stdout } = await cluster.ferry(['op', 'ls', '--json']);
      return stdout.includes('"running"') ? true : undefined;
    });
    await cluster.end('h2', 'SIGKILL');
    assert.equal((await order).status, 1);
    await unharmed();
    await cluster.startAgent('h2');
    assert.equal((await actions.migrate(cluster, 'redis', 'h2')).to, 'h2');
    assert.equal((await actions.migrate(cluster, 'redis', 'h1')).to, 'h1');
    await unharmed();
  });

  it('a controller that is not there: exit status 3, and its address is named', async () => {
    await cluster.end('controller');
    await fails(['ps'], 3, /10\.77\.0\.2:7460/);
    await cluster.startController();
    await sleep(100);
    await unharmed();
  });
});
