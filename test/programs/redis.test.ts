import assert from 'node:assert/strict';
import type { Trial } from '../objects/support/trial.js';
import { encodeCommand, RespClient } from '../support/resp.js';
import { freePort, untilListens } from './support/loopback.js';
import { describeProgram } from './support/real-program.js';

const keyCount = 20_000;

interface State {
  readonly port: number;
  readonly digest: string;
  /** A connection that stays open across the dump, in one of the two variants. */
  readonly connected?: RespClient;
}

const ports = new Map<Trial, number>();

async function start(trial: Trial): Promise<void> {
  const port = await freePort();
  ports.set(trial, port);
  const address = ['--bind', '127.0.0.1', '--port', `${port}`];
  const files = [
    '--dir',
    trial.directory,
    '--save',
    '',
    '--unixsocket',
    `${trial.directory}/r.sock`,
  ];
  const debug = ['--enable-debug-command', 'local'];
  await trial.start(['redis-server', ...address, ...files, ...debug], {
    isReady: () => trial.has('r.sock'),
  });
  await untilListens(port);
}

async function fill(trial: Trial): Promise<State & { connected: RespClient }> {
  const port = ports.get(trial) ?? 0;
  const client = await RespClient.open('127.0.0.1', port);
  const replies = Array.from({ length: keyCount }, (_, i) =>
    client.send(encodeCommand(['SET', `key:${i}`, `value ${i} `.repeat(1 + (i % 20))])),
  );
  for (const reply of await Promise.all(replies)) assert.equal(reply, 'OK');
  await client.command('RPUSH', 'list', ...Array.from({ length: 300 }, (_, i) => i));
  await client.command('SET', 'expires', 'x', 'EX', 5000);
  await client.command('SET', 'counter', 41);
  const digest = String(await client.command('DEBUG', 'DIGEST'));
  return { port, digest, connected: client };
}

async function checkData(client: RespClient, state: State): Promise<void> {
  assert.equal(await client.command('DBSIZE'), keyCount + 3);
  assert.equal(await client.command('DEBUG', 'DIGEST'), state.digest, 'the digest of all data');
  const left = Number(await client.command('TTL', 'expires'));
  assert.ok(left > 4900 && left <= 5000, `${left} s to live`);
  assert.equal(await client.command('INCR', 'counter'), 42);
}

/** It still forks, writes files and reaps children. */
async function checkSave(client: RespClient): Promise<void> {
  await client.command('BGSAVE');
  for (let i = 0; i < 200; i++) {
    const info = String(await client.command('INFO', 'persistence'));
    if (info.includes('rdb_bgsave_in_progress:0')) {
      assert.match(info, /rdb_last_bgsave_status:ok/);
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.fail('BGSAVE does not end');
}

// Redis wakes up ten times a second, and may be seen running.
const volatile = [/^\d+ State:/];

describeProgram<State>({
  name: 'Redis',
  start,
  volatile,
  use: async (trial) => {
    const { connected, ...state } = await fill(trial);
    connected.close();
    return state;
  },
  check: async (_trial, state) => {
    const client = await RespClient.open('127.0.0.1', state.port);
    try {
      await checkData(client, state);
      await checkSave(client);
    } finally {
      client.close();
    }
  },
});

describeProgram<State>({
  name: 'Redis with a client connected all along',
  start,
  volatile,
  use: fill,
  check: async (_trial, state) => {
    assert.ok(state.connected !== undefined);
    await checkData(state.connected, state);
    await checkSave(state.connected);
    assert.equal(state.connected.ended, undefined, 'the connection is the same');
  },
  release: (state) => state.connected?.close(),
});
