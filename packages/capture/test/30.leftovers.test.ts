import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseMappings, readProc } from '@ferry/linux';
import { TreeCapture } from '../src/index.js';

/** Where a process has mappings. */
function mappingsOf(pid: number): string[] {
  return parseMappings(readProc(`/proc/${pid}/maps`)).map(({ start, end }) => `${start}-${end}`);
}

describe('capture: what queries leave in a stopped process', () => {
  it('is gone when it runs on, and when it is captured again', async () => {
    // What a shell or an editor above us left open is not its own.
    const close = 'for f in $(ls /proc/self/fd); do [ $f -gt 2 ] && eval "exec $f>&-"; done';
    const script = `${close}; exec /bin/sleep 1000`;
    const child = spawn('/bin/bash', ['-c', script], { stdio: 'ignore', detached: true });
    const pid = child.pid ?? 0;
    try {
      while (!readProc(`/proc/${pid}/comm`).startsWith('sleep')) await sleep(10);
      const before = mappingsOf(pid);
      using capture = TreeCapture.open(pid);
      capture.freeze();
      const first = capture.capture();
      assert.equal(mappingsOf(pid).length, before.length + 1);
      capture.putBack();
      assert.deepEqual(mappingsOf(pid), before);
      const second = capture.capture();
      const layouts = [first, second].map(({ processes }) =>
        processes[0]!.mm!.vmas.map(({ start, end }) => `${start}-${end}`),
      );
      assert.deepEqual(layouts, [before, before]);
      capture.thaw();
      assert.deepEqual(mappingsOf(pid), before);
      assert.match(readProc(`/proc/${pid}/status`), /^TracerPid:\s+0$/m);
    } finally {
      process.kill(-pid, 'SIGKILL');
      await once(child, 'exit');
    }
  });
});
