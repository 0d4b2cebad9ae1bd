import assert from 'node:assert/strict';
import {
  buildStore,
  type CompiledDump,
  compileTree,
  FLAG,
  KIND,
  PLAN_MAGIC,
  ProgramBuilder,
  restorer,
} from '@ferry/dumpbin';
import { LIMITS, type TreeImage } from '@ferry/image';
import { inOrder, steps } from './support/steps.js';
import { process, thread, tree, vma } from './support/tree.js';

function compile(
  image: TreeImage,
  pages: 'embedded' | 'external' = 'embedded',
): Map<number, CompiledDump> {
  const compiled = compileTree(image, { pages, restorer: restorer() });
  return new Map(compiled.dumps.map((dump) => [dump.pid, dump]));
}

function names(dump: CompiledDump | undefined): string[] {
  return steps(dump!).map((step) => step.name);
}

describe('compileTree', () => {
  it('brings a process back in the order that its parts need', () => {
    inOrder(names(compile(tree([process(10, 0)])).get(10)), [
      'close foreign descriptors',
      'unmap what is below the restorer',
      'unmap what is above the restorer',
      'session 10',
      'wait until every process stands',
      'open mapped file /bin/app',
      'map 400000-402000 (/bin/app)',
      'map 600000-601000',
      'memory at 600000: pages',
      'set the memory layout',
      'thread 10: signal frame',
      'working directory /',
      'wait until every process has its descriptors and threads',
      'make the keeper',
      'wait until everything is restored',
      'go',
      'thread 10: user ids',
      'wait until everything is restored',
      'go',
      'reap the keeper',
      "close the restorer's descriptors",
      'thread 10: capabilities',
      'leave',
    ]);
  });

  it('makes writable only what gets page contents', () => {
    const dump = compile(tree([process(10, 0)])).get(10)!;
    const prot = (name: string): bigint => steps(dump).find((step) => step.name === name)!.args[2]!;
    assert.equal(prot('map 400000-402000 (/bin/app)'), 5n);
    assert.equal(prot('map 600000-601000'), 3n);
  });

  it('gives read-only mappings with page contents their protection last', () => {
    const image = tree([process(10, 0)]);
    image.processes[0]!.mm!.vmas[1]!.prot = 1;
    const dump = compile(image).get(10)!;
    inOrder(names(dump), ['map 600000-601000', 'memory at 600000: pages', 'protect 600000-601000']);
    assert.equal(steps(dump).find((step) => step.name === 'map 600000-601000')!.args[2], 3n);
  });

  it('forks children before a session leader leaves the session that they are in', () => {
    const image = tree([
      process(10, 0, { sid: 10 }),
      process(11, 10, { sid: 11, pgid: 11 }),
      process(12, 11, { sid: 10, pgid: 10 }),
    ]);
    inOrder(names(compile(image).get(10)), [
      'session 10',
      'make process 11 (process11), child of 10',
      'make process 12 (process12), child of 11',
      'session 11',
    ]);
  });

  it('holds the PID of a group whose leader has ended until everybody has joined', () => {
    const image = tree([process(10, 0), process(12, 10, { sid: 10, pgid: 11 })]);
    inOrder(names(compile(image).get(10)), [
      /^make process 12/,
      'stand-in for the leader of group 11',
      'the stand-in is done',
      'join group 11',
      'reap the stand-in for group 11',
    ]);
  });

  it('refuses a session that no parent can hand down', () => {
    const image = tree([
      process(10, 0),
      process(11, 10, { sid: 11, pgid: 11 }),
      process(12, 10, { sid: 12, pgid: 12 }),
      process(14, 11, { sid: 14, pgid: 14 }),
      process(13, 12, { sid: 14, pgid: 14 }),
    ]);
    assert.throws(() => compile(image), { code: 'dumpbin.session' });
  });

  it('leaves zombies behind with their status', () => {
    const image = tree([
      process(10, 0),
      process(11, 10, { sid: 10, state: 'zombie', exitStatus: 0x700, threads: [] }),
    ]);
    image.processes[1]!.mm = undefined;
    const dumps = compile(image);
    assert.deepEqual([...dumps.keys()], [10]);
    const death = steps(dumps.get(10)!).find((step) => step.kind === KIND.makeDeath);
    assert.equal(death?.args[0], 0x700n);
  });

  it('waits for its threads to leave before it unmaps what they run in', () => {
    const image = tree([process(10, 0, { threads: [thread(10), thread(13)] })]);
    const dump = compile(image).get(10)!;
    inOrder(names(dump), [
      'make thread 13',
      'wait until the threads have left',
      'leave',
      'thread 13: name',
      'leave',
    ]);
    const leaves = steps(dump).filter((step) => step.kind === KIND.leave);
    assert.deepEqual(
      leaves.map((step) => step.args[3]),
      [11n, 1n],
      'munmap by the leader, write by the thread',
    );
  });

  it('stays mapped when the program has no instructions to leave through', () => {
    const image = tree([process(10, 0)]);
    image.processes[0]!.mm!.sigreturnAddress = 0n;
    const kinds = steps(compile(image).get(10)!).map((step) => step.kind);
    assert.ok(kinds.includes(KIND.return) && !kinds.includes(KIND.leave));
  });

  it('waits for pages from outside between two barriers, and for the grant before it goes', () => {
    const image = tree([process(10, 0), process(11, 10, { sid: 10 })]);
    const dumps = compile(image, 'external');
    inOrder(names(dumps.get(10)), [
      'wait until every process has its memory',
      'tell the agent L',
      "wait for the agent's P",
      'wait for the page contents',
      'tell the agent R',
      "wait for the agent's G",
      'go',
    ]);
    inOrder(names(dumps.get(11)), [
      'wait until every process has its memory',
      'wait for the page contents',
    ]);
    assert.equal(dumps.get(10)!.pagesLength, 0);
  });

  it('chooses a region that is free in every process', () => {
    const image = tree([process(10, 0), process(11, 10, { sid: 10 })]);
    image.processes[1]!.mm!.vmas.unshift(vma(0x10000n, 0x300000n));
    const dump = compile(image).get(10)!;
    const start = dump.linked.image.readBigUInt64LE(64);
    const end = start + 2n * dump.linked.image.readBigUInt64LE(72);
    for (const { mm } of image.processes) {
      for (const { start: from, end: to } of mm!.vmas) assert.ok(to <= start || from >= end);
    }
  });

  it('is the same each time but for its random identity', () => {
    const [a, b] = [0, 0].map(() => steps(compile(tree([process(10, 0)])).get(10)!));
    assert.deepEqual(a, b);
  });

  it('refuses what makes no sense, and what asks for too much', () => {
    const refused = { code: 'image.invalid' };
    const image = tree([process(10, 0)]);
    const siginfo = Buffer.alloc(8);
    image.processes[0]!.pending.push({ siginfo });
    assert.throws(() => compileTree(image, { pages: 'embedded', restorer: restorer() }), refused);
    assert.throws(() => new ProgramBuilder().reserve(LIMITS.programBytes + 1), refused);
  });

  it('lays a store out as the root program expects it', () => {
    const image = tree([
      process(10, 0),
      process(11, 10, { sid: 10 }),
      process(12, 10, { sid: 10 }),
    ]);
    const compiled = compileTree(image, { pages: 'external', restorer: restorer() });
    const { store, rootOffset } = buildStore(compiled, restorer());
    const root = compiled.dumps.find((dump) => dump.pid === 10)!;
    const header = (offset: bigint): bigint =>
      store.readBigUInt64LE(Number(offset) + 4096 + restorer().blob.length);
    assert.equal(header(rootOffset), PLAN_MAGIC);
    const chains = steps(root).filter((step) => step.kind === KIND.chain);
    assert.equal(chains.length, 2);
    for (const chain of chains) assert.equal(header(chain.args[1]!), PLAN_MAGIC, chain.name);
    assert.equal(root.linked.image.readUInt32LE(12), FLAG.root);
  });
});

