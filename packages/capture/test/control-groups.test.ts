import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { ControlGroups } from '../src/namespaces/cgroups.js';

/** What is found of a process that is in the groups of this one. */
async function found(command: string, args: string[]) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    await once(child.stdout!, 'data');
    const groups = new ControlGroups(child.pid!);
    return {
      isApart: groups.isApart,
      outside: groups.ofRoot(),
      inside: groups.ofRootInside(),
      own: groups.of(child.pid!),
    };
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
}

const script = ['sh', '-c', 'echo ready; exec sleep 60'] as const;

describe('control groups', () => {
  it('are left to whoever restores, for a tree in those of whoever captures', async () => {
    const { isApart, outside, own } = await found(script[0], script.slice(1));
    assert.deepEqual({ isApart, outside, own }, { isApart: false, outside: [], own: [] });
  });

  it('are those that its container begins in, for a first process that has not left them', async () => {
    const { isApart, inside } = await found('unshare', ['-C', ...script]);
    assert.deepEqual({ isApart, inside }, { isApart: true, inside: [] });
  });
});
