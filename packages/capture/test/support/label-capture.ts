import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { TreeCapture } from '@ferry/capture';

/** Captures a process that has the folder argv[2] for its `attr`, as this one has: a host with the modules of which that
 *  folder tells. In a mount namespace of its own. Prints what was found. */
const folder = process.argv[2]!;
// Whoever runs the tests may have left descriptors open that lead out of the tree.
const alone = 'for fd in $(ls /proc/$$/fd); do ((fd > 2)) && exec {fd}>&-; done; exec sleep 1000';
const child = spawn('bash', ['-c', alone], { stdio: 'ignore' });
try {
  while (readFileSync(`/proc/${child.pid}/comm`, 'utf8') !== 'sleep\n') {
    if (child.exitCode !== null) throw new Error(`bash ended with ${child.exitCode}`);
    await setTimeout(5);
  }
  for (const path of [`/proc/${process.pid}/attr`, `/proc/${child.pid}/task/${child.pid}/attr`]) {
    const { status, stderr } = spawnSync('mount', ['--bind', folder, path], { encoding: 'utf8' });
    if (status !== 0) throw new Error(`mount on ${path}: ${stderr}`);
  }
  using capture = TreeCapture.open(child.pid!);
  const { blockers, labels } = capture.scan();
  capture.freeze();
  let captured: unknown;
  try {
    captured = capture.capture().processes[0]?.threads[0]?.labels?.apparmor;
  } catch (error) {
    captured = String(error);
  }
  process.stdout.write(
    JSON.stringify({ blockers: blockers.map(({ code }) => code), labels, captured }),
  );
} finally {
  child.kill('SIGKILL');
  await once(child, 'exit');
}
