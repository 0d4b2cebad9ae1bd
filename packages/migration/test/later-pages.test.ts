import { strict as assert } from 'node:assert';
import { Process, TreeImage, Vma } from '@ferry/image';
import { type Segment, SegmentTable } from '@ferry/pages';
import { laterProcesses, splitLater } from '../src/later-pages.js';

const PAGE = 4096n;

function vma(start: bigint, pages: number, change: Partial<Vma> = {}): Vma {
  const end = start + BigInt(pages) * PAGE;
  return Vma.fromPartial({ start, end, prot: 3, kind: 'anonymous', ...change });
}

/** One process with one thread, whose stack pointer is in the middle of the first mapping. */
function tree(vmas: Vma[], change: { rsp?: bigint; mlockFuture?: number } = {}): TreeImage {
  const { rsp = 0n, mlockFuture = 0 } = change;
  const process = Process.fromPartial({
    pid: 1,
    mm: { vmas, mlockFuture },
    threads: [{ tid: 1, registers: { rsp, rip: 0x1000n } }],
  });
  return TreeImage.fromPartial({ rootPid: 1, processes: [process] });
}

const segment = (address: bigint, pages: number): Segment => {
  return { hostPid: 10, pid: 1, address, targetAddress: address, pages };
};

const brief = (segments: readonly Segment[]) => {
  return segments.map(({ address, pages }) => [address.toString(16), pages]);
};

describe('which memory may follow', () => {
  it('is private, anonymous, and not what its threads touch at once', () => {
    const image = tree([vma(0x100000n, 256)], { rsp: 0x180000n });
    const { now, later } = splitLater(image, [segment(0x100000n, 256)]);
    assert.deepEqual(brief(later), [
      ['100000', 0x78],
      ['189000', 0x77],
    ]);
    assert.deepEqual(brief(now), [['178000', 17]]);
  });

  const kinds: Record<string, Partial<Vma>> = {
    'of a file': { kind: 'file' },
    'shared memory': { kind: 'shared', shared: true },
    'of huge pages': { hugePageShift: 21 },
    'a stack that grows': { growsDown: true },
    locked: { flags: ['lo'] },
    'what the kernel may drop': { flags: ['dp'] },
  };
  for (const [name, change] of Object.entries(kinds)) {
    it(`is not memory that cannot wait: ${name}`, () => {
      const image = tree([vma(0x100000n, 16, change), vma(0x200000n, 16)]);
      const { now, later } = splitLater(image, [segment(0x100000n, 16), segment(0x200000n, 16)]);
      assert.deepEqual(brief(now), [['100000', 16]]);
      assert.deepEqual(brief(later), [['200000', 16]]);
    });
  }

  it('is none of a process that locks all memory to come', () => {
    const image = tree([vma(0x100000n, 16)], { mlockFuture: 2 });
    assert.deepEqual(brief(splitLater(image, [segment(0x100000n, 16)]).later), []);
  });

  it('is told by process, with the mappings that wait for it', () => {
    const image = tree([vma(0x100000n, 16), vma(0x110000n, 16, { prot: 1 }), vma(0x300000n, 4)]);
    const table = SegmentTable.from([segment(0x10f000n, 2), segment(0x118000n, 1)]);
    assert.deepEqual(laterProcesses(image, table), [
      {
        pid: 1,
        runs: [
          { address: 0x10f000n, pages: 2n },
          { address: 0x118000n, pages: 1n },
        ],
        ranges: [
          { start: 0x100000n, end: 0x110000n },
          { start: 0x110000n, end: 0x120000n },
        ],
      },
    ]);
  });

  it('is not what a source keeps back that must be there first', () => {
    const image = tree([vma(0x100000n, 16), vma(0x110000n, 16, { kind: 'file' })]);
    const lies = [
      [segment(0x110000n, 1)], // of a file
      [segment(0x10f000n, 2)], // goes on into it
      [segment(0x200000n, 1)], // not mapped
      [segment(0x104000n, 4), segment(0x102000n, 1)], // not ascending
      [{ ...segment(0x100000n, 1), pid: 2 }], // nobody's
    ];
    for (const lie of lies) {
      assert.equal(laterProcesses(image, SegmentTable.from(lie)), undefined);
    }
  });
});
