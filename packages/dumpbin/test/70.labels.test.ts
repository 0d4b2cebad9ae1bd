import assert from 'node:assert/strict';
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { compileTree, ProgramBuilder, restorer } from '@ferry/dumpbin';
import { SecurityLabels } from '@ferry/image';
import { emitContext, emitLabels, emitProfile } from '../src/label-steps.js';
import { interpret } from './support/interpret.js';
import { inOrder, steps } from './support/steps.js';
import { process, thread, tree } from './support/tree.js';

const CONTEXT = 'system_u:system_r:container_t:s0:c1,c2';

function labelled(labels: Partial<SecurityLabels>, noNewPrivs = false) {
  const filter = { instructions: Buffer.alloc(8), flags: 0n };
  const of = thread(10, { labels: SecurityLabels.fromPartial(labels), seccompFilters: [filter] });
  of.credentials!.noNewPrivs = noNewPrivs;
  return of;
}

function names(of: ReturnType<typeof labelled>): string[] {
  const image = tree([process(10, 0, { threads: [of, thread(11)] })]);
  const { dumps } = compileTree(image, { pages: 'embedded', restorer: restorer() });
  return steps(dumps[0]!).map(({ name }) => name);
}

describe('labels in a program', () => {
  it('come as late as they can: AppArmor’s is asked for before the tree may run, and given last', () => {
    const profile = 'thread 10: AppArmor profile web';
    inOrder(names(labelled({ apparmor: 'web' })), [
      "the root's /proc",
      'working directory /',
      'thread 10: user ids',
      `${profile}: open`,
      `${profile}: whether it may have it`,
      'wait until everything is restored',
      'go',
      'thread 10: seccomp filter',
      'thread 10: capabilities',
      profile,
      `${profile}: close`,
      'leave',
    ]);
    inOrder(names(labelled({ apparmor: 'web' }, true)), [
      'thread 10: capabilities',
      `${profile}: close`,
      'thread 10: seccomp filter',
      'leave',
    ]);
  });

  it('of SELinux come while there is one thread, and what follows it before the tree may run', () => {
    const labels = { selinux: CONTEXT, selinuxSockcreate: 'u:r:sock_t:s0' };
    inOrder(names(labelled(labels)), [
      "the root's /proc",
      `process 10: SELinux context ${CONTEXT}`,
      'make thread 11',
      'thread 10: SELinux sockcreate context u:r:sock_t:s0',
      'wait until everything is restored',
    ]);
  });

  it('cost nothing where there are none', () => {
    const all = names(thread(10));
    assert.deepEqual(
      all.filter((name) => /AppArmor|SELinux|\/proc$/.test(name)),
      [],
    );
  });
});

describe('labels as the steps write them', () => {
  let proc: string;
  let fd: number;
  beforeEach(() => {
    proc = mkdtempSync(join(tmpdir(), 'ferry-labels-'));
    fd = openSync(proc, 'r');
  });
  afterEach(() => {
    closeSync(fd);
    rmSync(proc, { recursive: true });
  });

  /** Runs all steps where `name` says `before`, and tells what it says afterwards. */
  function written(name: string, before: string, labels: Partial<SecurityLabels>): string {
    const path = join(proc, 'thread-self/attr', name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, before);
    run(labels);
    return readFileSync(path, 'utf8');
  }

  function run(labels: Partial<SecurityLabels>): void {
    const b = new ProgramBuilder();
    const of = labelled(labels);
    const ctx = { service: () => fd };
    emitContext(b, process(10, 0, { threads: [of] }), ctx);
    emitLabels(b, of, ctx);
    emitProfile(b, of);
    interpret(b);
  }

  const profile = '/usr/sbin/a-long-name';
  // What is written stands where a plain file has it: at the beginning, one after the other.
  const asked = `permprofile ${profile}changeprofile ${profile}`;
  const apparmor: [string, string, string, string][] = [
    ['none', profile, 'unconfined\n', asked],
    ['one that ends alike', profile, `/opt${profile} (enforce)\n`, asked],
    ['one that begins alike', profile, `${profile}//child (enforce)\n`, asked],
    ['that one', profile, `${profile} (complain)\n`, `${profile} (complain)\n`],
    ['that one, of a short name', 'a', 'a (enforce)\n', 'a (enforce)\n'],
    ['another one of a short name', 'a', 'b (enforce)\n', 'permprofile achangeprofile a'],
  ];
  for (const [name, label, before, after] of apparmor) {
    it(`AppArmor, under ${name}`, () => {
      assert.equal(written('apparmor/current', before, { apparmor: label }), after);
    });
  }

  it('SELinux, under another context and under that one', () => {
    const other = 'system_u:system_r:runtime_t:s0\0';
    assert.equal(written('current', other, { selinux: CONTEXT }), CONTEXT);
    const same = `${CONTEXT}\0`;
    assert.equal(written('current', same, { selinux: CONTEXT }), same);
    const longer = `${CONTEXT},c3\0`;
    assert.match(written('current', longer, { selinux: CONTEXT }), /^.*,c2/);
  });

  for (const name of ['exec', 'fscreate', 'keycreate', 'sockcreate'] as const) {
    it(`SELinux, ${name}`, () => {
      const key = `selinux${name[0]!.toUpperCase()}${name.slice(1)}`;
      assert.equal(written(name, '', { [key]: CONTEXT }), CONTEXT);
    });
  }

  it('fail by name where the host lacks the module', () => {
    assert.throws(() => run({ apparmor: 'web' }), /thread 10: AppArmor profile web.*ENOENT/);
    assert.throws(() => run({ selinux: CONTEXT }), /process 10: SELinux context .*ENOENT/);
  });
});