describe('what a process has set for itself', () => {
  it('turns off again the speculation that it has turned off, where it had the choice', () => {
    const of = (speculation: number[]) =>
      steps(compile(tree([process(10, 0, { threads: [thread(10, { speculation })] })])).get(10)!)
        .filter(({ name }) => name === 'thread 10: speculation')
        .map(({ args }) => args.slice(0, 3).map(Number));
    // PR_SPEC_PRCTL 1, ENABLE 2, DISABLE 4, FORCE_DISABLE 8, DISABLE_NOEXEC 16
    assert.deepEqual(of([5, 9, 3]), [
      [53, 0, 4],
      [53, 1, 8],
      [53, 2, 2],
    ]);
    assert.deepEqual(of([17]), [[53, 0, 16]]);
    assert.deepEqual(of([3, 3, 5]), [], 'as every thread is at first');
    assert.deepEqual(of([2, 4, 8]), [], 'the host decides');
  });

  it('registers for the barriers that it had', () => {
    const attributes = { dumpable: 1, coredumpFilter: 0x33, membarrierRegistrations: 0x14 };
    const dump = compile(tree([process(10, 0, { attributes } as never)])).get(10);
    const registered = names(dump).filter((name) => name.startsWith('membarrier'));
    assert.deepEqual(registered, ['membarrier 4', 'membarrier 16']);
  });

  it('has undone what was to be undone, and semaphores keep their values', () => {
    const semaphoreAdjustments = [
      { setId: 3, number: 0, adjustment: 2 },
      { setId: 3, number: 1, adjustment: -5 },
      { setId: 9, number: 0, adjustment: 1 },
    ];
    const ipc = {
      ownNamespace: true,
      semaphores: [{ permissions: { id: 3 }, values: [32766, 1] }],
    };
    const dump = compile(tree([process(10, 0, { semaphoreAdjustments })], { ipc } as never)).get(
      10,
    );
    const undone = steps(dump!).filter(({ name }) => name.startsWith('what is to be undone'));
    assert.deepEqual(
      undone.map(({ args }) => [args[0], args[2]].map(Number)),
      [
        [3, 2],
        [3, 2],
        [9, 1],
      ],
    );
  });
});
