import assert from 'node:assert/strict';
import {
  decodeTree,
  decodeTreeFile,
  encodeTreeFile,
  SecurityLabels,
  TreeImage,
} from '@ferry/image';
import fc from 'fast-check';
import { process, thread, tree, vma } from '../../dumpbin/test/support/tree.js';

const image = (): TreeImage => tree([process(10, 0), process(11, 10)]);

function label(bad: TreeImage, labels: Partial<SecurityLabels>): void {
  bad.processes[1]!.threads[0]!.labels = SecurityLabels.fromPartial(labels);
}

describe('the file of an image', () => {
  it('gives back what was put in', () => {
    const decoded = decodeTreeFile(encodeTreeFile(image()), 'x.img');
    assert.deepEqual(TreeImage.encode(decoded).finish(), TreeImage.encode(image()).finish());
  });

  it('is refused with a single byte changed, wherever it is', () => {
    const good = encodeTreeFile(image());
    fc.assert(
      fc.property(fc.nat(good.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
        const bad = Buffer.from(good);
        bad[at] = bad[at]! ^ change;
        assert.throws(() => decodeTreeFile(bad, 'x.img'), { code: 'image.damaged' });
      }),
    );
  });

  it('is refused when it is cut short', () => {
    const good = encodeTreeFile(image());
    for (const length of [0, 7, 23, 24, good.length - 1]) {
      assert.throws(() => decodeTreeFile(good.subarray(0, length), 'x.img'), {
        code: 'image.damaged',
      });
    }
  });

  it('is refused in another format, and says which', () => {
    assert.throws(() => decodeTreeFile(encodeTreeFile({ ...image(), format: 99 }), 'x.img'), {
      code: 'image.format',
      message: /99/,
    });
  });
});

describe('validateTree', () => {
  const cases: [string, (bad: TreeImage) => void][] = [
    ['no processes', (bad) => bad.processes.splice(0)],
    ['a PID twice', (bad) => (bad.processes[1]!.pid = 10)],
    ['a PID of zero', (bad) => (bad.processes[1]!.pid = 0)],
    ['a child before its parent', (bad) => (bad.processes[1]!.ppid = 77)],
    ['a root that is not first', (bad) => (bad.rootPid = 11)],
    ['an unknown process state', (bad) => (bad.processes[1]!.state = 'dreaming')],
    ['a process without threads', (bad) => (bad.processes[1]!.threads = [])],
    ['a first thread that is not the leader', (bad) => (bad.processes[1]!.threads = [thread(44)])],
    ['a table shared with no parent', (bad) => (bad.processes[1]!.filesOwnerPid = 11)],
    ['a working directory shared with no parent', (bad) => (bad.processes[1]!.fsOwnerPid = 77)],
    ['a thread id twice', (bad) => bad.processes[1]!.threads.push(thread(10))],
    ['a short FP state', (bad) => (bad.processes[0]!.threads[0]!.xstate = Buffer.alloc(8))],
    [
      'a descriptor of nothing',
      (bad) => bad.processes[0]!.descriptors.push({ fd: 1, closeOnExec: false, fileId: 9 }),
    ],
    ['a label of two lines', (bad) => label(bad, { apparmor: 'web\nchangeprofile x' })],
    ['a label with a NUL', (bad) => label(bad, { selinux: 'u:r:t\0' })],
    ['a long label', (bad) => label(bad, { selinuxExec: 'é'.repeat(2001) })],
    ['mappings that overlap', (bad) => bad.processes[0]!.mm!.vmas.push(vma(0x600000n, 0x602000n))],
    [
      'a mapping above user space',
      (bad) => bad.processes[0]!.mm!.vmas.push(vma(0x7ffffffff000n, 0x800000000000n)),
    ],
    ['a mapping that is not of whole pages', (bad) => (bad.processes[0]!.mm!.vmas[2]!.end += 1n)],
    [
      'a run outside user space',
      (bad) =>
        bad.processes[0]!.mm!.runs.push({
          address: 0n,
          pages: 1n << 60n,
          content: Buffer.alloc(0),
        }),
    ],
    [
      'an unknown kind of file',
      (bad) =>
        bad.files.push({
          id: 1,
          flags: 0,
          position: 0n,
          owner: undefined,
          networkNamespaceId: 0,
          mountNamespaceId: 0,
          lost: '',
          locks: [],
          kind: undefined,
        }),
    ],
  ];
  for (const [name, spoil] of cases) {
    it(`refuses ${name}`, () => {
      const bad = image();
      spoil(bad);
      assert.throws(() => decodeTree(TreeImage.encode(bad).finish(), 'x'), {
        code: 'image.invalid',
      });
    });
  }

  it('never fails otherwise than by refusing, whatever the bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
        try {
          decodeTree(bytes, 'x');
        } catch (error) {
          assert.match((error as { code: string }).code, /^image\./);
        }
      }),
      { numRuns: 500 },
    );
  });
});
