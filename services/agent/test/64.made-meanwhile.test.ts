import { strict as assert } from 'node:assert';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { SourceMessage } from '@ferry/api';
import { until } from '../../../test/support/shell.js';
import { changed, FaultyPort } from './support/faulty-port.js';
import { compiled, says } from './support/said.js';
import { type HostName, TwoAgents } from './support/two-agents.js';

/** Rounds to come after the first, however little there is to send. */
const policy = {
  ...{ maxDowntimeMs: 0, maxRounds: 3, roundsTimeoutMs: 0, onNoConvergence: 'stop-copy' },
  bandwidthBytesPerSecond: 0n,
};

describe('agent: what a container makes while its memory moves in rounds', function () {
  this.timeout(180_000);
  let two: TwoAgents;
  let rootfs: string;
  let program: string;
  before(async () => {
    two = await TwoAgents.start();
    program = compiled(two, 'making');
    rootfs = await two.rootfs([program]);
  });
  after(async () => {
    assert.deepEqual(await two?.remove(), []);
  });

  /** A bundle whose program may mount. */
  function bundle(kind: string): string {
    const folder = join(two.folder.path, 'bundle');
    mkdirSync(folder);
    const capabilities = { bounding: ['CAP_SYS_ADMIN'] };
    const user = { uid: 0, gid: 0 };
    const config = {
      ociVersion: '1.0.2',
      process: { user, args: [program, kind], cwd: '/', capabilities },
      root: { path: rootfs },
      mounts: [{ destination: '/proc', type: 'proc', source: 'proc' }],
      linux: {},
    };
    writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
    return folder;
  }

  async function said(host: HostName, name: string, word: string): Promise<true | undefined> {
    for await (const { line } of two.at(host).agent.host.readLog(name)) {
      assert.doesNotMatch(line, /^damaged/);
      if (line === word) return true;
    }
    return undefined;
  }

  /** Has the container make its things behind the first round, of which they are no part. */
  function makesBehindTheFirstRound(name: string): void {
    let rounds = 0;
    const answered = async (answer: SourceMessage): Promise<SourceMessage> => {
      if (answer.message?.$case !== 'round') return answer;
      rounds += 1;
      if (rounds > 1) return answer;
      process.kill(await two.at('h1').agent.host.initPid(name), 'SIGUSR1');
      await until(`${name} to make it`, () => said('h1', name, 'made'));
      return answer;
    };
    two.wrapSource = (port) => new FaultyPort(port, { session: (all) => changed(all, answered) });
  }

  it('comes along: System V segments, memory files', async () => {
    await two.run('h1', { name: 'memory', rootfs, args: [program, 'memory'] });
    await says(two, { host: 'h1', name: 'memory' });
    makesBehindTheFirstRound('memory');
    const result = await two.migrate('memory', 'h1', 'h2', 'made-memory', { policy });
    assert.equal(result.mode, 'pre-copy', result.warnings.join('; '));
    assert(result.rounds >= 2, `${result.rounds} rounds`);
    assert.doesNotMatch(result.warnings.join('; '), /while it stood/);
    await says(two, { host: 'h2', name: 'memory' }, { more: 3 });
    two.wrapSource = undefined;
    await two.migrate('memory', 'h2', 'h1', 'made-memory-back');
    await says(two, { host: 'h1', name: 'memory' }, { more: 3 });
  });

  it('comes along: connections that nobody has accepted, and word of events nobody has read', async () => {
    await two.run('h1', { name: 'queues', rootfs, args: [program, 'queues'] });
    await says(two, { host: 'h1', name: 'queues' });
    makesBehindTheFirstRound('queues');
    const result = await two.migrate('queues', 'h1', 'h2', 'made-queues', { policy });
    assert.equal(result.mode, 'pre-copy', result.warnings.join('; '));
    assert.match(result.warnings.join('; '), /bytes of events/);
    process.kill(await two.at('h2').agent.host.initPid('queues'), 'SIGUSR2');
    await until('queues to be served', () => said('h2', 'queues', 'served'));
  });

  it('is named when it cannot come along, and the container goes on: mounts', async () => {
    await two.run('h1', { name: 'mounts', bundle: bundle('mounts') });
    await says(two, { host: 'h1', name: 'mounts' });
    makesBehindTheFirstRound('mounts');
    await assert.rejects(
      two.migrate('mounts', 'h1', 'h2', 'made-mounts', { policy }),
      (error: Error & { code: string }) => {
        assert.equal(error.code, 'capture.blocked');
        assert.match(error.message, /\/made/);
        return true;
      },
    );
    await says(two, { host: 'h1', name: 'mounts' }, { more: 3 });
    assert.deepEqual((await two.states('h2')).mounts, undefined);
  });
});
