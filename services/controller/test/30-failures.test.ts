import { strict as assert } from 'node:assert';
import { type ClusterClient, connectNodeService, HostFacts } from '@ferry/api';
import {
  containerNamed,
  drainRequest,
  migrateRequest,
  runRequest,
  succeeded,
  unsuccessful,
  until,
  watch,
} from './support/calls.js';
import { startControllerProgram } from './support/controller.js';
import { FakeAgent } from './support/fake-agent.js';
import { FakeCluster } from './support/fake-cluster.js';

describe('controller: failures', () => {
  let client: ClusterClient;
  const a = new FakeAgent('a');
  const b = new FakeAgent('b');

  const cluster = new FakeCluster(a, b);

  before(async () => {
    client = await cluster.start();
  });
  after(() => cluster.end());
  afterEach(() => {
    for (const agent of [a, b]) {
      agent.steps = { beforeCommit: 5, afterCommit: 1, ms: 10 };
      agent.calls.length = 0;
    }
  });

  async function restart(signal: NodeJS.Signals): Promise<void> {
    client = await cluster.restart(signal);
  }

  async function onA(name: string): Promise<void> {
    await succeeded(client, await client.runContainer(runRequest(name, 'a')));
  }

  for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
    it(`goes on with a migration after the controller got ${signal}, and begins none again`, async () => {
      const name = `web-${signal.toLowerCase()}`;
      await onA(name);
      b.steps = { beforeCommit: 30, afterCommit: 1, ms: 50 };
      const begun = await client.migrateContainer(migrateRequest(name, 'b'));
      await until(
        'progress',
        () => (b.migrations.get(begun.id)?.progress.length ?? 0) > 3 || undefined,
      );
      await restart(signal);
      const operation = await succeeded(client, begun);
      assert.equal(operation.attempts, 2);
      assert.ok(b.calls.includes(`query ${begun.id}`), 'the agent was asked first');
      const { node, epoch } = await containerNamed(client, name);
      assert.deepEqual([node, epoch], ['b', 2n]);
    });
  }

  it('takes over the result of a migration that ended while no controller ran', async () => {
    await onA('quick');
    b.steps = { beforeCommit: 10, afterCommit: 1, ms: 30 };
    const begun = await client.migrateContainer(migrateRequest('quick', 'b'));
    await until('the migration', () => b.migrations.get(begun.id));
    await cluster.controller.end();
    await until(
      'its end',
      () => b.migrations.get(begun.id)?.status.state === 'succeeded' || undefined,
    );
    b.calls.length = 0;
    await restart('SIGKILL');
    const operation = await succeeded(client, begun);
    assert.ok(operation.result?.$case === 'migration');
    assert.equal(operation.result.value.downtimeMs, 12.5);
    assert.ok(!b.calls.includes(`receive ${begun.id}`), 'it was not begun again');
  });

  it('goes on with a drain after the controller was killed, with each container once', async () => {
    for (const name of ['d1', 'd2', 'd3', 'd4']) await onA(name);
    b.steps = { beforeCommit: 10, afterCommit: 1, ms: 40 };
    const { operation } = await client.drainNode(drainRequest('a', { concurrency: 1 }));
    assert.ok(operation !== undefined);
    await until(
      'the second move',
      () => b.containers.has('d1') || b.containers.has('d2') || undefined,
    );
    await restart('SIGKILL');
    const { result } = await succeeded(client, operation);
    assert.ok(result?.$case === 'drain');
    assert.deepEqual([result.value.moved, result.value.failed], [4, 0]);
    const migrations = await client.listOperations({
      ...{ pageSize: 50, pageToken: '', container: '', node: '', activeOnly: false },
      parent: operation.id,
    });
    assert.equal(migrations.operations.length, 4);
    await client.uncordonNode({ node: 'a' });
  });

  it('lets any controller watch and cancel what another one works on', async () => {
    await onA('shared');
    const second = await startControllerProgram(cluster.redis.url);
    try {
      b.steps = { beforeCommit: 200, afterCommit: 1, ms: 20 };
      const begun = await client.migrateContainer(migrateRequest('shared', 'b'));
      const watches = [client, second.client].map((each) => watch(each, begun.id));
      await until(
        'progress',
        () => (b.migrations.get(begun.id)?.progress.length ?? 0) > 50 || undefined,
      );
      // One of the two works on it; each is asked, so that once it is the other one.
      await second.client.cancelOperation({ id: begun.id, reason: '' });
      const [here, there] = await Promise.all(watches);
      assert.equal(here?.operation.state, 'cancelled');
      assert.equal(there?.operation.state, 'cancelled');
      const fractions = there.events.flatMap(({ progress }) => progress?.fraction ?? []);
      assert.ok(fractions.length > 3, `${fractions.length} reports`);
    } finally {
      await second.end('SIGTERM');
    }
  });

  it('calls a migration off when its destination dies: the source says that it runs on', async () => {
    await onA('left');
    b.steps = { beforeCommit: 500, afterCommit: 1, ms: 20 };
    const begun = await client.migrateContainer(migrateRequest('left', 'b'));
    await until('the migration', () => b.migrations.get(begun.id));
    b.dead = true;
    await b.stop();
    const { state, error } = await unsuccessful(client, begun);
    assert.deepEqual([state, error.code], ['failed', 'migrate.destinationLost']);
    assert.ok(a.calls.includes(`cancel ${begun.id}`), 'the source was asked');
    assert.equal((await containerNamed(client, 'left')).operation, '');
    b.dead = false;
    await b.start(cluster.controller.address, b.address);
  });

  it('is in doubt while neither side answers, and settles when they are back', async () => {
    b.steps = { beforeCommit: 500, afterCommit: 1, ms: 20 };
    const begun = await client.migrateContainer(migrateRequest('left', 'b'));
    await until('the migration', () => b.migrations.get(begun.id));
    await Promise.all([a.stop(), b.stop()]);
    b.dead = true;
    const doubt = await until('doubt', async () => {
      const operation = await client.getOperation({ id: begun.id });
      return operation.state === 'in-doubt' ? operation : undefined;
    });
    assert.match(doubt.error?.message ?? '', /whether "left" runs on a or b/);
    b.dead = false;
    await a.start(cluster.controller.address, a.address);
    await b.start(cluster.controller.address, b.address);
    const { state, error } = await unsuccessful(client, begun);
    assert.deepEqual([state, error.message], ['failed', 'crashed']);
  });

  it('has an operator decide what is in doubt, and refuses what contradicts what can be asked', async () => {
    b.steps = { beforeCommit: 500, afterCommit: 1, ms: 20 };
    const begun = await client.migrateContainer(migrateRequest('left', 'b'));
    const { id } = begun;
    const verdict = { id, runOn: 'a', fenced: 'b' };
    await until('the migration', () => b.migrations.get(id));
    await assert.rejects(client.resolveOperation(verdict), { code: 'resolve.settled' });
    await Promise.all([a.stop(), b.stop()]);
    b.dead = true;
    await until('doubt', async () => {
      return (await client.getOperation({ id })).state === 'in-doubt' || undefined;
    });
    const { nodes } = await client.listNodes({});
    assert.deepEqual(nodes.find(({ name }) => name === 'b')?.inDoubt, [id]);
    assert.equal((await containerNamed(client, 'left')).state, 'in-doubt');
    await assert.rejects(client.resolveOperation({ ...verdict, fenced: 'a' }), {
      code: 'resolve.nodes',
    });
    await assert.rejects(client.resolveOperation({ ...verdict, fenced: 'elsewhere' }), {
      code: 'resolve.nodes',
    });
    await a.start(cluster.controller.address, a.address);
    // It answers, and runs it: whoever says that it is fenced is wrong.
    await until('the contradiction', async () => {
      const wrong = client.resolveOperation({ ...verdict, runOn: 'b', fenced: 'a' });
      const { code } = await wrong.then(
        () => assert.fail('It was believed'),
        (error: unknown) => error as { code: string },
      );
      return code === 'resolve.contradicted' || undefined;
    });
    const operation = await until('the doubt to end', async () => {
      await client.resolveOperation(verdict).catch(() => undefined);
      const present = await client.getOperation({ id });
      return present.state === 'in-doubt' ? undefined : present;
    });
    assert.equal(operation.state, 'failed');
    // Node a is asked all the while, and what it says may come before the operator's word.
    const code = operation.error?.code ?? '';
    if (code === 'migrate.resolved') assert.ok(a.calls.includes(`resolve ${id} run-here`));
    else assert.equal(code, 'migrate.destinationLost');
    const { node, operation: holder } = await containerNamed(client, 'left');
    assert.deepEqual([node, holder], ['a', '']);
    b.dead = false;
    await b.start(cluster.controller.address, b.address);
  });

  it('does not call failed what the source has committed, when its destination has forgotten that', async () => {
    await onA('forgotten');
    [b.unbegun, b.failWith] = [true, new Error('its source had begun it before')];
    b.steps = { beforeCommit: 5, afterCommit: 1, ms: 200 };
    const begun = await client.migrateContainer(migrateRequest('forgotten', 'b'));
    a.says(begun.id, 'committed');
    const doubt = await until('doubt', async () => {
      const operation = await client.getOperation({ id: begun.id });
      assert.notEqual(operation.state, 'failed');
      return operation.state === 'in-doubt' ? operation : undefined;
    });
    assert.match(doubt.error?.message ?? '', /whether "forgotten" runs on a or b/);
    a.says(begun.id, 'failed');
    const { error } = await unsuccessful(client, begun);
    assert.match(error.message, /begun it before/);
    [b.unbegun, b.failWith] = [false, undefined];
  });

  it('shows a node that is silent as down, refuses work for it, and takes it back', async () => {
    b.silence();
    const down = await until('the node to be down', async () => {
      const { nodes } = await client.listNodes({});
      return nodes.find(({ name, state }) => name === 'b' && state === 'down');
    });
    assert.equal(down.cordoned, false);
    await assert.rejects(client.runContainer(runRequest('x', 'b')), { code: 'node.down' });
    const { containers } = await client.listContainers({ node: 'b' });
    assert.ok(containers.length > 0 && containers.every(({ state }) => state === 'unknown'));
    const begun = await client.migrateContainer(migrateRequest('left', ''));
    assert.equal((await unsuccessful(client, begun)).error.code, 'placement.none');
    await b.join(cluster.controller.address);
    const { nodes } = await client.listNodes({});
    assert.equal(nodes.find(({ name }) => name === 'b')?.state, 'ready');
  });

  it('does not give the name of a live node to another agent', async () => {
    const impostor = connectNodeService(cluster.controller.address);
    try {
      const request = { name: 'a', address: '127.0.0.1:9', facts: HostFacts.create() };
      await assert.rejects(impostor.registerNode(request), { code: 'node.taken', status: 6 });
      const beat = { ...request, resources: undefined, containers: [], handOvers: [] };
      await assert.rejects(impostor.heartbeat(beat), { code: 'node.taken' });
      await assert.rejects(impostor.heartbeat({ ...beat, name: 'ghost' }), {
        code: 'node.unknown',
      });
    } finally {
      impostor.close();
    }
  });

  it('finds a container that it did not start, and forgets one that is gone', async () => {
    a.hold('found', { epoch: 3n });
    await a.beat();
    const { node, epoch } = await containerNamed(client, 'found');
    assert.deepEqual([node, epoch], ['a', 3n]);
    b.hold('found', { epoch: 4n });
    await b.beat();
    assert.equal((await containerNamed(client, 'found')).node, 'b');
    await a.beat();
    assert.equal((await containerNamed(client, 'found')).node, 'b', 'the later epoch wins');
  });

  it('goes on with a migration during which Redis answered nobody', async () => {
    await onA('unheard');
    b.steps = { beforeCommit: 30, afterCommit: 1, ms: 50 };
    const begun = await client.migrateContainer(migrateRequest('unheard', 'b'));
    await until(
      'progress',
      () => (b.migrations.get(begun.id)?.progress.length ?? 0) > 3 || undefined,
    );
    // The migration ends meanwhile, and a call to Redis is given up after 3 s.
    await cluster.redis.hang(5000);
    await until('an end', async () => {
      const operation = await client.getOperation({ id: begun.id }).catch(() => undefined);
      return operation?.state === 'succeeded' || operation?.state === 'failed' || undefined;
    });
    assert.equal((await client.getOperation({ id: begun.id })).error?.message, undefined);
    const { node, epoch } = await containerNamed(client, 'unheard');
    assert.deepEqual([node, epoch], ['b', 2n]);
  });

  it('says when Redis is out of reach, and goes on when it is back', async () => {
    await cluster.redis.restart();
    await until('the controller', async () => {
      try {
        await client.listNodes({});
        return true;
      } catch (error) {
        assert.equal((error as { code?: string }).code, 'redis.unavailable');
        return undefined;
      }
    });
    await onA('after');
    // The connection to a node that was away may still be waiting to be made.
    await until(
      'the migration',
      async () => {
        const begun = await client.migrateContainer(migrateRequest('after', 'b'));
        return await succeeded(client, begun).catch(() => undefined);
      },
      20_000,
    );
  });
});
