import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import type { StoreCheckpointMessage } from '@ferry/api';
import { compiled, says } from './support/said.js';
import { type HostName, TwoAgents } from './support/two-agents.js';

const REDIS = ['/usr/bin/redis-server', '--port', '6379', '--save', '', '--dir', '/data'];

describe('agent: checkpoints of containers', function () {
  this.timeout(120_000);
  let two: TwoAgents;
  let unread: string;
  let rootfs: string;
  before(async () => {
    two = await TwoAgents.start();
    unread = compiled(two, 'unread');
    rootfs = await two.rootfs([
      unread,
      ...['/usr/bin/redis-server', '/usr/bin/redis-cli', '/bin/mount', '/bin/umount'],
    ]);
    await two.run('h1', { name: 'redis', rootfs, args: REDIS });
    await cli('h1', 'redis', 'set', 'word', 'one');
    await cli('h1', 'redis', 'save');
  });
  after(async () => {
    assert.deepEqual(await two?.remove(), []);
  });

  const cli = async (host: HostName, name: string, ...args: string[]) => {
    const { stdout } = await two.at(host).agent.host.exec(name, ['/usr/bin/redis-cli', ...args]);
    return stdout.toString().trim();
  };
  const checkpoint = async (host: HostName, id: string, leaveRunning: boolean, name = 'redis') => {
    const request = {
      ...{ operationId: id, name, checkpointId: id, leaveRunning },
      sealFor: Buffer.alloc(0),
    };
    for await (const { event } of two.at(host).client.checkpointContainer(request)) {
      if (event?.$case === 'result') return event.value;
    }
    throw new Error('No result');
  };
  const restore = async (host: HostName, id: string, name: string) => {
    const request = { operationId: `${host}-${id}-${name}`, checkpointId: id, name, epoch: 7n };
    for await (const { event } of two.at(host).client.restoreContainer(request)) {
      if (event?.$case === 'result') return event.value;
    }
    throw new Error('No result');
  };
  const fileOf = (host: HostName, id: string) =>
    `${two.stateDir(host)}/checkpoints/${id}.checkpoint`;
  const send = async (host: HostName, id: string, bytes: Buffer) => {
    const messages = function* (): Generator<StoreCheckpointMessage> {
      yield { message: { $case: 'checkpointId', value: id } };
      for (let at = 0; at < bytes.length; at += 1 << 20) {
        const value = {
          offset: BigInt(at),
          data: bytes.subarray(at, at + (1 << 20)),
          sizeBytes: 0n,
        };
        yield { message: { $case: 'chunk', value } };
      }
    };
    return await two.at(host).client.storeCheckpoint(messages());
  };

  it('hold a container that runs on', async () => {
    const result = await checkpoint('h1', 'running', true);
    const bytes = readFileSync(fileOf('h1', 'running'));
    assert.equal(result.sizeBytes, BigInt(bytes.length));
    assert.equal(result.sha256, createHash('sha256').update(bytes).digest('hex'));
    assert(result.downtimeMs > 0 && result.downtimeMs < result.totalMs);
    assert.deepEqual(result.warnings, []);
    assert.equal(await cli('h1', 'redis', 'get', 'word'), 'one');
    await cli('h1', 'redis', 'set', 'word', 'two');
    assert.equal(await cli('h1', 'redis', 'get', 'word'), 'two');
  });

  it('are not made of a container in which something was mounted since it was looked at', async () => {
    const { host } = two.at('h1').agent;
    const inside = ['-t', `${await host.initPid('redis')}`, '-m'];
    const keepFrames = host.keepFrames.bind(host);
    // The last that is done before it is frozen.
    host.keepFrames = async (name) => {
      execFileSync('nsenter', [...inside, 'mount', '-t', 'tmpfs', 'since', '/tmp']);
      await keepFrames(name);
    };
    try {
      await assert.rejects(checkpoint('h1', 'mounted', true), (error: Error & { code: string }) => {
        assert.equal(error.code, 'capture.blocked');
        assert.match(error.message, /mount at \/tmp \(tmpfs\)/);
        return true;
      });
    } finally {
      host.keepFrames = keepFrames;
    }
    execFileSync('nsenter', [...inside, 'umount', '/tmp']);
    assert.equal(existsSync(fileOf('h1', 'mounted')), false);
    assert.equal(await cli('h1', 'redis', 'get', 'word'), 'two');
  });

  it('say what of a container is not in them', async () => {
    await two.run('h1', { name: 'unread', rootfs, args: [unread] });
    await says(two, { host: 'h1', name: 'unread' });
    const { warnings } = await checkpoint('h1', 'unread', false, 'unread');
    assert.equal(warnings.length, 1, warnings.join('; '));
    assert.match(warnings[0]!, /^descriptor \d+ of process \d+ \(inotify\): .* are not carried$/);
  });

  it('are written once for one operation', async () => {
    const [first, second] = [
      await checkpoint('h1', 'running', true),
      await checkpoint('h1', 'running', true),
    ];
    assert.deepEqual(first, second);
  });

  it('end a container otherwise, which starts again elsewhere, files and memory', async () => {
    const { address } = (await two.at('h1').agent.host.get('redis')).record.network;
    await checkpoint('h1', 'ended', false);
    assert.deepEqual(await two.states('h1'), {});
    const bytes: Buffer[] = [];
    const fetch = { checkpointId: 'ended', offset: 0n };
    for await (const { data } of two.at('h1').client.fetchCheckpoint(fetch)) bytes.push(data);
    const file = Buffer.concat(bytes);
    assert(readFileSync(fileOf('h1', 'ended')).equals(file));
    const stored = await send('h2', 'copy', file);
    assert.equal(stored.container, 'redis');
    assert.equal(stored.sha256, createHash('sha256').update(file).digest('hex'));
    const container = await restore('h2', 'copy', '');
    assert.deepEqual([container.name, container.state, container.epoch], ['redis', 'running', 7n]);
    assert.equal(container.address, address);
    assert.equal(await cli('h2', 'redis', 'get', 'word'), 'two');
    assert.equal(await cli('h2', 'redis', 'config', 'get', 'dir'), 'dir\n/data');
    assert.deepEqual(readdirSync(`${two.stateDir('h2')}/containers/redis/upper/data`), [
      'dump.rdb',
    ]);
  });

  it('start again under another name, once their address is free', async () => {
    await assert.rejects(restore('h2', 'copy', 'second'), { code: 'restore.preflight' });
    assert.deepEqual(await two.states('h2'), { redis: 'running' });
    const older = await restore('h1', 'running', 'second');
    assert.equal(older.name, 'second');
    assert.equal(await cli('h1', 'second', 'get', 'word'), 'one');
    assert.deepEqual(await two.states('h1'), { second: 'running' });
  });

  it('that are damaged start nothing', async () => {
    const stop = { operationId: 's', name: 'second', graceMs: 1000, remove: true };
    await two.at('h1').client.stopContainer(stop);
    const file = readFileSync(fileOf('h1', 'running'));
    for (const at of [file.length - 2_000, Math.floor(file.length / 2)]) {
      const bytes = Buffer.from(file);
      bytes[at]! ^= 1;
      await send('h1', `damaged-${at}`, bytes);
      await assert.rejects(restore('h1', `damaged-${at}`, ''), { code: 'checkpoint.damaged' });
      assert.deepEqual(await two.states('h1'), {});
    }
    await send('h1', 'cut', file.subarray(0, file.length - 100_000));
    await assert.rejects(restore('h1', 'cut', ''), { code: 'checkpoint.damaged' });
    await assert.rejects(send('h1', 'nothing', Buffer.from('what is this')), {
      code: /checkpoint/,
    });
    assert(!existsSync(fileOf('h1', 'nothing')));
  });

  it('that are not there are named', async () => {
    await assert.rejects(restore('h1', 'missing', ''), { code: 'checkpoint.unknown' });
    await assert.rejects(checkpoint('h1', 'x', true), { code: 'container.unknown' });
    await two.at('h1').client.deleteCheckpoint({ checkpointId: 'running' });
    assert(!existsSync(fileOf('h1', 'running')));
  });
});
