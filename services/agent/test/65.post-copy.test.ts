import { strict as assert } from 'node:assert';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { PageChunk } from '@ferry/pages';
import { until } from '../../../test/support/shell.js';
import { tracesOf } from '../../../test/support/traces.js';
import { FaultyPort } from './support/faulty-port.js';
import { compiled, says } from './support/said.js';
import { type HostName, TwoAgents } from './support/two-agents.js';

const PAGES = 8192;

describe('agent: containers whose memory follows them', function () {
  this.timeout(180_000);
  let two: TwoAgents;
  let moves = 0;
  before(async () => {
    two = await TwoAgents.start();
    const churn = compiled(two, 'churn');
    const rootfs = await two.rootfs([churn]);
    await two.run('h1', { name: 'churn', rootfs, args: [churn, String(PAGES), '200'] });
    await intact('h1', 'churn');
  });
  afterEach(() => {
    two.wrapSource = undefined;
  });
  after(async () => {
    assert.deepEqual(await two?.remove(), []);
  });

  /** It has found all of its memory as it must be, twice from now on. */
  const intact = (host: HostName, name: string) => says(two, { host, name }, { more: 2 });

  const move = (name: string, from: HostName, to: HostName, wishes = {}) => {
    moves += 1;
    return two.migrate(name, from, to, `later-${moves}`, wishes);
  };

  /** Nothing waits for its memory any more. */
  async function whole(host: HostName, name: string): Promise<void> {
    const pid = await two.at(host).agent.host.initPid(name);
    assert.doesNotMatch(readFileSync(`/proc/${pid}/smaps`, 'utf8'), /^VmFlags:.* um( |$)/m);
  }

  /** Each chunk of memory takes so long, so that something can happen meanwhile. */
  function slowly(ms: number): void {
    const slow = (chunks: AsyncIterable<PageChunk>) =>
      (async function* () {
        for await (const chunk of chunks) {
          yield chunk;
          await new Promise((done) => setTimeout(done, ms));
        }
      })();
    two.wrapSource = (port) => new FaultyPort(port, { fetched: slow });
  }

  /** Resolves once the migration fetches. */
  async function fetches(to: HostName, migrationId: string): Promise<void> {
    for (let i = 0; i < 600; i += 1) {
      const { progress, state } = await two.reach(to).client.queryMigration({ migrationId });
      if (progress?.phase === 'post-copy') return;
      assert(['running', 'committed', 'unknown'].includes(state), state);
      await new Promise((done) => setTimeout(done, 20));
    }
    throw new Error('it never came to that');
  }

  it('run at once, and get their memory as they need it', async () => {
    const result = await move('churn', 'h1', 'h2', { mode: 'post-copy' });
    assert.equal(result.mode, 'post-copy', result.warnings.join('; '));
    const { later } = result;
    assert(later !== undefined);
    assert(later.faults > 0n && later.longestStallMs > 0);
    assert(later.bytesFetched > 0n && later.bytesPushed > 0n);
    await whole('h2', 'churn');
    await intact('h2', 'churn');
  });

  it('get what the rounds have not brought', async () => {
    const result = await move('churn', 'h2', 'h1', { mode: 'hybrid' });
    assert.equal(result.mode, 'hybrid', result.warnings.join('; '));
    assert(result.rounds > 0);
    const { later } = result;
    assert(later !== undefined && later.bytesFetched + later.bytesPushed > 0n);
    await whole('h1', 'churn');
    await intact('h1', 'churn');
  });

  it('wait for their memory while the line is cut, and go on afterwards', async () => {
    slowly(20);
    let cut = false;
    const base = two.wrapSource!;
    two.wrapSource = (port) => {
      const slow = base(port);
      return new FaultyPort(slow, {
        fetched: (chunks) =>
          (async function* () {
            for await (const chunk of chunks) {
              if (cut) throw new Error('the line is cut');
              yield chunk;
            }
          })(),
      });
    };
    const moved = move('churn', 'h1', 'h2', { mode: 'post-copy' });
    await fetches('h2', `later-${moves}`);
    cut = true;
    await new Promise((done) => setTimeout(done, 1500));
    const status = await two.at('h2').client.cancelMigration({
      ...{ migrationId: `later-${moves}`, reason: 'too late' },
    });
    assert.deepEqual([status.state, status.copy], ['committed', 'runs']);
    cut = false;
    const { later } = await moved;
    assert(later !== undefined && later.reconnections > 0);
    assert(later.longestStallMs > 500, `${later.longestStallMs} ms`);
    await intact('h2', 'churn');
  });

  it('go on when the agent of their source was killed meanwhile', async () => {
    await two.stopAgent('h2');
    await two.startProgram('h2', '127.0.0.1:0');
    const { address } = two.reach('h2');
    slowly(20);
    const moved = move('churn', 'h2', 'h1', { mode: 'post-copy' });
    await fetches('h1', `later-${moves}`);
    await two.killProgram('h2');
    await new Promise((done) => setTimeout(done, 500));
    await two.startProgram('h2', address);
    const { later } = await moved;
    assert(later !== undefined && later.reconnections > 0);
    await whole('h1', 'churn');
    await intact('h1', 'churn');
    assert.deepEqual(await two.states('h2'), {});
  });

  it('go on when the agent of their destination was killed meanwhile', async () => {
    const { address } = two.reach('h2');
    const env = { FERRY_FAULT_DIR: two.folder.path };
    // Held where it has just been let go, so that there is memory to come.
    writeFileSync(join(two.folder.path, 'at.destination.before.fetch'), '');
    await two.killProgram('h2');
    await two.startProgram('h2', address, env);
    const moved = move('churn', 'h1', 'h2', { mode: 'post-copy' });
    moved.catch(() => {}); // the call breaks with the agent
    const migrationId = `later-${moves}`;
    while (!existsSync(join(two.folder.path, 'reached'))) {
      await new Promise((done) => setTimeout(done, 20));
    }
    await two.killProgram('h2');
    await assert.rejects(moved);
    await two.startProgram('h2', address);
    for (let i = 0; ; i += 1) {
      const { state, result } = await two.reach('h2').client.queryMigration({ migrationId });
      if (state === 'succeeded') {
        assert((result?.later?.bytesPushed ?? 0n) > 0n);
        break;
      }
      assert(i < 600, state);
      await new Promise((done) => setTimeout(done, 50));
    }
    await two.killProgram('h2');
    await two.startAgent('h2');
    await whole('h2', 'churn');
    await intact('h2', 'churn');
  });

  it('leave no pager where the agent of their destination was killed before they ran', async () => {
    const from: HostName = 'churn' in (await two.states('h2')) ? 'h2' : 'h1';
    const to: HostName = from === 'h2' ? 'h1' : 'h2';
    const points = join(two.folder.path, 'points');
    mkdirSync(points);
    writeFileSync(join(points, 'at.destination.before.resume'), '');
    await two.stopAgent(to);
    await two.startProgram(to, '127.0.0.1:0', { FERRY_FAULT_DIR: points });
    const { address } = two.reach(to);
    const moved = move('churn', from, to, { mode: 'post-copy' });
    moved.catch(() => {}); // the call breaks with the agent
    await until('it to be about to run', () => existsSync(join(points, 'reached')) || undefined, {
      timeoutMs: 60_000,
    });
    const pagers = () =>
      tracesOf(two.folder.id).processes.filter(({ what }) => what.includes('ferry-pager'));
    assert(pagers().length > 0);
    await two.killProgram(to);
    await two.startProgram(to, address);
    await until('no pager', () => pagers().length === 0 || undefined, { timeoutMs: 60_000 });
    await until('the container to be given back', async () => {
      const { state } = await two.reach(to).client.queryMigration({
        migrationId: `later-${moves}`,
      });
      return state === 'failed' || undefined;
    });
    await intact(from, 'churn');
  });
});
