import { strict as assert } from 'node:assert';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type ClusterClient,
  ContainerSpec,
  type Operation,
  type OperationEvent,
  RunContainerRequest,
} from '@ferry/api';
import { startControllerProgram, type TestController } from './support/controller.js';
import { FakeAgent } from './support/fake-agent.js';
import { startRedis, type TestRedis } from './support/redis.js';

/** Everything that WatchOperation says, and the last record. */
async function watch(client: ClusterClient, id: string) {
  const events: OperationEvent[] = [];
  let operation: Operation | undefined;
  for await (const event of client.watchOperation({ id })) {
    events.push(event);
    operation = event.operation ?? operation;
  }
  assert.ok(operation !== undefined);
  return { events, operation };
}

function runRequest(name: string, node: string, fields: Partial<ContainerSpec> = {}) {
  const spec = ContainerSpec.fromPartial({
    name,
    rootfs: '/srv/root',
    args: ['/bin/x'],
    ...fields,
  });
  return RunContainerRequest.fromPartial({ spec, node });
}

describe('controller: operations on containers', () => {
  let redis: TestRedis;
  let controller: TestController;
  let client: ClusterClient;
  const pool = { networkSubnet: '10.9.0.0/16', networkGateway: '10.9.0.1' };
  const a = new FakeAgent('a', { ...pool, networkPool: '10.9.1.10-10.9.1.12' });
  const b = new FakeAgent('b', { ...pool, networkPool: '10.9.1.10-10.9.1.12' });

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

  it('runs a container and gives it an address of the pool', async () => {
    const begun = await client.runContainer(runRequest('web', 'a'));
    const { operation } = await watch(client, begun.id);
    assert.equal(operation.state, 'succeeded', JSON.stringify(operation.error));
    assert.ok(operation.result?.$case === 'started');
    assert.equal(operation.result.value.spec?.network?.address, '10.9.1.10/16');
    await sleep(150);
    const { containers } = await client.listContainers({ node: '' });
    assert.deepEqual(
      containers.map(({ name, node, state, epoch }) => ({ name, node, state, epoch })),
      [{ name: 'web', node: 'a', state: 'running', epoch: 1n }],
    );
  });

  it('migrates it, with progress that never falls and the result', async () => {
    const begun = await client.migrateContainer({ name: 'web', to: 'b', mode: '', requestId: '' });
    const { events, operation } = await watch(client, begun.id);
    assert.equal(operation.state, 'succeeded', JSON.stringify(operation.error));
    const fractions = events.flatMap(({ progress }) => (progress ? [progress.fraction] : []));
    assert.ok(fractions.length >= 4, `only ${fractions.length} reports`);
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
    const { containers } = await client.listContainers({ node: 'b' });
    assert.equal(containers[0]?.epoch, 2n);
    assert.equal(containers[0]?.address, '10.9.1.10/16');
  });
});
