import { strict as assert } from 'node:assert';
import type { ClusterClient, Operation } from '@ferry/api';
import {
  drainRequest,
  drainResult,
  migrateRequest,
  succeeded,
  unsuccessful,
  until,
} from './support/calls.js';
import { FakeAgent } from './support/fake-agent.js';
import { FakeCluster } from './support/fake-cluster.js';

const MIB = 1024n ** 2n;

describe('controller: as many migrations at once as a host may have', function () {
  this.timeout(30_000);
  let client: ClusterClient;
  const a = new FakeAgent('a', { maxOutgoing: 2 });
  const b = new FakeAgent('b', { maxIncoming: 1 });
  const c = new FakeAgent('c');
  const cluster = new FakeCluster(a, b, c);
  const { load } = cluster;

  before(async () => {
    client = await cluster.start();
  });
  after(() => cluster.end());
  afterEach(() => cluster.reset());

  async function fill(count: number): Promise<string[]> {
    const stamp = Date.now().toString(36);
    const names = Array.from({ length: count }, (_, index) => `c${index}-${stamp}`);
    for (const name of names) a.hold(name, { memoryBytes: MIB, epoch: 7n });
    await a.beat();
    return names;
  }

  const migrate = async (name: string, to: string): Promise<Operation> =>
    await client.migrateContainer(migrateRequest(name, to));

  it('away from a host, whatever their destinations; the others wait and say for what', async () => {
    for (const agent of [b, c]) agent.steps.ms = 100;
    const names = await fill(5);
    const begun = await Promise.all(names.map((name) => migrate(name, 'c')));
    const waiting = await until('one that waits', async () => {
      const all = await Promise.all(begun.map(({ id }) => client.getOperation({ id })));
      return all.find(({ progress }) => progress?.phase === 'waiting');
    });
    assert.match(
      waiting.progress?.message ?? '',
      /2 migrations from a .* no more than 2 .*--max-out/,
    );
    for (const operation of begun) await succeeded(client, operation);
    assert.equal(load.most, 2);
    assert.equal(c.containers.size, 5);
  });

  it('to a host', async () => {
    const names = await fill(3);
    const begun = await Promise.all(names.map((name) => migrate(name, 'b')));
    for (const operation of begun) await succeeded(client, operation);
    assert.equal(load.most, 1);
    assert.equal(b.containers.size, 3);
  });

  it('and one that fails, or is cancelled while it waits, leaves its place to the next', async () => {
    b.steps.ms = 400;
    const [first = '', second = '', third = ''] = await fill(3);
    const failing = await migrate(first, 'b');
    await until('the first to begin', () => load.now === 1 || undefined);
    const waiting = await migrate(second, 'b');
    await until('the second to wait', async () => {
      const { progress } = await client.getOperation({ id: waiting.id });
      return progress?.phase === 'waiting' || undefined;
    });
    await client.cancelOperation({ id: waiting.id, reason: '' });
    assert.equal((await unsuccessful(client, waiting)).state, 'cancelled');
    b.failWith = new Error('restorer crashed');
    await unsuccessful(client, failing);
    b.failWith = undefined;
    b.steps.ms = 10;
    await succeeded(client, await migrate(third, 'b'));
    assert.deepEqual([...b.containers.keys()], [third]);
  });

  it('and a controller that dies takes no place with it', async () => {
    b.steps.ms = 100;
    const [first = '', second = ''] = await fill(2);
    const begun = await migrate(first, 'b');
    await until('it to begin', () => load.now === 1 || undefined);
    client = await cluster.restart('SIGKILL');
    await succeeded(client, begun);
    await succeeded(client, await migrate(second, 'b'));
    assert.equal(load.most, 1);
  });

  it('and what waits is asked for again at its destination before it begins', async () => {
    b.steps.ms = 400;
    const [first = '', second = ''] = await fill(2);
    const begun = await migrate(first, 'b');
    await until('it to begin', () => load.now === 1 || undefined);
    const waiting = await migrate(second, 'b');
    await until('it to wait', async () => {
      const { progress } = await client.getOperation({ id: waiting.id });
      return progress?.phase === 'waiting' || undefined;
    });
    b.problems = [{ code: 'x', object: '', reason: 'No room by now', remedy: '' }];
    b.steps.ms = 10;
    await succeeded(client, begun);
    const { error } = await unsuccessful(client, waiting);
    b.problems = [];
    assert.deepEqual(
      [error.code, error.problems[0]?.reason],
      ['migrate.preflight', 'No room by now'],
    );
    assert(a.containers.has(second));
  });
});

describe('controller: drains that have a time to be done by', function () {
  this.timeout(30_000);
  let client: ClusterClient;
  const a = new FakeAgent('a');
  const b = new FakeAgent('b');
  const cluster = new FakeCluster(a, b);

  before(async () => {
    client = await cluster.start();
  });
  after(() => cluster.end());

  it('say when they end, and give up what is left when their time is over', async () => {
    for (let i = 0; i < 6; i++) a.hold(`d${i}`, { memoryBytes: MIB, epoch: 7n });
    await a.beat();
    b.steps = { beforeCommit: 5, afterCommit: 1, ms: 250 };
    const request = drainRequest('a', { concurrency: 1, timeoutMs: 6000n });
    const { operation: begun } = await client.drainNode(request);
    assert.ok(begun !== undefined);
    const seen = await until('one to be moved', async () => {
      const { result } = await client.getOperation({ id: begun.id });
      return result?.$case === 'drain' && result.value.moved > 0 ? result.value : undefined;
    });
    const startedAt = Number((await client.getOperation({ id: begun.id })).startedAtMs);
    assert.equal(Number(seen.givesUpAtMs), startedAt + 6000);
    assert(Number(seen.endsAtMs) > startedAt, 'it does not say when it ends');
    const operation = await unsuccessful(client, begun);
    const { moves, moved } = drainResult(operation);
    assert.equal(operation.error.code, 'drain.incomplete');
    assert.equal(moved, b.containers.size);
    const late = moves.filter(({ state }) => state === 'late');
    assert.equal(late.length, 6 - moved);
    assert(late.length > 0 && moved > 0);
    for (const { reason } of late)
      assert.match(reason, /not moved by \d{4}-.*Z, when this drain was/);
    assert.equal(a.containers.size, late.length);
  });

  it('refuse a time that makes no sense', async () => {
    await assert.rejects(client.drainNode(drainRequest('a', { timeoutMs: -1n })), {
      code: 'request.invalid',
    });
  });
});
