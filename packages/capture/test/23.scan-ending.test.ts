import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { TreeCapture } from '@ferry/capture';

const SCANS = 60;

describe('a scan of a running tree', () => {
  it('passes over processes that are just ending', async function () {
    this.timeout(60_000);
    // Their memory takes a moment to give back: meanwhile they are there, and have none.
    const eats = 'head -c 20000000 /dev/zero | tail -c 1 | wc -c >/dev/null';
    const child = spawn('sh', ['-c', `while :; do ${eats}; done`], { stdio: 'ignore' });
    try {
      using capture = TreeCapture.open(child.pid!);
      for (let i = 0; i < SCANS; i++) assert.equal(capture.scan().processes.length > 0, true);
    } finally {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  });
});
