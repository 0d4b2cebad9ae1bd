import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { SecurityModule } from '@ferry/linux';
import { imageLabels, labelRefusal, labelsOf, treeLabels } from '../src/security-labels.js';

const PID = 41;

describe('security labels of a process', () => {
  let root: string;
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'ferry-labels-'));
  });
  afterEach(() => rmSync(root, { recursive: true }));

  /** A host of `module` with one process that has these files in its threads' folders `attr`. */
  function labels(module: SecurityModule, threads: readonly Record<string, string>[]) {
    for (const [i, files] of threads.entries()) {
      const folder = join(root, `proc/${PID}/task/${PID + i}/attr`);
      mkdirSync(join(folder, 'apparmor'), { recursive: true });
      for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
    }
    return labelsOf(PID, [module], root);
  }

  it('are each thread’s own', () => {
    const found = labels('apparmor', [
      { 'apparmor/current': 'web (enforce)\n' },
      { 'apparmor/current': 'web//worker (enforce)\n' },
      { 'apparmor/current': 'unconfined\n' },
    ]);
    assert.equal(labelRefusal(found), undefined);
    assert.equal(imageLabels(found.get(PID))?.apparmor, 'web');
    assert.equal(imageLabels(found.get(PID + 1))?.apparmor, 'web//worker');
    assert.equal(imageLabels(found.get(PID + 2)), undefined);
    assert.deepEqual(treeLabels([...found.values()]), {
      apparmor: ['web', 'web//worker'],
      selinux: [],
    });
  });

  it('have what SELinux gives to things that come', () => {
    const current = 'u:r:container_t:s0';
    const found = labels('selinux', [{ current: `${current}\0`, fscreate: 'u:r:file_t:s0\0' }]);
    assert.equal(labelRefusal(found), undefined);
    const image = imageLabels(found.get(PID));
    assert.deepEqual([image?.selinux, image?.selinuxFscreate], [current, 'u:r:file_t:s0']);
  });

  it('are not looked for where the host has no module', () => {
    assert.equal(labelsOf(PID, [], root).size, 0);
  });

  const refusals: [string, SecurityModule, Record<string, string>[]][] = [
    ['label.stacked', 'apparmor', [{ 'apparmor/current': 'a//&:ns:b (enforce)\n' }]],
    ['label.stacked', 'apparmor', [{ 'apparmor/current': ':ns:b (enforce)\n' }]],
    ['label.hat', 'apparmor', [{ 'apparmor/current': 'a//h (enforce)\n', 'apparmor/prev': 'a\n' }]],
    [
      'label.onExec',
      'apparmor',
      [{ 'apparmor/current': 'a (enforce)\n' }, { 'apparmor/exec': 'b (enforce)\n' }],
    ],
    ['label.threads', 'selinux', [{ current: 'u:r:a_t:s0\0' }, { current: 'u:r:b_t:s0\0' }]],
  ];
  for (const [code, module, threads] of refusals) {
    it(`refuse by name: ${code}, ${JSON.stringify(threads)}`, () => {
      const refusal = labelRefusal(labels(module, threads));
      assert.equal(refusal?.code, code);
      assert.ok(refusal.object !== '' && refusal.reason !== '' && refusal.remedy !== '');
    });
  }
});

describe('security labels of a tree', function () {
  this.timeout(60_000);
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'ferry-labels-'));
    mkdirSync(join(folder, 'apparmor'));
    writeFileSync(join(folder, 'apparmor/current'), 'web (enforce)\n');
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  function captured() {
    const script = join(import.meta.dirname, 'support/label-capture.ts');
    const node = [process.execPath, '--conditions=source', '--import=tsx', script, folder];
    const { stdout, stderr } = spawnSync('unshare', ['--mount', ...node], { encoding: 'utf8' });
    assert.match(stdout, /^\{/, stderr);
    return JSON.parse(stdout);
  }

  it('are told before it is stopped, and are in its image', () => {
    assert.deepEqual(captured(), {
      blockers: [],
      labels: { apparmor: ['web'], selinux: [] },
      captured: 'web',
    });
  });

  it('block it when they cannot be carried, before it is stopped and then', () => {
    writeFileSync(join(folder, 'apparmor/prev'), 'web (enforce)\n');
    const found = captured();
    assert.deepEqual(found.blockers, ['label.hat']);
    assert.match(found.captured, /its AppArmor hat web/);
  });
});
