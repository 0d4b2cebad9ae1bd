import assert from 'node:assert/strict';
import {
  compileFinish,
  compileRefresh,
  compileSkeleton,
  KIND,
  PLAN_MAGIC,
  restorer,
  type Skeleton,
  type SkeletonPrograms,
  skeletonFits,
} from '@ferry/dumpbin';
import { SharedMemory, type TreeImage } from '@ferry/image';
import { SYSCALL } from '@ferry/linux';
import { inOrder, type Step, stepsOf } from './support/steps.js';
import { process, thread, tree, vma } from './support/tree.js';

const one = () => tree([process(1, 0)]);
const family = () => tree([process(1, 0), process(2, 1, { sid: 1, pgid: 1 })]);

/** A tree whose root shows pages of a segment of four, with this number, at 0x700000. */
function withSegment(
  image: TreeImage,
  { id, from, pages }: { id: number; from: bigint; pages: bigint },
): TreeImage {
  const sysv = { permissions: { id, key: 0, mode: 0o600 }, removed: true };
  const object = { id: 9, kind: 'sysv', size: 0x4000n, inode: BigInt(id), sysv };
  const { vmas } = image.processes[0]!.mm!;
  const shown = {
    ...{ kind: 'shared', shared: true, fileWritable: true, sharedMemoryId: 9 },
    fileOffset: from * 4096n,
  };
  vmas.splice(2, 0, vma(0x700000n, 0x700000n + pages * 4096n, shown));
  return { ...image, sharedMemory: [SharedMemory.fromPartial(object)] };
}

/** Steps of each program by PID, as they stand in the store. */
function programs({ parts }: SkeletonPrograms): Map<number, Step[]> {
  const images = parts.filter(({ bytes }) => bytes.readBigUInt64LE(0) === PLAN_MAGIC);
  return new Map(images.map(({ bytes }) => [bytes.readUInt32LE(176), stepsOf(bytes)]));
}

function skeletonOf(image: TreeImage): Skeleton {
  return compileSkeleton(image, { restorer: restorer() }).skeleton;
}

function finish(image: TreeImage, before: TreeImage): Map<number, Step[]> {
  return programs(compileFinish(image, skeletonOf(before)));
}

function names(found: readonly Step[] | undefined): string[] {
  return found!.map((step) => step.name);
}

function barriers(found: readonly Step[] | undefined): string[] {
  return found!
    .filter(({ kind }) => kind === KIND.barrier)
    .map(({ args }) => args.slice(0, 2).join());
}

describe('compileSkeleton', () => {
  it('makes tree and memory, and waits for the next program', () => {
    const made = programs(compileSkeleton(family(), { restorer: restorer() }).programs);
    inOrder(names(made.get(1)), [
      'close foreign descriptors',
      'make process 2 (process2), child of 1',
      'set the memory layout, without executable',
      'map 600000-601000',
      'keep the memory out of forks',
      'wait until every process has its memory',
      'tell the agent L',
      "wait for the agent's F",
      'load the next program',
    ]);
    inOrder(names(made.get(2)), [
      'set the memory layout, without executable',
      'map 600000-601000',
      'wait for the next program',
    ]);
    for (const found of made.values()) assert.equal(found.at(-1)!.kind, KIND.chain);
  });

  it('leaves shared mappings of files for the end, when their files are there', () => {
    const file = {
      path: '/f',
      device: 1n,
      inode: 1n,
      size: 4096n,
      mtimeNs: 0n,
      mode: 0,
      deleted: false,
    };
    const image = one();
    const mapped = vma(0x700000n, 0x701000n, { kind: 'file', shared: true, file });
    image.processes[0]!.mm!.vmas.push(mapped);
    const made = programs(compileSkeleton(image, { restorer: restorer() }).programs);
    assert(!names(made.get(1)).includes('open mapped file /f'));
    inOrder(names(finish(image, image).get(1)), [
      'open mapped file /f',
      'map 700000-701000 (/f)',
      'wait until every process has its final layout',
    ]);
  });

  it('leaves room for longer programs, away from what may grow', () => {
    const { region } = skeletonOf(one());
    assert.ok(region.length >= 16 << 20);
    assert.ok(
      region.start > 0x601000n + (1n << 40n) && region.start < 0x7ffd00000000n - (1n << 40n),
    );
  });
});

