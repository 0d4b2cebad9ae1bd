import { strict as assert } from 'node:assert';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ClusterClient } from '@ferry/api';
import { drainRequest, drainResult, succeeded, unsuccessful, until } from './support/calls.js';
import { FakeAgent } from './support/fake-agent.js';
import { FakeCluster } from './support/fake-cluster.js';

const gib = 1024n ** 3n;

describe('controller: drains', () => {
  let client: ClusterClient;
  const [a, b, c] = ['a', 'b', 'c'].map((name) => new FakeAgent(name)) as [
    FakeAgent,
    FakeAgent,
    FakeAgent,
  ];
  const cluster = new FakeCluster(a, b, c);
  const { load } = cluster;

  before(async () => {
    client = await cluster.start();
  });
  after(() => cluster.end());
  afterEach(() => cluster.reset());

  /** Puts containers of these sizes on node a, with epochs that no earlier test has used. */
  async function fill(sizes: readonly bigint[]): Promise<string[]> {
    const stamp = Date.now().toString(36);
    const names = sizes.map((_, index) => `c${index}-${stamp}`);
    for (const [index, memoryBytes] of sizes.entries()) {
      a.hold(names[index] ?? '', { memoryBytes, epoch: 7n });
    }
    await a.beat();
    return names;
  }

  it('shows in a dry run where each container would go, and changes nothing', async () => {
    a.hold('ended', { state: 'exited', epoch: 7n });
    const [small, large] = await fill([1n * gib, 6n * gib]);
    b.freeBytes = 10n * gib;
    c.freeBytes = 8n * gib;
    await Promise.all([b.beat(), c.beat()]);
    const { plan, operation } = await client.drainNode(drainRequest('a', { dryRun: true }));
    assert.equal(operation, undefined);
    assert.deepEqual(
      plan.map(({ container, to, state }) => [container, to, state]),
      [
        [large, 'b', 'planned'],
        [small, 'c', 'planned'],
      ],
    );
    const { nodes } = await client.listNodes({});
    assert.equal(nodes.find(({ name }) => name === 'a')?.state, 'ready');
    assert.equal(a.containers.size, 3);
  });

  it('cordons the node and moves everything, as many at once as it may', async () => {
    for (const agent of [b, c]) {
      agent.steps.ms = 300;
      agent.freeBytes = 8n * gib;
      await agent.beat();
    }
    await fill(Array.from({ length: 6 }, () => gib / 8n));
    const begun = await client.drainNode(drainRequest('a', { concurrency: 3 }));
    assert.ok(begun.operation !== undefined);
    const { id } = begun.operation;
    await until('three moves at once', () => load.now === 3 || undefined);
    for (const agent of [b, c]) agent.steps.ms = 20;
    const operation = await succeeded(client, begun.operation);
    const { moved, failed, moves } = drainResult(operation);
    assert.deepEqual([moved, failed, moves.length], [6, 0, 6]);
    assert.equal(load.most, 3);
    assert.equal(a.containers.size, 0);
    assert.ok(b.containers.size > 0 && c.containers.size > 0);
    assert.equal(operation.children.length, 6);
    const child = await client.getOperation({ id: operation.children[0] ?? '' });
    assert.deepEqual([child.parent, child.state], [id, 'succeeded']);
    const { nodes } = await client.listNodes({});
    const node = nodes.find(({ name }) => name === 'a');
    assert.deepEqual([node?.state, node?.cordonReason], ['cordoned', `drain ${id}`]);
  });

  it('moves what can be moved and names what stays and why', async () => {
    const [huge, small] = await fill([100n * gib, gib / 8n]);
    const begun = await client.drainNode(drainRequest('a'));
    assert.ok(begun.operation !== undefined);
    const operation = await unsuccessful(client, begun.operation);
    assert.deepEqual([operation.state, operation.error.code], ['failed', 'drain.incomplete']);
    assert.deepEqual([...a.containers.keys()], [huge]);
    assert.ok(b.containers.has(small ?? '') || c.containers.has(small ?? ''));
    assert.equal(operation.error.problems[0]?.object, huge);
    assert.equal(drainResult(operation).moved, 1);
  });

  it('counts a migration that fails, and goes on with the others', async () => {
    await fill([gib / 8n, gib / 8n, gib / 8n]);
    b.problems = [{ code: 'x', object: '', reason: 'No', remedy: '' }];
    c.failWith = new Error('restorer crashed');
    const begun = await client.drainNode(drainRequest('a', { concurrency: 1 }));
    assert.ok(begun.operation !== undefined);
    const operation = await unsuccessful(client, begun.operation);
    assert.equal(drainResult(operation).failed, 3);
    assert.match(operation.error.problems[0]?.reason ?? '', /restorer crashed/);
    assert.equal(a.containers.size, 3);
  });

  it('tries another destination when one went wrong, and only then says that it failed', async () => {
    const [first = '', second = ''] = await fill([gib / 8n, gib / 8n]);
    b.freeBytes = 64n * gib;
    await b.beat();
    b.failWith = new Error('restorer crashed');
    const begun = await client.drainNode(drainRequest('a'));
    assert.ok(begun.operation !== undefined);
    const { moves, moved } = drainResult(await succeeded(client, begun.operation));
    b.freeBytes = 8n * gib;
    assert.equal(moved, 2);
    assert.deepEqual([...c.containers.keys()].sort(), [first, second].sort());
    for (const { to, tries, reason } of moves) assert.deepEqual([to, tries, reason], ['c', 2, '']);
  });

  it('cancels: what is under way stays at the source, the rest is not begun', async () => {
    for (const agent of [b, c]) agent.steps = { beforeCommit: 200, afterCommit: 1, ms: 20 };
    await fill(Array.from({ length: 4 }, () => gib / 8n));
    const begun = await client.drainNode(drainRequest('a', { concurrency: 2 }));
    assert.ok(begun.operation !== undefined);
    await until('two moves', () => load.now === 2 || undefined);
    await client.cancelOperation({ id: begun.operation.id, reason: '' });
    const operation = await unsuccessful(client, begun.operation);
    assert.equal(operation.state, 'cancelled');
    const states = drainResult(operation).moves.map(({ state }) => state);
    assert.deepEqual(states, ['cancelled', 'cancelled', 'cancelled', 'cancelled']);
    assert.equal(a.containers.size, 4);
    assert.equal(operation.children.length, 2);
  });

  it('starts at a time', async () => {
    await fill([gib / 8n]);
    const atMs = BigInt(Date.now() + 700);
    const begun = await client.drainNode(drainRequest('a', { atMs }));
    assert.equal(begun.operation?.state, 'scheduled');
    assert.equal(begun.operation.scheduledAtMs, atMs);
    await sleep(300);
    assert.equal(a.containers.size, 1);
    const operation = await succeeded(client, begun.operation);
    assert.ok(operation.startedAtMs >= atMs, `${operation.startedAtMs - atMs} ms early`);
    assert.ok(operation.startedAtMs < atMs + 10_000n, 'it came late');
    assert.equal(a.containers.size, 0);
  });

  it('does not start when it is cancelled before its time', async () => {
    await fill([gib / 8n]);
    const begun = await client.drainNode(drainRequest('a', { atMs: BigInt(Date.now() + 500) }));
    const id = begun.operation?.id ?? '';
    assert.equal((await client.cancelOperation({ id, reason: '' })).state, 'cancelled');
    await sleep(800);
    assert.equal(a.containers.size, 1);
    assert.equal((await client.getOperation({ id })).state, 'cancelled');
  });

  it('starts by a cron expression, again and again, until that is cancelled', async () => {
    await fill([gib / 8n]);
    const begun = await client.drainNode(drainRequest('a', { cron: '* * * * * *' }));
    const id = begun.operation?.id ?? '';
    assert.equal(begun.operation?.kind, 'drain-schedule');
    await until('the first drain', () => a.containers.size === 0 || undefined);
    await fill([gib / 8n]);
    await until('a later drain', () => a.containers.size === 0 || undefined);
    const schedule = await until('a second drain', async () => {
      const present = await client.getOperation({ id });
      return present.children.length >= 2 ? present : undefined;
    });
    assert.equal(schedule.state, 'scheduled');
    assert.ok(Number(schedule.scheduledAtMs) > Date.now() - 2000);
    await client.cancelOperation({ id, reason: '' });
    await sleep(200);
    const drains = (await client.getOperation({ id })).children.length;
    await fill([gib / 8n]);
    await sleep(1500);
    assert.equal((await client.getOperation({ id })).children.length, drains);
    assert.equal(a.containers.size, 1);
  });

  const wrong: [string, Parameters<typeof drainRequest>[1], string?][] = [
    ['a cron expression of words', { cron: 'every day at noon' }],
    ['a cron expression of two fields', { cron: '0 3' }],
    ['an unknown time zone', { cron: '0 3 * * *', timeZone: 'Mars/Olympus' }],
    ['both a time and a cron expression', { cron: '0 3 * * *', atMs: 5n }],
    ['a time years away', { atMs: 10n ** 14n }],
    ['too much at once', { concurrency: 33 }],
    ['an unknown mode', { mode: 'x' }],
  ];
  for (const [what, fields] of wrong) {
    it(`refuses ${what}`, async () => {
      await assert.rejects(client.drainNode(drainRequest('a', fields)), {
        code: 'request.invalid',
      });
    });
  }

  it('refuses a node that does not exist', async () => {
    await assert.rejects(client.drainNode(drainRequest('z')), { code: 'node.unknown' });
  });
});
