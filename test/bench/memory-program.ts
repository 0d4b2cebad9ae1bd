import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { containerNamed } from '../support/actions.js';
import type { Cluster } from '../support/cluster.js';
import { run, until } from '../support/shell.js';

/** A root filesystem with nothing but the program `memory`. */
export async function makeRootfs(rootfs: string): Promise<void> {
  const binary = join(rootfs, 'memory');
  for (const name of ['proc', 'sys', 'dev', 'tmp'])
    mkdirSync(join(rootfs, name), { recursive: true });
  await compile('memory', binary);
}

/** Compiles test/bench/programs/NAME.c into a static program. */
export async function compile(name: string, out: string): Promise<void> {
  const source = new URL(`./programs/${name}.c`, import.meta.url).pathname;
  await run('cc', ['-O2', '-static', '-o', `${out}.new`, source]);
  copyFileSync(`${out}.new`, out);
}

/** Whether the program `memory` (or `load`) finds all of its memory as it was. */
export async function isIntact(cluster: Cluster, name: string): Promise<boolean> {
  const verdicts = async () =>
    (await cluster.ferry(['logs', name])).stdout.match(/^(intact|damaged)/gm) ?? [];
  const before = (await verdicts()).length;
  process.kill((await containerNamed(cluster, name)).pid, 'SIGUSR1');
  const last = await until(`the verdict of ${name}`, async () => (await verdicts())[before], {
    timeoutMs: 120_000,
    everyMs: 200,
  });
  return last === 'intact';
}

/** Waits for a line that begins with `pattern`, and gives what matched. */
export async function logHas(cluster: Cluster, name: string, pattern: string): Promise<string> {
  const wanted = new RegExp(`^(?:${pattern})`, 'm');
  return until(
    `"${pattern}" in the log of ${name}`,
    async () => wanted.exec((await cluster.ferry(['logs', name])).stdout)?.[0],
    { timeoutMs: 120_000, everyMs: 200 },
  );
}
