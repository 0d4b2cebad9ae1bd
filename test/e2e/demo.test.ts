import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { DemoResult } from '../../demo/result.js';
import { RUN_VARIABLE, traceLines, tracesOf } from '../support/traces.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

describe('the demo', function () {
  this.timeout(240_000);

  it('prints one JSON object in its last line, and everything held', async () => {
    const { code, stdout, stderr } = await demo(['--json', '--keys', '20000']).ended;
    assert.equal(code, 0, stderr);
    const result: DemoResult = JSON.parse(stdout.trimEnd());
    assert.deepEqual(
      result.migrations.slice(0, 2).map(({ container, from, to }) => [container, from, to]),
      [
        ['redis', 'h1', 'h2'],
        ['redis', 'h2', 'h1'],
      ],
    );
    for (const line of result.migrations) {
      assert.ok(line.downtime_ms > 0 && line.downtime_ms <= line.total_ms);
      assert.ok(line.bytes_wire > 0 && line.bytes_wire <= line.bytes_raw);
    }
    const { same_pids, same_connection, same_data, client_errors, lost_writes } = result;
    assert.deepEqual([same_pids, same_connection, same_data], [true, true, true]);
    assert.deepEqual([client_errors, lost_writes, result.duplicated_writes], [0, 0, 0]);
    assert.deepEqual(result.drain, { moved: 4, failed: 0 });
    assert.equal(result.keys, 20_000);
    assert.deepEqual(result.leftovers, []);
  });

  for (const [signal, moment] of [
    ['SIGINT', 'making 3 hosts'],
    ['SIGINT', 'starting Redis'],
    ['SIGTERM', 'pages'],
  ] as const) {
    it(`removes everything when ${signal} comes at "${moment}"`, async () => {
      const before = new Set(runs());
      const { child, ended } = demo(['--json', '--keys', '20000']);
      let text = '';
      let id: string | undefined;
      child.stderr?.on('data', (data: Buffer) => {
        text += data.toString();
        if (id !== undefined || !text.includes(moment)) return;
        id = runs().find((name) => !before.has(name));
        if (id !== undefined) child.kill(signal);
      });
      const { code } = await ended;
      assert.ok(id !== undefined, text);
      assert.equal(code, signal === 'SIGINT' ? 130 : 143);
      assert.deepEqual(traceLines(tracesOf(id)), []);
    });
  }
});

/** Ids of the runs on this machine. */
function runs(): string[] {
  return readdirSync(tmpdir())
    .map((name) => /^ferry-(f[a-z0-9]{7})$/.exec(name)?.[1])
    .filter((id) => id !== undefined);
}

function demo(args: readonly string[]): {
  child: ChildProcess;
  ended: Promise<{ code: number | null; stdout: string; stderr: string }>;
} {
  const child = spawn(process.execPath, ['--import', 'tsx', 'demo/main.ts', ...args], {
    cwd: ROOT,
    env: { ...process.env, [RUN_VARIABLE]: undefined },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (data: Buffer) => {
    stdout += data.toString();
  });
  child.stderr.on('data', (data: Buffer) => {
    stderr += data.toString();
  });
  const ended = new Promise<{ code: number | null; stdout: string; stderr: string }>((resolve) => {
    child.once('close', (code) => resolve({ code, stdout, stderr }));
  });
  return { child, ended };
}
