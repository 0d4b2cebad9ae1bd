import assert from 'node:assert/strict';
import { freshRuns, intersect, layoutDifference, without } from '@ferry/dumpbin';
import { SharedMemory, type TreeImage, type Vma } from '@ferry/image';
import fc from 'fast-check';
import { process, tree, vma } from './support/tree.js';

function withVmas(...vmas: Vma[]): TreeImage {
  const image = tree([process(10, 0)]);
  image.processes[0]!.mm!.vmas = vmas;
  return image;
}

/** The pieces of the only process as text: "+" is new, "=" kept. */
function pieces(final: TreeImage, before: TreeImage): string[] {
  const [found] = layoutDifference(final, before).processes;
  const text = ({ start, end }: { start: bigint; end: bigint }) =>
    `${start.toString(16)}-${end.toString(16)}`;
  return [
    ...found!.pieces.map((piece) => `${piece.before === undefined ? '+' : '='}${text(piece)}`),
    ...found!.gone.map((range) => `-${text(range)}`),
  ];
}

describe('layoutDifference', () => {
  it('keeps all of a layout that has not changed', () => {
    const image = tree([process(10, 0), process(11, 10)]);
    const { processes } = layoutDifference(image, image);
    for (const { pieces, gone, movedVdso } of processes) {
      assert.ok(pieces.every((piece) => piece.before !== undefined));
      assert.deepEqual([gone, movedVdso], [[], false]);
    }
  });

  it('tells what grew, shrank and went', () => {
    assert.deepEqual(
      pieces(
        withVmas(vma(0x2000n, 0x6000n), vma(0x8000n, 0x9000n)),
        withVmas(vma(0x3000n, 0x5000n), vma(0x8000n, 0xb000n), vma(0xd000n, 0xe000n)),
      ),
      ['+2000-3000', '=3000-5000', '+5000-6000', '=8000-9000', '-9000-b000', '-d000-e000'],
    );
  });

  it('keeps memory whose mapping was split, joined or protected otherwise', () => {
    const split = withVmas(vma(0x1000n, 0x2000n), vma(0x2000n, 0x5000n, { prot: 1 }));
    const whole = withVmas(vma(0x1000n, 0x5000n));
    assert.deepEqual(pieces(split, whole), ['=1000-2000', '=2000-5000']);
    assert.deepEqual(pieces(whole, split), ['=1000-2000', '=2000-5000']);
  });

  it('maps anew what shows another file, another part of it, or none', () => {
    const at = (inode: bigint, fileOffset: bigint) =>
      vma(0x1000n, 0x3000n, {
        kind: 'file',
        fileOffset,
        file: {
          path: '/f',
          device: 1n,
          inode,
          size: 0n,
          mtimeNs: 0n,
          mode: 0,
          deleted: false,
        },
      });
    assert.deepEqual(pieces(withVmas(at(1n, 0n)), withVmas(at(1n, 0n))), ['=1000-3000']);
    for (const other of [at(2n, 0n), at(1n, 0x1000n), vma(0x1000n, 0x3000n)]) {
      assert.deepEqual(pieces(withVmas(at(1n, 0n)), withVmas(other)), ['+1000-3000']);
    }
    const moved = { ...at(1n, 0x1000n), start: 0x2000n };
    assert.deepEqual(pieces(withVmas(moved), withVmas(at(1n, 0n))), ['=2000-3000', '-1000-2000']);
    // Its copy may have been made anew meanwhile.
    const shared = withVmas({ ...at(1n, 0n), shared: true });
    assert.deepEqual(pieces(shared, shared), ['+1000-3000']);
  });

  it('knows shared memory by what it is, not by its number', () => {
    const with_ = (id: number, inode: bigint): TreeImage => ({
      ...withVmas(vma(0x1000n, 0x2000n, { kind: 'shared', shared: true, sharedMemoryId: id })),
      sharedMemory: [SharedMemory.fromPartial({ id, kind: 'anonymous', size: 4096n, inode })],
    });
    assert.deepEqual(pieces(with_(1, 7n), with_(5, 7n)), ['=1000-2000']);
    assert.deepEqual(pieces(with_(1, 7n), with_(1, 8n)), ['+1000-2000']);
    assert.deepEqual([...layoutDifference(with_(1, 7n), with_(5, 7n)).keptObjects], [[1, 5]]);
  });

  it('has all memory of a new process anew, and sees a vDSO that moved', () => {
    const vdso = (start: bigint) => vma(start, start + 0x2000n, { kind: 'vdso' });
    const before = withVmas(vma(0x1000n, 0x2000n), vdso(0x10000n));
    const after = withVmas(vma(0x1000n, 0x2000n), vdso(0x20000n));
    assert.equal(layoutDifference(after, before).processes[0]!.movedVdso, true);
    assert.equal(layoutDifference(after, after).processes[0]!.movedVdso, false);
    after.processes[0]!.pid = 11;
    assert.deepEqual(pieces(after, before), ['+1000-2000']);
  });

  it('covers the final layout exactly, whatever was before', () => {
    const layouts = fc
      .uniqueArray(fc.integer({ min: 1, max: 40 }), { minLength: 2, maxLength: 12 })
      .map((cuts) => {
        const sorted = cuts.sort((a, b) => a - b).map((cut) => BigInt(cut) * 4096n);
        return sorted
          .slice(1)
          .map((end, i) => vma(sorted[i]!, end, { prot: i % 2 === 0 ? 3 : 1 }))
          .filter((_, i) => i % 3 !== 2);
      });
    fc.assert(
      fc.property(layouts, layouts, (now, before) => {
        const found = layoutDifference(withVmas(...now), withVmas(...before)).processes[0]!;
        const pagesOf = (ranges: readonly { start: bigint; end: bigint }[]) =>
          ranges.flatMap(({ start, end }) =>
            Array.from(
              { length: Number((end - start) / 4096n) },
              (_, i) => Number(start) / 4096 + i,
            ),
          );
        const [nowPages, oldPages] = [pagesOf(now), pagesOf(before)];
        const kept = pagesOf(found.pieces.filter((piece) => piece.before !== undefined));
        assert.deepEqual(pagesOf(found.pieces), nowPages);
        assert.deepEqual(
          kept,
          nowPages.filter((page) => oldPages.includes(page)),
        );
        assert.deepEqual(
          pagesOf(found.gone),
          oldPages.filter((page) => !nowPages.includes(page)),
        );
      }),
    );
  });
});

describe('runs of pages', () => {
  const run = (address: number, pages: number) => ({
    address: BigInt(address) * 4096n,
    pages: BigInt(pages),
  });

  it('are cut by ranges', () => {
    const ranges = [
      { start: 0x2000n, end: 0x4000n },
      { start: 0x5000n, end: 0x6000n },
    ];
    assert.deepEqual(intersect([run(1, 2), run(3, 10)], ranges), [run(2, 1), run(3, 1), run(5, 1)]);
    assert.deepEqual(without([run(1, 10)], [run(2, 2), run(5, 1)]), [
      run(1, 1),
      run(4, 1),
      run(6, 5),
    ]);
  });

  it('lie in pieces that start empty, or were sent before', () => {
    const [found] = layoutDifference(
      withVmas(vma(0x1000n, 0x5000n)),
      withVmas(vma(0x2000n, 0x3000n)),
    ).processes;
    assert.deepEqual(freshRuns([run(1, 4)], found!.pieces), [run(1, 1), run(3, 2)]);
  });
});
