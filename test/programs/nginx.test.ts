import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { identify, isAlive, treeOf, until } from '../objects/support/processes.js';
import type { Trial } from '../objects/support/trial.js';
import { fetchPage, freePort, untilListens } from './support/loopback.js';
import { describeProgram } from './support/real-program.js';

interface State {
  readonly port: number;
  readonly page: Buffer;
  readonly workers: readonly number[];
}

const ports = new Map<Trial, number>();
const workerCount = 2;

function configuration(folder: string, port: number): string {
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'];
  return `
daemon off; master_process on; worker_processes ${workerCount}; user root;
pid ${folder}/nginx.pid; error_log ${folder}/error.log notice;
events { worker_connections 128; }
http {
  access_log ${folder}/access.log;
  ${temporary.map((name) => `${name}_temp_path ${folder}/tmp;`).join('\n  ')}
  server { listen 127.0.0.1:${port}; root ${folder}/html; keepalive_timeout 600; }
}
`;
}

async function start(trial: Trial): Promise<void> {
  const port = await freePort();
  ports.set(trial, port);
  mkdirSync(`${trial.directory}/html`);
  const file = `${trial.directory}/nginx.conf`;
  writeFileSync(file, configuration(trial.directory, port));
  await trial.start(['nginx', '-e', `${trial.directory}/error.log`, '-c', file], {
    isReady: () => trial.has('nginx.pid'),
  });
  await untilListens(port);
  await until('the workers', 5000, () => treeOf(trial.pid).length === 1 + workerCount);
}

describeProgram<State>({
  name: 'nginx with two workers',
  start,
  use: async (trial) => {
    const page = randomBytes(1 << 20);
    writeFileSync(`${trial.directory}/html/page`, page);
    const port = ports.get(trial) ?? 0;
    const { status, body } = await fetchPage(port, '/page');
    assert.equal(status, 200);
    assert.ok(body.equals(page));
    return { port, page, workers: treeOf(trial.pid).slice(1) };
  },
  check: async (trial, state) => {
    assert.deepEqual(treeOf(trial.pid).slice(1), state.workers, 'the workers have their pids');
    for (let i = 0; i < 20; i++) {
      const { status, body } = await fetchPage(state.port, '/page');
      assert.equal(status, 200);
      assert.ok(body.equals(state.page), 'the page is the same');
    }
    assert.equal((await fetchPage(state.port, '/nothing')).status, 404);
    // The master still knows its workers: it replaces them, and the old ones end.
    const old = state.workers.flatMap((pid) => identify(pid) ?? []);
    process.kill(trial.pid, 'SIGHUP');
    await trial.gone(old, 'the old workers after SIGHUP');
    await until('the new workers', 5000, () => treeOf(trial.pid).length === 1 + workerCount);
    assert.equal((await fetchPage(state.port, '/page')).status, 200);
    // And notices the death of one.
    const victim = identify(treeOf(trial.pid)[1] ?? 0);
    assert.ok(victim !== undefined);
    process.kill(victim.pid, 'SIGKILL');
    await until('a new worker', 5000, () => {
      return !isAlive(victim) && treeOf(trial.pid).length === 1 + workerCount;
    });
    assert.equal((await fetchPage(state.port, '/page')).status, 200);
  },
});
