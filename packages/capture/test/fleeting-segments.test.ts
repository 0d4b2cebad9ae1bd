import { deepStrictEqual, throws } from 'node:assert';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ferryRoot } from '@ferry/core';
import { call, inFreshNamespace, inNamespace } from '@ferry/linux';
import { fleetingSegments } from '../src/sysv-ipc.js';
import { TreeCapture } from '../src/tree-capture.js';

const IPC_CREAT = 0o1000;
const IPC_RMID = 0;
const ADDON = join(ferryRoot(), 'packages', 'linux', 'build', 'addon.node');
/** A process in an IPC namespace of its own, which has made a segment and not attached it: unshare(2), shmget(2). */
const MAKER = `const { syscall } = require(${JSON.stringify(ADDON)});
if (syscall(272, 0x08000000) !== 0 || syscall(29, 0, 4096, ${IPC_CREAT | 0o600}) !== 0) process.exit(1);
require('node:fs').writeFileSync('/proc/sys/kernel/shm_rmid_forced', '1');
require('node:fs').writeSync(1, 'ready');
Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);`;

describe('System V segments that go with whoever reads them', () => {
  it('are those that nobody has attached while kernel.shm_rmid_forced is set', () => {
    const found = inFreshNamespace('ipc', () => {
      const id = call('shmget', 0, 4096, IPC_CREAT | 0o600);
      const usual = fleetingSegments();
      writeFileSync('/proc/sys/kernel/shm_rmid_forced', '1');
      const forced = fleetingSegments();
      const address = BigInt(call('shmat', id, 0, 0));
      const attached = fleetingSegments();
      call('shmctl', id, IPC_RMID, 0);
      call('shmdt', address);
      return { usual, forced, attached };
    });
    deepStrictEqual(found, { usual: [], forced: [0], attached: [] });
  });

  it('are there as before when a capture was refused for them', async function () {
    this.timeout(10_000);
    const child = spawn(process.execPath, ['-e', MAKER], { stdio: ['ignore', 'pipe', 'inherit'] });
    try {
      await once(child.stdout!, 'data');
      using capture = TreeCapture.open(child.pid!, { namespacesGiven: true });
      capture.freeze();
      throws(() => capture.captureUnchecked(), { code: 'capture.blocked', message: /segment 0/ });
      capture.thaw();
      deepStrictEqual(inNamespace('ipc', `/proc/${child.pid}/ns/ipc`, fleetingSegments), [0]);
    } finally {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  });
});
