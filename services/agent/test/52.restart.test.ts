import { strict as assert } from 'node:assert';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { powerOff } from '../../../test/support/power-off.js';
import { until } from '../../../test/support/shell.js';
import { CountedRedis } from './support/counted-redis.js';
import { changed, FaultyPort } from './support/faulty-port.js';
import type { TwoAgents } from './support/two-agents.js';

describe('agent: what one that starts again finds', function () {
  this.timeout(120_000);
  let redis: CountedRedis;
  let two: TwoAgents;
  beforeEach(async () => {
    redis = await CountedRedis.start(2000);
    two = redis.two;
  });
  afterEach(() => redis?.end());

  function decisions(host: 'h1' | 'h2'): Record<string, string> {
    const folder = join(two.stateDir(host), 'run', 'journal');
    const names = readdirSync(folder).filter((name) => name.endsWith('.json'));
    const entries = names.map((name) => JSON.parse(readFileSync(join(folder, name), 'utf8')));
    return Object.fromEntries(entries.map(({ migrationId, decision }) => [migrationId, decision]));
  }

  async function startAgain(host: 'h1' | 'h2', env: NodeJS.ProcessEnv = {}): Promise<void> {
    const before = two.reach(host).address;
    await two.killProgram(host);
    await two.startProgram(host, before, env);
  }

  it('leaves alone what had come back once, wherever that has gone since', async () => {
    await two.stopAgent('h2');
    const points = join(two.folder.path, 'points');
    mkdirSync(points);
    writeFileSync(join(points, 'fail.destination.before.recordGrant'), '');
    await two.startProgram('h2', undefined, { FERRY_FAULT_DIR: points });
    await assert.rejects(two.migrate('redis', 'h1', 'h2', 'back'), /was told to fail/);
    await redis.runs();
    await until('it to be settled', () =>
      decisions('h1').back === 'reclaimed' ? true : undefined,
    );
    await startAgain('h1');
    assert.deepEqual(await two.states('h1'), { redis: 'running' });
    const epochOf = async () => {
      const { containers } = await two.reach('h1').client.listContainers({});
      return containers[0]?.epoch;
    };
    assert.equal(await epochOf(), 3n); // 2 was granted, and came to nothing
    await two.migrate('redis', 'h1', 'h2', 'there');
    await startAgain('h1');
    assert.deepEqual(await two.states('h1'), {});
    await two.migrate('redis', 'h2', 'h1', 'here');
    await startAgain('h1');
    assert.equal(await epochOf(), 5n);
    await redis.runs();
    await two.migrate('redis', 'h1', 'h2', 'on');
    await redis.runs();
  });

  for (const journal of ['with its journal', 'without its journal']) {
    it(`is nothing that runs, of a container that left, when its host was started anew (${journal})`, async () => {
      let killed: Promise<void> | undefined;
      const { address: listen } = two.reach('h1');
      two.wrapSource = (port) =>
        new FaultyPort(port, {
          session: (answers) =>
            changed(answers, (answer) => {
              if (answer.message?.$case === 'grant') killed ??= two.killProgram('h1');
              return answer;
            }),
        });
      const moving = two.migrate('redis', 'h1', 'h2', 'left');
      moving.catch(() => {});
      await until('it to run there', () => (decisions('h2').left === 'resumed' ? true : undefined));
      await killed;
      await redis.runs();
      await powerOff(two.folder.id, 'h1', two.stateDir('h1'));
      if (journal === 'without its journal') {
        rmSync(join(two.stateDir('h1'), 'run'), { recursive: true });
      }
      await two.startProgram('h1', listen, { FERRY_BOOT_ID: 'another' });
      await redis.runs();
      assert.equal((await two.states('h2')).redis, 'running');
      await until('both to have settled', () =>
        decisions('h2').left === 'succeeded' ? true : undefined,
      );
      const gone = journal === 'with its journal' ? {} : { redis: 'exited' };
      assert.deepEqual(await two.states('h1'), gone);
      // What is left of it there is no obstacle to its return.
      await two.migrate('redis', 'h2', 'h1', 'returns');
      assert.deepEqual(await two.states('h1'), { redis: 'running' });
      await redis.runs();
    });
  }
});
