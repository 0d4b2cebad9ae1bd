import { equal, ok } from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { TreeCapture } from '../src/index.js';

describe('mounts of file systems that the kernel fills', () => {
  it('are copies of one outside only where they have its source', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'ferry-kernel-mounts-'));
    const [outside, own, copy] = ['outside', 'own', 'copy'].map((name) => join(folder, name));
    for (const path of [outside!, own!, copy!]) mkdirSync(path);
    execFileSync('mount', ['-t', 'tracefs', 'theirs', outside!]);
    const script = `mount -t tracefs ours ${own} && mount --bind ${outside} ${copy} && exec sleep 60`;
    const child = spawn('unshare', ['-m', 'sh', '-c', script], { stdio: 'ignore' });
    try {
      const command = () => readFileSync(`/proc/${child.pid}/comm`, 'utf8');
      while (command() !== 'sleep\n') await sleep(5);
      using capture = TreeCapture.open(child.pid!);
      capture.freeze();
      const mounts = capture
        .capture()
        .namespaces.flatMap(({ content }) =>
          content?.$case === 'mnt' ? content.value.mounts : [],
        );
      const at = (path: string) => mounts.find(({ mountpoint }) => mountpoint === path);
      equal(at(own!)?.source, 'ours');
      equal(at(own!)?.outerPath, '');
      ok(at(copy!)?.outerPath === outside, at(copy!)?.outerPath);
    } finally {
      child.kill('SIGKILL');
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
      execFileSync('umount', [outside!]);
      rmSync(folder, { recursive: true });
    }
  });
});
