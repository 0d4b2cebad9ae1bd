import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Tracer } from '../../../packages/migration/src/tracer.js';
import type { TracerRequest } from '../../../packages/migration/src/tracer-protocol.js';

/** What a migration asks of a tracer up to COMMIT, and that it is called off then. */
const requests: readonly TracerRequest['method'][] = [
  ...(['scan', 'track', 'round', 'freeze', 'capture', 'thaw'] as const),
];
const bundled = {
  execArgv: [],
  script: join(import.meta.dirname, '../../../dist/ferry-tracer.mjs'),
};
/** Of the requests to the kernel so many are tried without FERRY_LONG: every so many-th. */
const EVERY = process.env.FERRY_LONG === undefined ? 17 : 1;
const ROUNDS_MS_MAX = 5000;

/** steady.c at work. */
class Steady {
  readonly #child: ChildProcess;
  readonly #file: string;
  readonly #errors: string;

  constructor(program: string, does: string, file: string) {
    this.#file = file;
    writeFileSync(file, Buffer.alloc(4096));
    this.#errors = `${file}.err`;
    const errors = openSync(this.#errors, 'w');
    this.#child = spawn(program, [does, file], { stdio: ['ignore', 'ignore', errors] });
    closeSync(errors);
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  #rounds(): readonly bigint[] {
    const bytes = readFileSync(this.#file);
    return [bytes.readBigUInt64LE(0), bytes.readBigUInt64LE(8)];
  }

  /** Waits until both of its threads have made two more rounds.
   *  @throws when it has ended, or one of them stands */
  async goesOn(): Promise<void> {
    const before = this.#rounds();
    const end = performance.now() + ROUNDS_MS_MAX;
    for (;;) {
      await sleep(2);
      const { exitCode, signalCode } = this.#child;
      const ended = signalCode ?? exitCode;
      assert.equal(ended, null, `it ended: ${ended} ${readFileSync(this.#errors, 'utf8')}`);
      const now = this.#rounds();
      if (now.every((value, i) => value >= (before[i] ?? 0n) + 2n)) break;
      assert(performance.now() < end, `it stands: ${before} and then ${now} rounds`);
    }
    const status = readFileSync(`/proc/${this.pid}/status`, 'utf8');
    assert.match(status, /^TracerPid:\s+0$/m);
  }

  async end(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill('SIGKILL');
    await once(this.#child, 'exit');
  }
}

describe('a tracer that is killed between any two requests', function () {
  this.timeout(600_000);
  let folder: string;
  let program: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'ferry-steady-'));
    program = join(folder, 'steady');
    const source = join(import.meta.dirname, 'support/steady.c');
    execFileSync('cc', ['-O2', '-pthread', '-o', program, source]);
  });
  after(() => rmSync(folder, { recursive: true }));

  /** Has a tracer that dies before its `diesAt`-th request do all of its work; true when it died on the way. */
  async function trace(pid: number, diesAt: number): Promise<boolean> {
    process.env.FERRY_TRACER_DIES_AT = String(diesAt);
    const tracer = Tracer.spawn(bundled);
    delete process.env.FERRY_TRACER_DIES_AT;
    try {
      const reconnection = undefined as never;
      await tracer.ask({
        method: 'open',
        hostPid: pid,
        externalInodes: [],
        givenMounts: [],
        givenSettings: {},
        reconnection,
      });
      for (const method of requests) await tracer.ask({ method } as TracerRequest);
      return false;
    } catch (error) {
      assert.equal((error as { code?: string }).code, 'tracer.ended', String(error));
      assert.equal(await tracer.ended, 'SIGKILL');
      return true;
    } finally {
      await tracer.close();
    }
  }

  for (const does of ['compute', 'block']) {
    it(`leaves a program unharmed whose first thread ${does}s`, async () => {
      const file = join(folder, does);
      const failures: string[] = [];
      let steady: Steady | undefined;
      let at = 1;
      try {
        for (let died = true; died; at += EVERY) {
          steady ??= new Steady(program, does, file);
          await steady.goesOn();
          died = await trace(steady.pid, at);
          try {
            await steady.goesOn();
          } catch (error) {
            failures.push(`before request ${at}: ${(error as Error).message}`);
            await steady.end();
            steady = undefined;
          }
        }
      } finally {
        await steady?.end();
      }
      console.log(`      killed before ${Math.floor((at - 1) / EVERY)} of ${at} requests`);
      assert.deepEqual(failures, []);
      assert(at > 50, 'there is more to a capture');
    });
  }
});
