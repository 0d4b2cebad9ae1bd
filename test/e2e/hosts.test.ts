import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { TestNetwork } from '../support/network.js';
import { makeRunFolder, removeRun, removeStaleRuns } from '../support/run-folder.js';
import { run, until } from '../support/shell.js';
import { RUN_VARIABLE, traceLines, tracesOf } from '../support/traces.js';

const ABANDON_TRIAL = fileURLToPath(new URL('./programs/abandon-trial.ts', import.meta.url));
const ABANDON = fileURLToPath(new URL('./programs/abandon.ts', import.meta.url));

describe('hosts for tests', () => {
  it('reach each other, and nothing of them stays', async () => {
    const folder = await makeRunFolder();
    try {
      const network = await TestNetwork.make(folder.id);
      await network.addHost('h1', '10.77.0.11');
      await network.addHost('h2', '10.77.0.12');
      const [program = '', ...prefix] = network.on('h1');
      const listen = 'require("net").createServer(s => s.end("here")).listen(80, "10.77.0.11")';
      const server = spawn(program, [...prefix, process.execPath, '-e', listen], {
        env: folder.env,
        stdio: 'ignore',
      });
      const fetch = 'require("net").connect(80, "10.77.0.11").pipe(process.stdout)';
      const [other = '', ...otherPrefix] = network.on('h2');
      const heard = await until('an answer', () =>
        run(other, [...otherPrefix, process.execPath, '-e', fetch]),
      );
      assert.equal(heard, 'here');
      assert.equal(server.exitCode, null);
      const lines = traceLines(tracesOf(folder.id)).join('\n');
      assert.match(lines, /^process \d+ \(.*listen/m);
      assert.match(lines, /^network namespace ferry-f\w+-h1$/m);
    } finally {
      await removeRun(folder.id);
    }
    assert.deepEqual(traceLines(tracesOf(folder.id)), []);
  });

  /** Has a program make things, and ends it with a signal; gives their id. */
  async function abandoned(signal: NodeJS.Signals, program: string, ...args: string[]) {
    const owner = spawn(process.execPath, ['--import', 'tsx', program, ...args], {
      env: { ...process.env, [RUN_VARIABLE]: undefined },
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const id = await new Promise<string>((resolve) => {
      owner.stdout.once('data', (data: Buffer) => resolve(data.toString().trim()));
    });
    const ended = new Promise((resolve) => owner.once('exit', resolve));
    owner.kill(signal);
    await ended;
    return id;
  }

  it('are removed by the next run when their owner was killed', async () => {
    const id = await abandoned('SIGKILL', ABANDON);
    const before = tracesOf(id);
    assert.equal(before.namespaces.length, 2);
    assert.equal(before.processes.length, 1);
    assert.equal(before.mounts.length, 1);
    assert.ok(before.cgroups.length >= 1);
    await removeStaleRuns();
    assert.deepEqual(traceLines(tracesOf(id)), []);
    assert.ok(existsSync('/etc/passwd'), 'nothing is deleted through a mount');
  });

  it('are removed by their owner when a signal ends it', async () => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      const id = await abandoned(signal, ABANDON, 'guarded');
      assert.deepEqual(traceLines(tracesOf(id)), []);
    }
    assert.ok(existsSync('/etc/passwd'), 'nothing is deleted through a mount');
  });

  it('and trials of test/objects as well, either way', async () => {
    const killed = await abandoned('SIGKILL', ABANDON_TRIAL);
    const { processes, mounts, cgroups } = tracesOf(killed);
    assert.deepEqual([processes.length, mounts.length, cgroups.length], [1, 1, 1]);
    await removeStaleRuns();
    assert.deepEqual(traceLines(tracesOf(killed)), []);
    const ended = await abandoned('SIGTERM', ABANDON_TRIAL);
    assert.deepEqual(traceLines(tracesOf(ended)), []);
    assert.ok(existsSync('/etc/passwd'), 'nothing is deleted through a mount');
  });

  it('are left alone while their owner lives', async () => {
    const folder = await makeRunFolder();
    try {
      await removeStaleRuns();
      assert.ok(existsSync(folder.path));
    } finally {
      await removeRun(folder.id);
    }
  });
});
