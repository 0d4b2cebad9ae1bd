import { deepStrictEqual, ok, throws } from 'node:assert';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { ferryRoot } from '@ferry/core';
import { LandlockDomains } from '@ferry/linux';
import { TreeCapture } from '../src/tree-capture.js';

const ADDON = join(ferryRoot(), 'packages', 'linux', 'build', 'addon.node');
/** A process of which one thread, not the first, has restricted itself. */
const RESTRICTED = `require(${JSON.stringify(ADDON)}).landlockSample(1, () => {
  require('node:fs').writeSync(1, 'ready');
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
})`;

describe('a program with a thread in a Landlock domain', () => {
  it('is refused by name before it is frozen, and when it is', async function () {
    this.timeout(10_000);
    ok(LandlockDomains.learn() !== undefined);
    const child = spawn(process.execPath, ['-e', RESTRICTED], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      await once(child.stdout!, 'data');
      using capture = TreeCapture.open(child.pid!);
      const codes = capture.scan().blockers.map(({ code }) => code);
      deepStrictEqual(
        codes.filter((code) => code === 'process.landlock'),
        ['process.landlock'],
      );
      throws(() => capture.track(), { code: 'capture.blocked', message: /its Landlock domain/ });
    } finally {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  });
});
