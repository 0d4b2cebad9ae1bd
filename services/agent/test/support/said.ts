import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { until } from '../../../../test/support/shell.js';
import type { HostName, TwoAgents } from './two-agents.js';

/** Containers that look at their memory and files all the while, and say what they found. */

const WAIT_MS = 60_000;

/** Compiles one of the programs beside this file; gives its path. */
export function compiled(
  two: TwoAgents,
  name: 'churn' | 'files' | 'making' | 'mounts' | 'owners' | 'unread',
): string {
  const program = join(two.folder.path, name);
  execFileSync('cc', ['-O2', '-o', program, join(import.meta.dirname, `${name}.c`)]);
  return program;
}

/** Waits until the container has said `more` times from now on what matches, and never that something is damaged. */
export async function says(
  two: TwoAgents,
  { host, name }: { readonly host: HostName; readonly name: string },
  { pattern = /^intact/, more = 1 } = {},
): Promise<void> {
  const read = async () => {
    let said = 0;
    for await (const { line } of two.at(host).agent.host.readLog(name)) {
      if (line.startsWith('damaged')) return { said, damaged: line };
      if (pattern.test(line)) said += 1;
    }
    return { said, damaged: undefined };
  };
  const before = await read();
  const { damaged } = await until(
    `${name} on ${host} to go on`,
    async () => {
      const now = await read();
      return now.damaged !== undefined || now.said >= before.said + more ? now : undefined;
    },
    { timeoutMs: WAIT_MS, everyMs: 100 },
  );
  assert.equal(damaged, undefined);
}
