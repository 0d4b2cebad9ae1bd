import { strict as assert } from 'node:assert';
import { setTimeout as sleep } from 'node:timers/promises';
import { migrateRequest, until } from './support/calls.js';
import { startControllerProgram, type TestController } from './support/controller.js';
import { FakeAgent } from './support/fake-agent.js';
import { startRedis, type TestRedis } from './support/redis.js';

const CONTROLLERS = 3;
const CONTAINERS = 24;
const KILLS = 6;
const FINAL = ['succeeded', 'failed', 'cancelled'];

describe('controller: several that share one Redis', function () {
  this.timeout(90_000);
  let redis: TestRedis;
  let controllers: TestController[] = [];
  const a = new FakeAgent('a', { maxOutgoing: 4 });
  const b = new FakeAgent('b');
  const load = { now: 0, most: 0 };

  before(async () => {
    redis = await startRedis();
    controllers = await Promise.all(
      Array.from({ length: CONTROLLERS }, () => startControllerProgram(redis.url)),
    );
    for (const agent of [a, b]) {
      agent.load = load;
      await agent.start(controllers[0]?.address ?? '');
    }
  });
  after(async () => {
    for (const agent of [a, b]) await agent.stop();
    for (const controller of controllers) await controller.end();
    await redis.stop();
  });

  it('lose no migration and begin none twice, whichever of them are killed', async () => {
    const names = Array.from({ length: CONTAINERS }, (_, i) => `several-${i}`);
    for (const name of names) a.hold(name, { memoryBytes: 1n << 20n, epoch: 7n });
    await a.beat();
    b.steps = { beforeCommit: 5, afterCommit: 1, ms: 60 };
    const begun = await Promise.all(
      names.map((name, i) => {
        const { client } = controllers[i % CONTROLLERS] as TestController;
        return client.migrateContainer(migrateRequest(name, 'b'));
      }),
    );
    for (let i = 0; i < KILLS; i++) {
      const at = i % CONTROLLERS;
      await sleep(300);
      await controllers[at]?.end('SIGKILL');
      const successor = await startControllerProgram(redis.url);
      controllers[at] = successor;
      for (const agent of [a, b]) await agent.join(successor.address);
    }
    const [{ client }] = controllers as [TestController];
    const ends = await until(
      'all to have ended',
      async () => {
        const all = await Promise.all(begun.map(({ id }) => client.getOperation({ id })));
        return all.every(({ state }) => FINAL.includes(state)) ? all : undefined;
      },
      60_000,
    );
    assert.deepEqual([...new Set(ends.map(({ state }) => state))], ['succeeded']);
    assert.deepEqual([...b.containers.keys()].sort(), [...names].sort());
    assert.equal(a.containers.size, 0);
    for (const container of b.containers.values()) assert.equal(container.epoch, 8n);
    assert.equal(b.migrations.size, CONTAINERS);
    assert(load.most <= 4, `${load.most} at once`);
    assert(
      ends.some(({ attempts }) => attempts > 1),
      'no kill hit anything',
    );
  });
});
