import { strict as assert } from 'node:assert';
import { Container, HeartbeatRequest, HostFacts, noSecurity, Operation } from '@ferry/api';
import { Agents } from '../src/agents.js';
import { jsonLogger } from '../src/logger.js';
import type { Surroundings } from '../src/operations/work.js';
import { WorkQueue } from '../src/queue/queue.js';
import { Sweeper } from '../src/queue/sweeper.js';
import { parseSettings } from '../src/settings.js';
import { Containers } from '../src/store/containers.js';
import { connectRedis, type Db } from '../src/store/db.js';
import { HandOvers } from '../src/store/hand-overs.js';
import { Nodes } from '../src/store/nodes.js';
import { Notices } from '../src/store/notices.js';
import { Operations } from '../src/store/operations.js';
import { Slots } from '../src/store/slots.js';
import { startRedis, type TestRedis } from './support/redis.js';

describe('controller: what it keeps in Redis', () => {
  let redis: TestRedis;
  let around: Surroundings;
  let now = 1_800_000_000_000;
  const log: string[] = [];
  const logger = jsonLogger('info', (line) => log.push(line));

  before(async () => {
    redis = await startRedis();
    const settings = parseSettings(['--redis', redis.url, '--prefix', 'x']);
    assert.ok(settings !== 'help');
    const connection = connectRedis({ url: redis.url }, 'calls', logger);
    const key = (...parts: string[]) => ['x', ...parts].join(':');
    const db: Db = { redis: connection, key, now: () => now };
    const notices = new Notices(db, connectRedis({ url: redis.url }, 'blocking', logger));
    await notices.start();
    const stores = {
      ...{ db, notices, operations: new Operations(db, notices) },
      ...{
        containers: new Containers(db),
        nodes: new Nodes(db, 8000),
        handOvers: new HandOvers(db),
        slots: new Slots(db),
      },
    };
    const queue = new WorkQueue(connection, 'x', logger);
    const closing = new AbortController().signal;
    around = { stores, agents: new Agents(noSecurity), queue, settings, logger, closing };
  });
  after(async () => {
    await around.queue.close();
    around.stores.notices.close();
    around.stores.db.redis.disconnect();
    await redis.stop();
  });

  async function create(fields: Partial<Operation>): Promise<Operation> {
    const { operations } = around.stores;
    const operation = Operation.fromPartial({
      ...{ id: operations.newId(), kind: 'migrate', state: 'queued', createdAtMs: BigInt(now) },
      ...fields,
    });
    assert.ok(await operations.create(operation, { p: '1' }));
    return operation;
  }

  it('loses no change when many are made at once', async () => {
    const { operations } = around.stores;
    const { id } = await create({});
    const change = () =>
      operations.update(id, (present) => ({ ...present, attempts: present.attempts + 1 }));
    await Promise.all(Array.from({ length: 20 }, change));
    assert.equal((await operations.get(id)).attempts, 20);
    assert.equal(await operations.create(Operation.fromPartial({ id })), false);
    assert.deepEqual(await operations.params(id), { p: '1' });
  });

  it('queues again an operation whose job got lost, and only such', async () => {
    const lost = await create({});
    const queued = await create({});
    await around.queue.add(queued);
    const later = await create({
      kind: 'drain',
      state: 'scheduled',
      scheduledAtMs: BigInt(now + 60_000),
    });
    const schedule = { kind: 'drain-schedule', state: 'scheduled', cron: '0 3 * * *' };
    const lostSchedule = await create(schedule);
    const young = await create({ createdAtMs: BigInt(now + 4000) });
    now += 4000;
    log.length = 0;
    await new Sweeper(around).sweep();
    assert.ok((await around.queue.has(lost)) && (await around.queue.has(later)));
    assert.ok((await around.queue.nextTick(lostSchedule.id)) !== undefined);
    assert.ok(!(await around.queue.has(young)), 'its job may be on its way');
    const told = (id: string) => log.some((line) => line.includes(id));
    assert.ok(told(lost.id) && !told(queued.id));
  });

  it('forgets old operations that have ended', async () => {
    const { operations } = around.stores;
    const ended = await create({ createdAtMs: BigInt(now) });
    await operations.update(ended.id, (present) => ({ ...present, state: 'failed' }));
    const active = await create({});
    now += 8 * 24 * 3600 * 1000;
    await operations.forgetOld();
    assert.equal(await operations.find(ended.id), undefined);
    assert.ok((await operations.find(active.id)) !== undefined);
  });

  it('forgets a container that its node has not for a while, and finds it again', async () => {
    const { containers, nodes } = around.stores;
    await nodes.register({ name: 'a', address: '127.0.0.1:5', facts: HostFacts.create() });
    await containers.claim('c', { node: 'a', epoch: 4n, spec: undefined });
    await containers.takeAddress('10.0.0.1', 'c');
    const beat = async (names: string[]) => {
      const list = names.map((name) =>
        Container.fromPartial({ name, state: 'running', epoch: 4n }),
      );
      const fields = { name: 'a', address: '127.0.0.1:5', containers: list };
      await nodes.heartbeat(HeartbeatRequest.fromPartial(fields));
    };
    const sweep = async () => {
      await around.stores.db.redis.del('x:sweeper');
      await new Sweeper(around).sweep();
    };
    now += 5000;
    await beat([]);
    await containers.takeAddress('10.0.0.2', 'nobody');
    await sweep();
    assert.ok((await containers.find('c')) !== undefined, 'too soon');
    assert.deepEqual([...(await containers.takenAddresses()).keys()], ['10.0.0.1']);
    now += 6000;
    await beat([]);
    await sweep();
    assert.equal(await containers.find('c'), undefined);
    assert.equal((await containers.takenAddresses()).size, 0);
    const again = { node: 'a', epoch: 4n, spec: undefined };
    assert.equal(await containers.claim('c', again), false, 'an old heartbeat does not revive it');
    assert.equal(await containers.claim('c', { ...again, epoch: 5n }), true);
  });

  it('gives a container to one operation at a time', async () => {
    const { containers } = around.stores;
    assert.ok(await containers.reserve('n', 'op1', undefined));
    assert.ok(await containers.reserve('n', 'op1', undefined), 'repeated');
    assert.equal(await containers.reserve('n', 'op2', undefined), false);
    assert.equal(await containers.lock('n', 'op2'), 'op1');
    assert.equal(await containers.lock('n', 'op2', 'op1'), 'op2', 'op1 has ended');
    await containers.unlock('n', 'op1');
    assert.equal((await containers.get('n')).operation, 'op2');
    assert.equal(await containers.lock('m', 'op2'), undefined);
  });

  it('never gives an epoch twice', async () => {
    const { containers } = around.stores;
    assert.equal(await containers.nextEpoch('e'), 1n);
    await containers.claim('e', { node: 'a', epoch: 9n, spec: undefined });
    assert.equal(await containers.claim('e', { node: 'b', epoch: 9n, spec: undefined }), false);
    assert.equal(await containers.nextEpoch('e'), 10n);
  });
});