describe('compileFinish', () => {
  it('changes nothing of a skeleton that is right, and restores the rest', () => {
    const found = finish(family(), family());
    inOrder(names(found.get(1)), [
      'let the others go on',
      'wait until every process has its final layout',
      'tell the agent A',
      'wait until the files are there',
      'descriptors of its own',
      "wait for the agent's P",
      'wait for the page contents',
      'set the memory layout',
      'make the keeper',
      'give the memory to forks',
      'wait until everything is restored',
    ]);
    const touched = /^(map |unmap |open [0-9a-f]+-|empty 600|make process|reap process)/;
    for (const list of found.values()) assert.ok(!names(list).some((name) => touched.test(name)));
  });

  it('lets every process of a barrier wait for the same number', () => {
    const before = family();
    const now = tree([...family().processes, process(3, 1, { sid: 1, pgid: 1 })]);
    const found = finish(now, before);
    for (const list of found.values()) {
      for (const barrier of barriers(list)) {
        const index = barrier.split(',')[0];
        for (const other of found.values()) {
          for (const seen of barriers(other)) {
            if (seen.startsWith(`${index},`)) assert.equal(seen, barrier);
          }
        }
      }
    }
  });

  it('changes the layout, and empties pages that are said to be gone', () => {
    const now = one();
    const [, data, stack] = now.processes[0]!.mm!.vmas;
    now.processes[0]!.mm!.vmas = [data!, vma(0x700000n, 0x702000n), stack!];
    now.processes[0]!.mm!.runs = [{ address: 0x700000n, pages: 1n }];
    const gone = [{ address: 0x5ff000n, pages: 10n }];
    const vanished = { processes: new Map([[1, gone]]), objects: new Map() };
    inOrder(names(programs(compileFinish(now, skeletonOf(one()), { vanished })).get(1)), [
      'unmap 400000-402000',
      'map 700000-702000',
      'empty 600000-601000',
      'keep the memory out of forks',
      'wait until every process has its final layout',
    ]);
    assert.ok(!names(finish(now, one()).get(1)).some((name) => name.startsWith('empty')));
  });

  it('makes a mapping writable again when its first page comes late', () => {
    const [before, now] = [one(), one()];
    for (const image of [before, now]) image.processes[0]!.mm!.vmas[1]!.prot = 1;
    before.processes[0]!.mm!.runs = [];
    const found = finish(now, before).get(1)!;
    inOrder(names(found), ['open 600000-601000', 'tell the agent A', 'protect 600000-601000']);
    assert.equal(found.find((step) => step.name === 'open 600000-601000')!.args[2], 3n);
  });

  it('opens for pages what was writable once, and closes it at the end', () => {
    const image = (flags: string[]) => {
      const made = one();
      Object.assign(made.processes[0]!.mm!.vmas[1]!, { prot: 1, flags });
      made.processes[0]!.mm!.runs = [];
      return made;
    };
    const prot = (flags: string[]) => {
      const made = programs(compileSkeleton(image(flags), { restorer: restorer() }).programs);
      return made.get(1)!.find(({ name }) => name === 'map 600000-601000')!.args[2];
    };
    assert.deepEqual([prot([]), prot(['ac']), prot(['nr'])], [1n, 3n, 3n]);
    const found = names(finish(image(['ac']), image(['ac'])).get(1));
    assert.ok(!found.includes('open 600000-601000'));
    inOrder(found, ['wait for the page contents', 'protect 600000-601000']);
    assert.ok(!names(finish(image([]), image([])).get(1)).includes('protect 600000-601000'));
  });

  it('makes new processes and reaps those that are gone', () => {
    const now = tree([process(1, 0), process(3, 1, { sid: 1, pgid: 1 })]);
    const found = finish(now, family());
    inOrder(names(found.get(1)), [
      'let the others go on',
      'make process 3 (process3), child of 1',
      'reap process 2',
      'forget that they ended',
      'wait until every process has its final layout',
    ]);
    inOrder(names(found.get(2)), ['wait until every process stands', 'process 2 is gone']);
    assert.ok(found.get(2)!.at(-1)!.kind === KIND.exit);
    inOrder(names(found.get(3)), ['unmap what is below the restorer', 'map 600000-601000']);
  });

  it('turns a process into a zombie', () => {
    const now = family();
    Object.assign(now.processes[1]!, { state: 'zombie', exitStatus: 0x300, threads: [] });
    now.processes[1]!.mm = undefined;
    const found = finish(now, family());
    const death = found.get(2)!.at(-1)!;
    assert.deepEqual([death.kind, death.args[0]], [KIND.makeDeath, 0x300n]);
    assert.ok(!names(found.get(1)).includes('reap process 2'));
  });

  it("moves the restorer's descriptors above those of the tree", () => {
    const now = one();
    now.processes[0]!.descriptors = [{ fd: 100, closeOnExec: false, fileId: 1 }];
    now.files = [
      {
        id: 1,
        flags: 2,
        position: 0n,
        owner: undefined,
        networkNamespaceId: 0,
        mountNamespaceId: 0,
        locks: [],
        lost: '',
        kind: { $case: 'eventfd', value: { count: 0n, semaphore: false } },
      },
    ];
    const found = finish(now, one()).get(1)!;
    const moves = found.filter(({ name }) => name.startsWith("the restorer's descriptor "));
    assert.deepEqual(
      moves.map(({ args }) => args.slice(0, 2).map(Number)),
      [7, 6, 5, 4, 2, 1, 0].map((number) => [64 + number, 128 + number]),
    );
    inOrder(names(found), [
      'let the others go on',
      "the restorer's old descriptors",
      'wait until the files are there',
    ]);
  });

  it('keeps shared memory, drops what is gone, and makes what is new', () => {
    const withObjects = (...ids: number[]): TreeImage => ({
      ...one(),
      sharedMemory: ids.map((id) =>
        SharedMemory.fromPartial({ id, kind: 'memfd', size: 8192n, inode: BigInt(id) }),
      ),
    });
    const found = finish(withObjects(2, 3), withObjects(1, 2)).get(1)!;
    inOrder(names(found), [
      'shared memory 1 is gone',
      'shared memory 3 (memfd): create',
      'let the others go on',
    ]);
    const fds = found.filter(({ nr }) => nr === SYSCALL.close).map(({ args }) => args[0]);
    assert.equal(fds[0], 64n + 16n);
  });

  it('attaches segments that are new, whole or in part, and lets go of them in the root', () => {
    const whole = withSegment(one(), { id: 5, from: 0n, pages: 4n });
    const found = names(finish(whole, one()).get(1));
    inOrder(found, [
      'System V segment 5: create',
      'let the others go on',
      'attach segment 5 at 700000',
      'wait until every process has its final layout',
      'let go of segment 5',
    ]);
    assert.ok(!found.some((name) => name.startsWith('attach segment 5 at 700000: a part')));
    const part = withSegment(one(), { id: 5, from: 1n, pages: 2n });
    inOrder(names(finish(part, one()).get(1)), [
      'attach segment 5 at 700000',
      'attach segment 5 at 700000: a part of it',
      'attach segment 5 at 700000: let go of the rest',
    ]);
  });

  it('leaves one working directory to processes that share it', () => {
    const now = tree([...family().processes, process(3, 1, { sid: 1, pgid: 1 })]);
    now.processes[1]!.fsOwnerPid = 1;
    const found = finish(now, now);
    const flags = [1, 2, 3].map(
      (pid) => found.get(pid)!.find(({ nr }) => nr === SYSCALL.unshare)?.args[0],
    );
    assert.deepEqual(flags, [0x400n, 0x400n, 0x600n]);
  });

  it('has room for many threads', () => {
    const now = one();
    now.processes[0]!.threads = Array.from({ length: 500 }, (_, i) => thread(i + 1));
    assert.equal(finish(now, one()).size, 1);
  });
});

