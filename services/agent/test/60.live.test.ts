import { strict as assert } from 'node:assert';
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { SourceMessage } from '@ferry/api';
import type { SourcePort } from '@ferry/migration';
import { until } from '../../../test/support/shell.js';
import { changed, FaultyPort } from './support/faulty-port.js';
import { compiled, says } from './support/said.js';
import { type HostName, TwoAgents } from './support/two-agents.js';

const LOGGER =
  'mkdir -p /data; i=0; while :; do i=$((i+1)); echo "line $i" >>/data/log; read -t 0.01 x </dev/zero; done';

const GROWER = 'while :; do echo more >>/data/log; read -t 0.01 x </dev/zero; done';

describe('agent: containers that move while they run', function () {
  this.timeout(180_000);
  let two: TwoAgents;
  let moves = 0;
  before(async () => {
    two = await TwoAgents.start();
    const churn = compiled(two, 'churn');
    const rootfs = await two.rootfs([churn, '/bin/bash', '/bin/mkdir']);
    await two.run('h1', { name: 'churn', rootfs, args: [churn, '4096', '20'] });
    const files = compiled(two, 'files');
    const tree = await two.rootfs([files]);
    for (let i = 0; i < 20; i += 2) {
      mkdirSync(join(tree, `lower/slot${i}`), { recursive: true });
      for (const name of ['one', 'two']) writeFileSync(join(tree, `lower/slot${i}`, name), name);
    }
    await two.run('h1', { name: 'files', rootfs: tree, args: [files] });
    await two.run('h1', { name: 'logger', rootfs, args: ['/bin/bash', '-c', LOGGER] });
    await says(two, { host: 'h1', name: 'churn' });
  });
  afterEach(() => {
    two.wrapSource = undefined;
  });
  after(async () => {
    assert.deepEqual(await two?.remove(), []);
  });

  const move = (name: string, from: HostName, to: HostName, wishes = {}) => {
    moves += 1;
    return two.migrate(name, from, to, `live-${moves}`, wishes);
  };

  /** It is not traced, and nothing notes its writes any more. */
  async function untouched(host: HostName, name: string): Promise<void> {
    const pid = await two.at(host).agent.host.initPid(name);
    assert.match(readFileSync(`/proc/${pid}/status`, 'utf8'), /^TracerPid:\s+0$/m);
    assert.doesNotMatch(readFileSync(`/proc/${pid}/smaps`, 'utf8'), /^VmFlags:.* uw( |$)/m);
    for (const fd of readdirSync(`/proc/${pid}/fd`)) {
      assert.doesNotMatch(readlinkSync(`/proc/${pid}/fd/${fd}`), /userfaultfd/);
    }
    assert.deepEqual(await two.at(host).agent.host.cpuQuota(name).usageUs().then(Boolean), true);
  }

  it('bring all of their memory, whatever they do to it meanwhile', async () => {
    const route: [HostName, HostName][] = [
      ['h1', 'h2'],
      ['h2', 'h1'],
    ];
    for (const [from, to] of route) {
      const result = await move('churn', from, to);
      assert.equal(result.mode, 'pre-copy', result.warnings.join('; '));
      assert(result.rounds >= 2, `${result.rounds} rounds`);
      // Some of its pages are given up at any moment.
      assert(result.bytesRaw > 4000n * 4096n, `${result.bytesRaw} bytes`);
      assert((result.predicted?.bytes ?? 0n) > 4000n * 4096n);
      await says(two, { host: to, name: 'churn' });
      await untouched(to, 'churn');
    }
  });

  it('bring all of their files, whatever they do to them meanwhile', async () => {
    const route: [HostName, HostName][] = [
      ['h1', 'h2'],
      ['h2', 'h1'],
    ];
    for (const [from, to] of route) {
      await says(two, { host: from, name: 'files' });
      const result = await move('files', from, to);
      assert.equal(result.mode, 'pre-copy', result.warnings.join('; '));
      assert.doesNotMatch(result.warnings.join(), /while it stood/);
      await says(two, { host: to, name: 'files' });
      await says(two, { host: to, name: 'files' });
    }
  });

  it('take no more of the network than they are allowed', async () => {
    const bandwidthBytesPerSecond = 8n << 20n;
    const policy = {
      ...{ maxDowntimeMs: 0, maxRounds: 2, roundsTimeoutMs: 0, onNoConvergence: 'stop-copy' },
      bandwidthBytesPerSecond,
    };
    const { totalMs, bytesWire } = await move('churn', 'h1', 'h2', { policy });
    // The last pages, and what was under way at first, are not held back.
    const atLeastMs = (Number(bytesWire - (4n << 20n)) / Number(bandwidthBytesPerSecond)) * 1000;
    assert(atLeastMs < totalMs, `${bytesWire} bytes in ${totalMs} ms`);
    await move('churn', 'h2', 'h1');
  });

  it('move all at once when asked to', async () => {
    const result = await move('churn', 'h1', 'h2', { mode: 'stop-copy' });
    assert.deepEqual([result.mode, result.rounds], ['stop-copy', 0]);
    await says(two, { host: 'h2', name: 'churn' });
    await move('churn', 'h2', 'h1');
  });

  for (const phase of ['layout', 'round', 'frozen'] as const) {
    it(`run on as before when they are cancelled (${phase})`, async () => {
      const migrationId = `cancelled-${phase}`;
      const { client } = two.at('h2');
      two.wrapSource = (port) =>
        new FaultyPort(port, {
          session: (answers) =>
            changed<SourceMessage>(answers, (answer) => {
              if (answer.message?.$case === phase) {
                void client.cancelMigration({ migrationId, reason: 'a test' });
              }
              return answer;
            }),
        });
      await assert.rejects(two.migrate('churn', 'h1', 'h2', migrationId), {
        code: 'migrate.cancelled',
      });
      assert.deepEqual(await two.at('h2').agent.host.list(), []);
      assert.equal((await two.states('h1')).churn, 'running');
      await says(two, { host: 'h1', name: 'churn' });
      await untouched('h1', 'churn');
    });
  }

  for (const [round, when] of [
    [1, 'the first'],
    [2, 'a later'],
    [3, 'the last'],
  ] as const) {
    it(`run on as before when a bit flips in ${when} round, whose chunk is named`, async () => {
      const [from, to] = ['h1', 'h2'] as const;
      // A round may have nothing; the pages of the frozen container (0) never do.
      let streams = 0;
      two.wrapSource = (port) =>
        new FaultyPort(port, {
          pages: (chunks, of) => {
            streams += 1;
            const isThe = round === 3 ? of === 0 || of >= 3 : streams === round;
            return changed(chunks, (chunk, i) => {
              if (isThe && i === 0) chunk.data[chunk.data.length >> 1]! ^= 8;
              return chunk;
            });
          },
        });
      const policy = {
        ...{ maxDowntimeMs: 0, maxRounds: 2, roundsTimeoutMs: 0, onNoConvergence: 'stop-copy' },
        bandwidthBytesPerSecond: 0n,
      };
      await assert.rejects(
        move('churn', from, to, { policy }),
        (error: Error & { code: string }) => {
          assert.equal(error.code, 'pages.damaged');
          assert.match(error.message, /Chunk 0\/0 \(\d+ pages, from [0-9a-f]+ of process \d+\)/);
          return true;
        },
      );
      await says(two, { host: from, name: 'churn' });
      await untouched(from, 'churn');
      assert.deepEqual((await two.states(to)).churn, undefined);
    });
  }

  /** Of a program that pauses, a look can find nothing written, which is as good as any downtime. */
  async function startRestless(): Promise<void> {
    if ('restless' in (await two.states('h1'))) return;
    const churn = compiled(two, 'churn');
    const args = [churn, '4096', '0', 'restless'];
    await two.run('h1', { name: 'restless', rootfs: await two.rootfs([churn]), args });
  }

  /** Has each round take its time, in which a program that writes without pause has written much, however busy the machine is. */
  const slowRounds = (port: SourcePort) =>
    new FaultyPort(port, {
      pages: (chunks, round) =>
        changed(chunks, async (chunk, i) => {
          if (round > 0 && i === 0) await sleep(50);
          return chunk;
        }),
    });

  it('run on as before when a downtime is asked for that cannot be had', async () => {
    await startRestless();
    two.wrapSource = slowRounds;
    const policy = {
      ...{ maxDowntimeMs: 1, maxRounds: 3, roundsTimeoutMs: 0, bandwidthBytesPerSecond: 0n },
      onNoConvergence: 'abort',
    };
    await assert.rejects(move('restless', 'h1', 'h2', { policy }), {
      code: 'migrate.noConvergence',
    });
    assert.deepEqual(await two.at('h2').agent.host.list(), []);
    await says(two, { host: 'h1', name: 'restless' });
    await untouched('h1', 'restless');
  });

  it('are slowed down when their memory changes too fast, and get their CPU time back', async () => {
    await startRestless();
    const quota = () => two.at('h1').agent.host.cpuQuota('restless');
    const policy = {
      ...{ maxDowntimeMs: 1, maxRounds: 0, roundsTimeoutMs: 0, bandwidthBytesPerSecond: 0n },
      onNoConvergence: 'throttle',
    };
    const standing = quota();
    await standing.remember();
    two.wrapSource = slowRounds;
    const result = await move('restless', 'h1', 'h2', { policy });
    const course = `${result.mode}, ${result.rounds} rounds; ${result.warnings.join('; ')}`;
    assert(/slowed down/.test(course), course);
    const moved = two.at('h2').agent.host.cpuQuota('restless');
    await moved.remember();
    const values = (files: typeof moved.before) => files.map(({ text }) => text);
    assert.deepEqual(values(moved.before), values(standing.before));
    await says(two, { host: 'h2', name: 'restless' });
  });

  it('bring files that they write all the time', async () => {
    const result = await move('logger', 'h1', 'h2');
    assert.equal(result.mode, 'pre-copy', result.warnings.join('; '));
    const { host } = two.at('h2').agent;
    const log = join('/proc', String(await host.initPid('logger')), 'root/data/log');
    const before = readFileSync(log, 'utf8').split('\n').length;
    await new Promise((done) => setTimeout(done, 500));
    const found = readFileSync(log, 'utf8').trimEnd().split('\n');
    assert(found.length > before, `${found.length} lines; ${result.warnings.join('; ')}`);
    assert.deepEqual(
      found,
      found.map((_line, i) => `line ${i + 1}`),
    );
  });

  it('bring of a large file that grows only what is new', async () => {
    const rootfs = await two.rootfs(['/bin/bash', '/bin/mkdir', '/bin/dd']);
    const script = `mkdir -p /data; dd if=/dev/urandom of=/data/log bs=1M count=16 2>/dev/null; ${GROWER}`;
    await two.run('h1', { name: 'grower', rootfs, args: ['/bin/bash', '-c', script] });
    const size = (host: HostName) => sizeOf(host, 'grower', 'data/log');
    await until('its file', async () => ((await size('h1')) > 16 << 20 ? true : undefined));
    let bytes = 0;
    two.wrapSource = (port) =>
      new FaultyPort(port, {
        state: (chunks, kind) =>
          changed(chunks, (chunk) => {
            if (kind === 'upper-rest') bytes += chunk.length;
            return chunk;
          }),
      });
    const result = await move('grower', 'h1', 'h2');
    assert.doesNotMatch(result.warnings.join(), /while it stood/);
    assert(bytes < 1 << 20, `${bytes} bytes while it stood`);
    const before = await size('h2');
    await until('more', async () => ((await size('h2')) > before ? true : undefined));
  });

  async function sizeOf(host: HostName, name: string, path: string): Promise<number> {
    const pid = await two.at(host).agent.host.initPid(name);
    return statSync(join('/proc', String(pid), 'root', path), { throwIfNoEntry: false })?.size ?? 0;
  }
});
