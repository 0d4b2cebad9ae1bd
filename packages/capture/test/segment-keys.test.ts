import { deepStrictEqual, match, ok, strictEqual, throws } from 'node:assert';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { lossesOf } from '@ferry/image';
import { ERRNO, SOL } from '@ferry/linux';
import { hasAoKeys } from '../src/files/segment-keys.js';
import { TreeCapture } from '../src/tree-capture.js';
import { withoutKernelMemory } from './support/sockets.js';

const WAIT_MS = 5000;
const SIGNED = /descriptor \d+ .*keys that sign its segments \(TCP_MD5SIG\)/;

describe('TCP sockets whose segments are signed', function () {
  this.timeout(20_000);
  let folder: string;
  let child: ChildProcess | undefined;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'ferry-signer-'));
    const source = join(import.meta.dirname, 'support/signer.c');
    execFileSync('cc', ['-O1', '-o', join(folder, 'signer'), source]);
  });
  afterEach(async () => {
    if (child === undefined) return;
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    child = undefined;
  });
  after(() => rmSync(folder, { recursive: true }));

  const said = async (words: string) => {
    const end = performance.now() + WAIT_MS;
    while (readFileSync(join(folder, 'said'), 'utf8') !== words) {
      ok(performance.now() < end, `it did not say ${words}`);
      await sleep(5);
    }
  };
  async function start(kind: string): Promise<number> {
    const out = openSync(join(folder, 'said'), 'w');
    child = spawn(join(folder, 'signer'), [kind], { stdio: ['ignore', out, 'ignore'] });
    closeSync(out);
    await said('ready\n');
    return child.pid!;
  }
  const codes = (capture: TreeCapture) => capture.scan().blockers.map(({ code }) => code);

  for (const kind of ['unbound', 'bound', 'listening', 'connected']) {
    it(`are refused by name while they run, and only as long as they have keys: ${kind}`, async () => {
      using capture = TreeCapture.open(await start(kind));
      deepStrictEqual(codes(capture), []);
      child!.kill('SIGUSR1');
      await said('ready\nsigned\n');
      const { blockers } = capture.scan();
      strictEqual(blockers.length, 1);
      match(`${blockers[0]!.object} ${blockers[0]!.reason}`, SIGNED);
      child!.kill('SIGUSR1');
      await said('ready\nsigned\nunsigned\n');
      deepStrictEqual(codes(capture), []);
    });

    it(`are refused too when they got keys since they were looked at: ${kind}`, async () => {
      using capture = TreeCapture.open(await start(kind));
      deepStrictEqual(codes(capture), []);
      child!.kill('SIGUSR1');
      await said('ready\nsigned\n');
      capture.freeze();
      capture.captureUnchecked();
      throws(() => capture.check(), { code: 'capture.blocked', message: SIGNED });
    });
  }

  for (const kind of ['listening', 'connected']) {
    it(`are found by a list where there are many, or the memory is closed: ${kind}`, async () => {
      using capture = TreeCapture.open(await start(kind));
      deepStrictEqual(codes(capture), []);
      child!.kill('SIGUSR1');
      await said('ready\nsigned\n');
      withoutKernelMemory(() => {
        deepStrictEqual(codes(capture), ['socket.signed']);
        capture.freeze();
        capture.captureUnchecked();
        throws(() => capture.check(), { code: 'capture.blocked', message: SIGNED });
      });
    });
  }

  it('without keys are carried', async () => {
    using capture = TreeCapture.open(await start('unbound'));
    deepStrictEqual(codes(capture), []);
    capture.freeze();
    deepStrictEqual(lossesOf(capture.capture()), []);
  });

  it('are told of as doubtful where nobody sees whether there are keys', async () => {
    using capture = TreeCapture.open(await start('unbound'));
    withoutKernelMemory(() => {
      deepStrictEqual(codes(capture), []);
      capture.freeze();
      const losses = lossesOf(capture.capture());
      strictEqual(losses.length, 1);
      match(
        losses[0]!,
        /^descriptor \d+ of process \d+ \(inet\): keys of TCP_MD5SIG \(if it has any/,
      );
    });
  });
});

describe('keys of TCP-AO', () => {
  const answering = (result: number) =>
    hasAoKeys(7, (fd, level, name, value, length) => {
      deepStrictEqual([fd, level, name], [7, SOL.tcp, 40]);
      // As the kernel wants it: struct tcp_ao_info_opt, all zero.
      deepStrictEqual([value, length.readUInt32LE(0)], [Buffer.alloc(48), 48]);
      return result;
    });

  it('are there when the kernel tells of them', () => {
    strictEqual(answering(0), true);
  });

  it('are not there when it knows of none, or knows no TCP-AO', () => {
    strictEqual(answering(-ERRNO.ENOENT), false);
    strictEqual(answering(-92), false);
  });
});
