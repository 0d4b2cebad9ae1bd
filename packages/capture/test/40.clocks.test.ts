import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { compileTree, restorer, writeDumpFiles } from '@ferry/dumpbin';
import type { TreeImage } from '@ferry/image';
import { TreeCapture } from '../src/tree-capture.js';

const SECOND = 1_000_000_000n;
const AHEAD = 5000;

/** Dumps a program in a time namespace, as another host would have: `elsewhere` changes what its clocks showed. Gives the
 *  seconds by which the restored program's CLOCK_MONOTONIC is ahead of this host's. */
async function restoredFrom(elsewhere: (image: TreeImage) => void): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), 'ferry-clocks-'));
  const own =
    'for fd in /proc/self/fd/*; do n=$(basename $fd); ((n > 2)) && eval "exec $n>&-"; done; exec sleep 60';
  const args = ['--time', '--monotonic', `${AHEAD}`, '--fork', 'setsid', 'bash', '-c', own];
  const outer = spawn('unshare', args, { stdio: 'ignore', cwd: '/' });
  const ended = once(outer, 'exit');
  let pid = 0;
  try {
    const list = `/proc/${outer.pid}/task/${outer.pid}/children`;
    const isThere = () => {
      pid = Number(readFileSync(list, 'utf8').trim().split(' ')[0]);
      return pid !== 0 && readFileSync(`/proc/${pid}/comm`, 'utf8') === 'sleep\n';
    };
    while (!isThere()) await sleep(5);
    using capture = TreeCapture.open(pid);
    capture.freeze();
    const image = capture.capture();
    elsewhere(image);
    const tree = compileTree(image, { pages: 'embedded', restorer: restorer() });
    const readPages = capture.readPages.bind(capture);
    writeDumpFiles(folder, tree, { restorer: restorer(), readPages });
    capture.kill();
    await ended;
    execFileSync(join(folder, `${pid}.dump`), ['--detach'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const offsets = readFileSync(`/proc/${pid}/timens_offsets`, 'utf8');
    return Number(/^monotonic\s+(-?\d+)/m.exec(offsets)?.[1]);
  } finally {
    if (existsSync(`/proc/${pid}`)) process.kill(pid, 'SIGKILL');
    await ended;
    rmSync(folder, { recursive: true });
  }
}

describe('the clocks of a time namespace', function () {
  this.timeout(30_000);

  it('keep their offset on the host where they were captured', async () => {
    assert.equal(await restoredFrom(() => {}), AHEAD);
  });

  it('go on from what they showed on a host that has run for a shorter time', async () => {
    const longer = 3000;
    const ahead = await restoredFrom((image) => {
      image.monotonicNs += BigInt(longer) * SECOND;
    });
    // To the second: what has passed here since counts on both sides, unless the clock of the day was set back meanwhile.
    assert.ok(ahead >= AHEAD + longer - 2 && ahead < AHEAD + longer + 20, `${ahead} s ahead`);
  });

  it('do not leap on a host that has run for a longer time, but by the time that has passed', async () => {
    const ahead = await restoredFrom((image) => {
      image.monotonicNs -= 100n * SECOND;
      image.realtimeNs -= 40n * SECOND;
    });
    assert.ok(ahead >= AHEAD - 62 && ahead < AHEAD - 40, `${ahead} s ahead`);
  });
});
