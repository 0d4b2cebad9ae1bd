import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { goFirst, readProc, threadsOf } from '../src/index.js';

/** Field 19 of /proc/PID/task/TID/stat. */
function nices(): Set<number> {
  return new Set(
    threadsOf(process.pid).map((tid) => {
      const stat = readProc(`/proc/self/task/${tid}/stat`);
      return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16]);
    }),
  );
}

describe('linux: a process that goes first', () => {
  it('does so with all its threads as long as somebody wishes it, and what it starts does not', () => {
    const before = nices();
    const first = goFirst();
    const second = goFirst();
    assert.deepEqual(nices(), new Set([-10]));
    const child = execFileSync('/bin/sh', ['-c', 'cut -d" " -f19 /proc/self/stat'], {
      encoding: 'utf8',
    });
    assert.equal(child.trim(), '0');
    first[Symbol.dispose]();
    first[Symbol.dispose]();
    assert.deepEqual(nices(), new Set([-10]));
    second[Symbol.dispose]();
    assert.deepEqual(nices(), before);
  });
});