describe('compileRefresh', () => {
  it('changes the layout and waits again, for any number of times', () => {
    let skeleton = skeletonOf(one());
    for (let round = 1n; round <= 3n; round++) {
      const now = one();
      now.processes[0]!.mm!.vmas[1]!.end += round * 0x1000n;
      const next = compileRefresh(now, skeleton);
      const found = programs(next.programs).get(1);
      const start = (0x600000n + round * 0x1000n).toString(16);
      inOrder(names(found), [
        new RegExp(`^map ${start}-`),
        'tell the agent A',
        "wait for the agent's F",
        'load the next program',
      ]);
      assert.deepEqual(barriers(found), [`7,${round}`, `8,${round}`]);
      assert.ok(next.skeleton.storeLength > skeleton.storeLength);
      skeleton = next.skeleton;
    }
    assert.deepEqual(skeletonFits(one(), skeleton), []);
  });
});

describe('skeletonFits', () => {
  const fits = (now: TreeImage, before: TreeImage) => skeletonFits(now, skeletonOf(before));

  it('takes what processes commonly do', () => {
    const orphan = tree([process(1, 0), process(3, 1, { sid: 3, pgid: 3 })]);
    const before = tree([process(1, 0), process(2, 1), process(3, 2, { sid: 3, pgid: 3 })]);
    assert.deepEqual(fits(orphan, before), []);
    assert.deepEqual(fits(family(), one()), []);
    const daemon = family();
    Object.assign(daemon.processes[1]!, { sid: 2, pgid: 2 });
    assert.deepEqual(fits(daemon, family()), []);
  });

  it('names what cannot be done', () => {
    const taken = one();
    const { region } = skeletonOf(one());
    taken.processes[0]!.mm!.vmas.splice(2, 0, vma(region.start, region.start + 0x1000n));
    assert.match(fits(taken, one()).join(), /process 1 has mapped where the restorer stands/);
    const adopted = tree([process(1, 0), process(2, 1), process(3, 2, { sid: 3, pgid: 3 })]);
    const before = tree([process(1, 0), process(2, 1), process(3, 1, { sid: 3, pgid: 3 })]);
    assert.match(fits(adopted, before).join(), /process 3 is a child of 2, and was one of 1/);
    const session = tree([process(1, 0), process(2, 1, { sid: 99, pgid: 2 })]);
    assert.match(fits(session, one()).join(), /the new process 2 is in session 99/);
    assert.match(fits(session, family()).join(), /process 2 is in session 99, and was in 1/);
    assert.throws(() => compileFinish(session, skeletonOf(one())), { code: 'dumpbin.skeleton' });
    const segment = (id: number) => withSegment(one(), { id, from: 0n, pages: 4n });
    assert.deepEqual(fits(segment(32768 + 6), segment(5)), []);
    assert.match(
      fits(segment(32768 + 5), segment(5)).join(),
      /the place of segment 32773 is taken/,
    );
  });
});

