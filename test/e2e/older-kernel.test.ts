import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as actions from '../support/actions.js';
import { Cluster } from '../support/cluster.js';

const SOURCE = fileURLToPath(new URL('./programs/older-kernel.c', import.meta.url));

interface Answer {
  readonly operation: { readonly migration: { mode: string; rounds: number; warnings: string[] } };
}

/** Settings of programs that see the kernel that test/e2e/programs/older-kernel.c gives them. */
function seeing(folder: string, kind: string): NodeJS.ProcessEnv {
  const library = join(folder, 'older-kernel.so');
  execFileSync('cc', ['-O2', '-Wall', '-Werror', '-shared', '-fPIC', '-o', library, SOURCE]);
  return { LD_PRELOAD: library, OLDER_KERNEL: kind };
}

for (const [kind, what] of [
  ['none', 'without userfaultfd'],
  ['synchronous', 'whose userfaultfd does not note writes by itself'],
] as const) {
  describe(`hosts with a kernel ${what}`, function () {
    this.timeout(120_000);
    let cluster: Cluster;

    before(async () => {
      cluster = await Cluster.start({
        hosts: ['h1', 'h2'],
        prepareRun: (folder) => seeing(folder, kind),
      });
      const rootfs = await actions.makeRootfsFolders(cluster.folder.path);
      await actions.runTicker(cluster, { name: 'ticker', node: 'h1', rootfs: rootfs.shell });
    });

    afterEach(function () {
      if (this.currentTest?.state === 'failed') console.error(cluster.logTails());
    });

    after(async () => {
      await cluster?.remove();
    });

    for (const [mode, to] of [
      ['auto', 'h2'],
      ['pre-copy', 'h1'],
    ] as const) {
      it(`move a container all the same, all memory while it stands, and say so (${mode})`, async () => {
        const asked = ['migrate', 'ticker', '--to', to, '--mode', mode];
        const { migration } = (await cluster.ferryJson<Answer>(asked)).operation;
        assert.deepEqual([migration.mode, migration.rounds], ['stop-copy', 0]);
        assert.match(migration.warnings.join('\n'), /cannot note writes to memory/);
        const { node, state } = await actions.containerNamed(cluster, 'ticker');
        assert.deepEqual([node, state], [to, 'running']);
        assert.ok((await actions.ticksInLog(cluster, 'ticker')) > 0);
      });
    }
  });
}
