import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { MemoryObjects } from '../src/memory-objects.js';
import { captureIpc, QueueMounts } from '../src/sysv-ipc.js';

describe('message queues of a tree', () => {
  it('are those of the moment, however long their mount has been there', async function () {
    this.timeout(30_000);
    const folder = mkdtempSync(join(tmpdir(), 'ferry-queues-'));
    const program = `mount -t mqueue none ${folder} && touch ${folder}/first && exec sleep 1000`;
    const child = spawn('unshare', ['--ipc', '--mount', 'sh', '-c', program], { stdio: 'ignore' });
    try {
      const inside = `/proc/${child.pid}/root${folder}`;
      while (!existsSync(join(inside, 'first'))) await sleep(10);
      using mounts = new QueueMounts();
      const names = (): string[] => {
        const { ipc, release } = captureIpc(child.pid!, new MemoryObjects(), mounts);
        release();
        return ipc.posixQueues.map(({ name }) => name);
      };
      mounts.prepare(child.pid!);
      assert.deepEqual(names(), ['first']);
      writeFileSync(join(inside, 'second'), '');
      assert.deepEqual(names().sort(), ['first', 'second']);
      rmSync(join(inside, 'first'));
      assert.deepEqual(names(), ['second']);
    } finally {
      child.kill('SIGKILL');
      await once(child, 'exit');
      rmSync(folder, { recursive: true });
    }
  });
});
