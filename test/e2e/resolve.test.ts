import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as actions from '../support/actions.js';
import type { ClientMachine } from '../support/client-machine.js';
import type { Cluster } from '../support/cluster.js';
import type { OperatorCalls } from '../support/operator-main.js';
import { powerOff } from '../support/power-off.js';
import { RedisUnderLoad } from '../support/redis-under-load.js';
import { until } from '../support/shell.js';

const KEYS = 2000;
const WAIT = { timeoutMs: 120_000, everyMs: 300 };

describe('an operator decides about a migration in doubt', function () {
  this.timeout(400_000);
  let redis: RedisUnderLoad;
  let cluster: Cluster;
  let operator: ClientMachine<OperatorCalls>;
  let faults = '';

  before(async () => {
    redis = await RedisUnderLoad.start(KEYS, {
      agentArgs: ['--doubt-after-ms', '3000'],
      prepareRun: (folder) => {
        faults = join(folder, 'faults');
        mkdirSync(faults);
        return { FERRY_FAULT_DIR: faults };
      },
    });
    cluster = redis.cluster;
    operator = await cluster.operator();
  });

  afterEach(function () {
    if (this.currentTest?.state === 'failed') console.error(cluster.logTails());
  });

  after(async () => {
    await redis?.cluster.remove();
  });

  /** What `ferry ps` says of it. */
  const line = async () => (await actions.containers(cluster)).find(({ name }) => name === 'redis');

  /** Begins a migration to h2, and turns a host off when `point` is reached; gives its id once it is in doubt. */
  async function doubtAfterLossOf(host: string, point: string): Promise<string> {
    for (const name of readdirSync(faults)) rmSync(join(faults, name));
    writeFileSync(join(faults, `at.${point}`), '');
    const id = await operator.call('migrate', 'redis', 'h2', '');
    const reached = join(faults, 'reached');
    await until('the point', () => (existsSync(reached) ? true : undefined), WAIT);
    await cluster.end(host, 'SIGKILL');
    await powerOff(cluster.folder.id, host, cluster.stateDir(host));
    writeFileSync(join(faults, 'go'), '');
    const inDoubt = async () => {
      const { state } = await operator.call('operation', id);
      assert(['running', 'in-doubt'].includes(state), state);
      return state === 'in-doubt' ? true : undefined;
    };
    await until('it to be in doubt', inDoubt, WAIT);
    assert.equal((await line())?.state, 'in-doubt');
    return id;
  }

  async function resolve(id: string, runOn: string, fenced: string): Promise<void> {
    await redis.countsThrough(async () => {
      const args = ['resolve', id, '--run-on', runOn, '--i-have-fenced', fenced];
      const { status, stderr } = await cluster.ferry(args);
      assert.equal(status, 0, stderr);
      await until(
        `it to run on ${runOn}`,
        async () => {
          const now = await line();
          return now?.node === runOn && now.state === 'running' ? true : undefined;
        },
        WAIT,
      );
    });
  }

  /** The host that was off comes back, and keeps nothing. */
  async function comesBack(host: string): Promise<void> {
    await cluster.startAgent(host);
    const folder = join(cluster.stateDir(host), 'containers');
    const isEmpty = () => (readdirSync(folder).length === 0 ? true : undefined);
    await until(`nothing to be left on ${host}`, isEmpty, WAIT);
    // Known again it is at once, ready with its first heartbeat.
    const isReady = async () => {
      const { stdout } = await cluster.ferry(['node', 'ls', '--json']);
      const { nodes } = JSON.parse(stdout) as { nodes: { name: string; state: string }[] };
      return nodes.find(({ name }) => name === host)?.state === 'ready' ? true : undefined;
    };
    await until(`${host} to be ready`, isReady, WAIT);
  }

  it('whose destination is gone: the source runs it', async () => {
    const id = await doubtAfterLossOf('h2', 'destination.before.recordGrant');
    const wrong = await cluster.ferry(['resolve', id, '--run-on', 'h1', '--i-have-fenced', 'h1']);
    assert.notEqual(wrong.status, 0);
    await resolve(id, 'h1', 'h2');
    assert.equal((await operator.call('operation', id)).state, 'failed');
    await comesBack('h2');
  });

  it('whose source is gone: the destination runs it', async () => {
    const id = await doubtAfterLossOf('h1', 'source.before.grant');
    await resolve(id, 'h2', 'h1');
    assert.equal((await operator.call('operation', id)).state, 'succeeded');
    await comesBack('h1');
  });

  it('and the client has its connection, and Redis its data', () => redis.isWhole());
});
