import { strict as assert } from 'node:assert';
import {
  type ClusterClient,
  type ContainerSpec,
  RestoreContainerRequest,
  UploadCheckpointMessage,
} from '@ferry/api';
import { FerryError } from '@ferry/core';
import {
  containerNamed,
  migrateRequest,
  runRequest,
  succeeded,
  unsuccessful,
  until,
  watch,
} from './support/calls.js';
import { startControllerProgram, type TestController } from './support/controller.js';
import { FakeAgent } from './support/fake-agent.js';
import { startRedis, type TestRedis } from './support/redis.js';

describe('controller: operations on containers', () => {
  let redis: TestRedis;
  let controller: TestController;
  let client: ClusterClient;
  const pool = { networkSubnet: '10.9.0.0/16', networkGateway: '10.9.0.1' };
  const a = new FakeAgent('a', { ...pool, networkPool: '10.9.1.10-10.9.1.13' });
  const b = new FakeAgent('b', { ...pool, networkPool: '10.9.1.10-10.9.1.13' });

  before(async () => {
    redis = await startRedis();
    controller = await startControllerProgram(redis.url);
    client = controller.client;
    await a.start(controller.address);
    await b.start(controller.address);
  });
  after(async () => {
    await a.stop();
    await b.stop();
    await controller.end();
    await redis.stop();
  });
  afterEach(() => {
    a.steps = { beforeCommit: 5, afterCommit: 1, ms: 10 };
    b.steps = { ...a.steps };
    b.failWith = undefined;
    b.problems = [];
  });

  it('runs a container and gives it an address of the pool', async () => {
    const operation = await succeeded(client, await client.runContainer(runRequest('web', 'a')));
    assert.ok(operation.result?.$case === 'started');
    assert.deepEqual(operation.result.value.spec?.network, {
      address: '10.9.1.10/16',
      gateway: '10.9.0.1',
      mac: '',
    });
    const { node, state, epoch } = await containerNamed(client, 'web');
    assert.deepEqual({ node, state, epoch }, { node: 'a', state: 'running', epoch: 1n });
  });

  it('migrates it, with progress that never falls, and tells what was measured', async () => {
    const begun = await client.migrateContainer(migrateRequest('web', 'b'));
    const { events, operation } = await watch(client, begun.id);
    assert.equal(operation.state, 'succeeded', JSON.stringify(operation.error));
    const fractions = events.flatMap(({ progress }) => (progress ? [progress.fraction] : []));
    assert.ok(fractions.length >= 3, `only ${fractions.length} reports`);
    assert.deepEqual(
      fractions,
      fractions.toSorted((x, y) => x - y),
    );
    assert.ok(operation.result?.$case === 'migration');
    const { from, to, bytesRaw, downtimeMs, epoch } = operation.result.value;
    assert.deepEqual(
      { from, to, bytesRaw, downtimeMs, epoch },
      { from: 'a', to: 'b', bytesRaw: 6000n, downtimeMs: 12.5, epoch: 2n },
    );
    const moved = await containerNamed(client, 'web');
    assert.deepEqual(
      [moved.node, moved.epoch, moved.state, moved.address],
      ['b', 2n, 'running', '10.9.1.10'],
    );
  });

  it('gives a repeated request the operation of the first one', async () => {
    const request = { ...runRequest('once', 'a'), requestId: 'again-1' };
    const [first, second] = await Promise.all([
      client.runContainer(request),
      client.runContainer(request),
    ]);
    await succeeded(client, first);
    const third = await client.runContainer(request);
    assert.equal(third.id, first.id);
    assert.equal(second.id, first.id);
    assert.equal(a.calls.filter((call) => call === 'run once').length, 1);
  });

  it('chooses the node with the most free memory that accepts the container', async () => {
    b.freeBytes *= 2n;
    b.problems = [{ code: 'host.disk', object: '/', reason: 'is full', remedy: 'free some' }];
    await b.beat();
    const operation = await succeeded(client, await client.runContainer(runRequest('free', '')));
    assert.equal(operation.node, 'a');
    b.problems = [];
    await succeeded(client, await client.migrateContainer(migrateRequest('free', '')));
    assert.equal((await containerNamed(client, 'free')).node, 'b');
  });

  it('refuses a destination that preflight refuses, with every finding', async () => {
    b.problems = [
      { code: 'host.memory', object: 'b', reason: 'has 1 GiB free, 2 needed', remedy: 'free some' },
      { code: 'cpu.feature', object: 'avx512f', reason: 'is missing', remedy: 'another host' },
    ];
    const begun = await client.migrateContainer(migrateRequest('once', 'b'));
    const { state, error } = await unsuccessful(client, begun);
    assert.equal(state, 'failed');
    assert.equal(error.code, 'migrate.preflight');
    assert.deepEqual(error.problems, b.problems);
    const again = await client.migrateContainer(migrateRequest('once', ''));
    const any = await unsuccessful(client, again);
    assert.equal(any.error.code, 'placement.none');
    assert.match(any.error.problems[0]?.object ?? '', /^b: /);
  });

  it('fails as the agent says, and the container stays where it is', async () => {
    b.failWith = new FerryError('restore.step', 'Step 7 failed', { remedy: 'report it' });
    const begun = await client.migrateContainer(migrateRequest('once', 'b'));
    const { error } = await unsuccessful(client, begun);
    assert.deepEqual([error.code, error.remedy], ['restore.step', 'report it']);
    const { node, epoch, operation } = await containerNamed(client, 'once');
    assert.deepEqual([node, epoch, operation], ['a', 1n, '']);
  });

  it('cancels a migration before its point of no return', async () => {
    b.steps = { beforeCommit: 100, afterCommit: 1, ms: 20 };
    const begun = await client.migrateContainer(migrateRequest('once', 'b'));
    await until('the migration', () => b.migrations.get(begun.id));
    const busy = client.migrateContainer(migrateRequest('once', 'b'));
    await assert.rejects(busy, { code: 'container.busy', remedy: new RegExp(begun.id) });
    await client.cancelOperation({ id: begun.id, reason: '' });
    const { state, error } = await unsuccessful(client, begun);
    assert.deepEqual([state, error.code], ['cancelled', 'migrate.cancelled']);
    assert.equal((await containerNamed(client, 'once')).operation, '');
  });

  it('does not cancel a migration past its point of no return', async () => {
    b.steps = { beforeCommit: 1, afterCommit: 30, ms: 20 };
    const begun = await client.migrateContainer(migrateRequest('once', 'b'));
    await until(
      'COMMIT',
      () => b.migrations.get(begun.id)?.status.state === 'committed' || undefined,
    );
    const asked = await client.cancelOperation({ id: begun.id, reason: '' });
    assert.equal(asked.cancelRequested, true);
    await succeeded(client, begun);
  });

  it('cancels a run, and its name and address are free again', async () => {
    a.runMs = 5000;
    const begun = await client.runContainer(runRequest('slow', 'a'));
    await until('the run', () => a.calls.includes('run slow') || undefined);
    await client.cancelOperation({ id: begun.id, reason: '' });
    assert.equal((await unsuccessful(client, begun)).state, 'cancelled');
    a.runMs = 0;
    const again = await succeeded(client, await client.runContainer(runRequest('slow', 'a')));
    assert.ok(again.result?.$case === 'started');
    assert.equal(again.result.value.address, '10.9.1.13');
  });

  it('says that no address is free', async () => {
    const begun = await client.runContainer(runRequest('fifth', 'a'));
    assert.equal((await unsuccessful(client, begun)).error.code, 'address.none');
  });

  it('stops a container and forgets it with its address', async () => {
    await succeeded(client, await client.stopContainer({ name: 'slow', graceMs: 0, keep: false }));
    const { containers } = await client.listContainers({ node: '' });
    assert.ok(!containers.some(({ name }) => name === 'slow'));
    await succeeded(client, await client.runContainer(runRequest('sixth', 'a')));
  });

  it('keeps a stopped container when asked to', async () => {
    await succeeded(client, await client.stopContainer({ name: 'sixth', graceMs: 5, keep: true }));
    const { state, exitStatus } = await containerNamed(client, 'sixth');
    assert.deepEqual([state, exitStatus], ['exited', 143]);
    await succeeded(client, await client.stopContainer({ name: 'sixth', graceMs: 5, keep: false }));
  });

  it('takes a failed run back', async () => {
    const begun = await client.runContainer(runRequest('bad', 'a', { args: ['/missing'] }));
    const { error } = await unsuccessful(client, begun);
    assert.deepEqual([error.code, error.remedy], ['run.program', 'check the path']);
    const { containers } = await client.listContainers({ node: '' });
    assert.ok(!containers.some(({ name }) => name === 'bad'));
  });

  it('streams logs until the reader goes', async () => {
    const options = { follow: true, tailLines: undefined };
    let text = '';
    for await (const { data } of client.containerLogs({ name: 'web', options })) {
      text += data.toString();
      if (text.includes('follow 2')) break;
    }
    assert.equal(text, 'one\ntwo\nfollow 0\nfollow 1\nfollow 2\n');
  });

  it('checkpoints, hands the file out from any offset, and restores it elsewhere', async () => {
    const request = { name: 'web', leaveRunning: false, requestId: '', sealFor: Buffer.alloc(0) };
    const ended = await succeeded(client, await client.checkpointContainer(request));
    assert.ok(ended.result?.$case === 'checkpoint');
    const { sizeBytes, node, warnings } = ended.result.value;
    assert.deepEqual(warnings, ['a fake has no memory']);
    assert.equal(node, 'b');
    const bytes = await downloaded(ended.id, 0n);
    assert.equal(BigInt(bytes.length), sizeBytes);
    const rest = await downloaded(ended.id, 2_000_000n);
    assert.ok(rest.equals(bytes.subarray(2_000_000)));
    await client.deleteCheckpoint({ operation: ended.id });
    assert.ok(!b.files.has(ended.id));
    const { containers } = await client.listContainers({ node: '' });
    assert.ok(!containers.some(({ name }) => name === 'web'));

    const messages = [
      UploadCheckpointMessage.fromPartial({ message: { $case: 'node', value: 'a' } }),
      ...[0, 1, 2, 3].map((part) => {
        const data = bytes.subarray(part << 20, (part + 1) << 20);
        const value = { offset: BigInt(part << 20), data, sizeBytes };
        return UploadCheckpointMessage.fromPartial({ message: { $case: 'chunk', value } });
      }),
    ];
    const { checkpointId } = await client.uploadCheckpoint(messages);
    assert.ok(a.files.get(checkpointId)?.bytes.equals(bytes));
    const restore = RestoreContainerRequest.fromPartial({ node: 'a', checkpointId, name: 'web' });
    const { result } = await succeeded(client, await client.restoreContainer(restore));
    assert.ok(result?.$case === 'started');
    assert.equal(result.value.epoch, 3n, 'later than any epoch the name has had');
  });

  async function downloaded(operation: string, offset: bigint): Promise<Buffer> {
    const parts: Buffer[] = [];
    for await (const { data } of client.downloadCheckpoint({ operation, offset })) parts.push(data);
    return Buffer.concat(parts);
  }

  it('lists operations in pages, newest first', async () => {
    const ids: string[] = [];
    for (let pageToken = ''; ; ) {
      const request = { pageSize: 3, pageToken, container: '', node: '', parent: '' };
      const page = await client.listOperations({ ...request, activeOnly: false });
      assert.ok(page.operations.length <= 3);
      ids.push(...page.operations.map(({ id }) => id));
      pageToken = page.nextPageToken;
      if (pageToken === '') break;
    }
    assert.ok(ids.length >= 12);
    assert.equal(new Set(ids).size, ids.length);
    assert.deepEqual(ids, ids.toSorted().toReversed());
  });

  const wrongSpecs: [string, Partial<ContainerSpec>][] = [
    ['a name with a slash', { name: 'a/b' }],
    ['no program', { args: [] }],
    ['a relative rootfs', { rootfs: 'srv' }],
    ['a rootfs with ".."', { rootfs: '/srv/../etc' }],
    ['both rootfs and bundle', { bundle: '/b' }],
    ['an environment entry without "="', { env: ['A'] }],
    ['a NUL in an argument', { args: ['a\0b'] }],
    ['an address without prefix', { network: { address: '10.9.1.1', gateway: '', mac: '' } }],
    [
      'a mount of a relative path',
      { mounts: [{ source: 'x', destination: '/y', readOnly: true }] },
    ],
  ];
  for (const [what, fields] of wrongSpecs) {
    it(`refuses ${what}`, async () => {
      const call = client.runContainer(runRequest('ok', 'a', fields));
      await assert.rejects(call, { code: 'request.invalid', status: 3 });
    });
  }

  it('refuses too long a spec', async () => {
    const call = client.runContainer(runRequest('ok', 'a', { args: ['x'.repeat(300_000)] }));
    await assert.rejects(call, { code: 'request.tooLarge' });
  });

  it('refuses what does not exist', async () => {
    const run = client.runContainer(runRequest('ok', 'nowhere'));
    await assert.rejects(run, { code: 'node.unknown', status: 5 });
    const migrate = client.migrateContainer(migrateRequest('nothing', 'b'));
    await assert.rejects(migrate, { code: 'container.unknown' });
    await assert.rejects(client.getOperation({ id: 'none' }), { code: 'operation.unknown' });
    await assert.rejects(watch(client, 'none'), { code: 'operation.unknown' });
  });

  it('refuses a name that is taken, an unknown mode, and the node it is on', async () => {
    const run = client.runContainer(runRequest('web', 'a'));
    await assert.rejects(run, { code: 'container.taken', status: 6 });
    const migrate = client.migrateContainer({ ...migrateRequest('web', 'b'), mode: 'fast' });
    await assert.rejects(migrate, { code: 'request.invalid' });
    const begun = await client.migrateContainer(migrateRequest('web', 'a'));
    assert.equal((await unsuccessful(client, begun)).error.code, 'migrate.sameNode');
  });
});
