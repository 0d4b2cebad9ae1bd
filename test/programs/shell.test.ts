import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Trial } from '../objects/support/trial.js';
import { describeProgram } from './support/real-program.js';

/** A loop that forks all the time, and a pipeline of builtins. Each number stands in the file once. */
const loop = `
i=0
while :; do
  i=$((i + 1))
  echo "$i"
  sleep 0.01
done >>"$0/numbers"
`;

const pipeline = `
i=0
while :; do
  i=$((i + 1))
  echo "$i"
  sleep 0.01
done | while read -r line; do
  echo "$line" >>"$0/numbers"
done
`;

function numbers(trial: Trial): number[] {
  const lines = trial.read('numbers').split('\n').slice(0, -1);
  return lines.map(Number);
}

async function check(trial: Trial, before: number): Promise<void> {
  await sleep(300);
  const found = numbers(trial);
  assert.ok(found.length > before, `the loop goes on after ${before}: ${found.length}`);
  const expected = Array.from({ length: found.length }, (_, i) => i + 1);
  assert.deepEqual(found, expected, 'no number is lost or repeated');
}

// It forks and waits for a `sleep` again and again: what is looked at is never twice the same.
const volatile = [/./];

for (const [name, script] of Object.entries({ loop, pipeline })) {
  describeProgram<number>({
    name: `a shell ${name}`,
    volatile,
    start: async (trial) => {
      await trial.start(['/bin/bash', '-c', script, trial.directory], {
        isReady: () => trial.has('numbers'),
      });
    },
    use: async (trial) => {
      await sleep(100);
      return numbers(trial).length;
    },
    check,
    stop: async (trial) => {
      const processes = trial.tree();
      for (const { pid } of processes) {
        try {
          process.kill(pid, 'SIGTERM');
        } catch {
          // A sleep that has ended meanwhile.
        }
      }
    },
  });
}
