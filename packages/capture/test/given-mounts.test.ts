import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseMountInfo } from '../src/namespaces/mountinfo.js';
import { captureNamespaces } from '../src/namespaces/namespaces.js';

/** Codes of what stands in the way of a container in which a command has mounted something. */
async function refused(command: (folder: string) => string): Promise<string[]> {
  const folder = mkdtempSync(join(tmpdir(), 'ferry-given-'));
  const script = 'mount --make-rprivate /; echo ready; exec sleep 60';
  const child = spawn('unshare', ['-m', 'sh', '-c', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    await once(child.stdout!, 'data');
    const hostPid = child.pid!;
    const lines = parseMountInfo(readFileSync(`/proc/${hostPid}/mountinfo`, 'utf8'));
    const givenMounts = lines.slice(1).map(({ mountpoint: path }) => ({ path, hasMore: false }));
    execFileSync('nsenter', ['-t', String(hostPid), '-m', 'sh', '-c', command(folder)]);
    const { blockers, added } = captureNamespaces([{ hostPid, command: 'sh' }], {
      scanning: true,
      rootGiven: true,
      givenMounts,
      held: [],
      tunDevices: new Set(),
    });
    return [...blockers, ...added()].map(
      ({ code, object }) => `${code}: ${object.replace(folder, 'FOLDER')}`,
    );
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
    rmdirSync(folder);
  }
}

describe('the mounts that a container is given', () => {
  it('are made anew, so that nothing of them blocks while they are as they were given', async () => {
    assert.deepEqual(await refused(() => 'true'), []);
  });

  it('block with one that was made inside', async () => {
    assert.deepEqual(await refused((folder) => `mount -t tmpfs none ${folder}`), [
      'mount.added: mount at FOLDER (tmpfs)',
    ]);
  });
});