describe('an AIO context of a skeleton', () => {
  const ring = vma(0x700000n, 0x701000n, { kind: 'aio', shared: true });
  const withRings = (...rings: { address: bigint; index: number; tail: number }[]) => {
    const image = tree([process(1, 0, { aioRings: rings })]);
    const { vmas } = image.processes[0]!.mm!;
    const at = (address: bigint) => ({ ...ring, start: address, end: address + 0x1000n });
    vmas.splice(2, 0, ...rings.map(({ address }) => at(address)));
    return image;
  };
  const steps = (after: TreeImage, before: TreeImage) =>
    names(finish(after, before).get(1)).filter((name) => name.startsWith('AIO'));

  it('counts on to where its ring stands, round its end', () => {
    const before = withRings({ address: 0x700000n, index: 0, tail: 125 });
    const after = withRings({ address: 0x700000n, index: 0, tail: 1 });
    const found = steps(after, before);
    // 127 places in one page: 126, 0, 1
    assert.equal(found.filter((name) => name.endsWith('count an event')).length, 3);
    assert.ok(!found.some((name) => name.endsWith('create')));
    assert.deepEqual(steps(after, after), []);
  });

  it('is made, and given up, after its skeleton', () => {
    const before = withRings(
      { address: 0x700000n, index: 0, tail: 0 },
      { address: 0x702000n, index: 1, tail: 0 },
    );
    const after = withRings(
      { address: 0x702000n, index: 1, tail: 0 },
      { address: 0x704000n, index: 2, tail: 0 },
    );
    inOrder(steps(after, before), [
      'AIO context 700000 is gone',
      'AIO: placeholder', // 0; 1 is there
      'AIO context 704000: create',
      'AIO context 704000: move',
      'AIO: drop a placeholder',
    ]);
  });
});
