import { strict as assert } from 'node:assert';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { until } from '../../../test/support/shell.js';
import { CountedRedis } from './support/counted-redis.js';
import { changed, type Faults, FaultyPort } from './support/faulty-port.js';
import type { TwoAgents } from './support/two-agents.js';

describe('agent: agents that are killed', function () {
  this.timeout(120_000);
  let redis: CountedRedis;
  let two: TwoAgents;
  beforeEach(async () => {
    redis = await CountedRedis.start(20_000);
    two = redis.two;
  });
  afterEach(() => redis?.end());

  const faults = (change: Partial<Faults>) => {
    two.wrapSource = (port) => new FaultyPort(port, change);
  };

  it('a source, while memory moves: its container runs on, nothing is at the destination', async () => {
    let killed: Promise<void> | undefined;
    faults({
      pages: (chunks) =>
        changed(chunks, (chunk, i) => {
          if (i === 3) killed = two.killProgram('h1');
          return chunk;
        }),
    });
    await assert.rejects(two.migrate('redis', 'h1', 'h2', 'source-killed'));
    await killed;
    await redis.runs();
    assert.deepEqual(await two.at('h2').agent.host.list(), []);
    await two.startProgram('h1');
    assert.deepEqual(await two.states('h1'), { redis: 'running' });
    two.wrapSource = undefined;
    await two.migrate('redis', 'h1', 'h2', 'then');
    await redis.runs();
  });

  it('a source, after it granted: the container runs at the destination alone', async () => {
    const { address } = two.reach('h1');
    let killed: Promise<unknown> | undefined;
    faults({
      session: (answers) =>
        changed(answers, (answer) => {
          if (answer.message?.$case === 'grant' && killed === undefined) {
            killed = two.killProgram('h1').then(() => two.startProgram('h1', address));
          }
          return answer;
        }),
    });
    const result = await two.migrate('redis', 'h1', 'h2', 'grant-killed');
    await killed;
    assert.equal(result.to, 'h2');
    await redis.runs();
    assert.deepEqual(await two.states('h2'), { redis: 'running' });
    assert.deepEqual(await two.states('h1'), {});
  });

  it('a destination, while memory moves: the source runs on, and a new agent finds nothing', async () => {
    await two.stopAgent('h2');
    // It stops where it has all of the memory and has not said so.
    const points = join(two.folder.path, 'points');
    mkdirSync(points);
    writeFileSync(join(points, 'at.destination.before.tellReady'), '');
    await two.startProgram('h2', undefined, { FERRY_FAULT_DIR: points });
    await two.killProgram('h1');
    await two.startAgent('h1');
    const moving = two.migrate('redis', 'h1', 'h2', 'destination-killed');
    moving.catch(() => {});
    await until('the last moment', () => (existsSync(join(points, 'reached')) ? true : undefined));
    await two.killProgram('h2');
    await assert.rejects(moving);
    await redis.runs();
    assert.deepEqual(await two.states('h1'), { redis: 'running' });
    await two.startAgent('h2');
    // What it had received is given back once the source has been asked.
    await until('nothing at the destination', async () =>
      (await two.at('h2').agent.host.list()).length === 0 ? true : undefined,
    );
    // Until both have settled the other migration it is busy with that one.
    let tries = 0;
    await until('it to move again', () =>
      two.migrate('redis', 'h1', 'h2', `then-${tries++}`).catch((error: Error) => {
        assert.match(error.message, /is busy with migration destination-killed/);
        return undefined;
      }),
    );
    await redis.runs();
  });
});
