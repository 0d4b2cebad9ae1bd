import { strict as assert } from 'node:assert';
import { type Segment, SegmentTable } from '../src/index.js';

/** The last page that a process can have. */
const LAST = 2n ** 47n - 4096n;

function segment(address: bigint, pages: number, more: Partial<Segment> = {}): Segment {
  return { hostPid: 4242, address, pid: 7, targetAddress: address, pages, ...more };
}

/** What it lists, page by page. */
function pagesOf(table: SegmentTable): string[] {
  const found: string[] = [];
  for (let i = 0; i < table.count; i++) {
    for (let page = 0; page < table.pages(i); page++) {
      const source = table.sourceRun(i, page, 1);
      const target = table.targetRun(i, page, 1);
      found.push(
        `${source.hostPid} ${source.address.toString(16)} ${target.hostPid} ${target.address.toString(16)}`,
      );
    }
  }
  return found;
}

describe('pages: a list of segments', () => {
  const segments = [
    segment(0x1000n, 3),
    segment(0x7f12_3456_7000n, 2, { targetAddress: 0x10_0000_0000n }),
    segment(LAST, 1, { pid: 0x7fffffff, hostPid: 0xffffffff }),
  ];

  it('keeps addresses of all that a process can have, through bytes that lie anywhere', () => {
    const table = SegmentTable.from(segments);
    const bytes = Buffer.concat([Buffer.alloc(1), table.encode()]).subarray(1);
    const again = SegmentTable.decode(bytes);
    assert.deepEqual(pagesOf(again), pagesOf(table));
    assert.deepEqual(pagesOf(table), [
      '4242 1000 7 1000',
      '4242 2000 7 2000',
      '4242 3000 7 3000',
      '4242 7f1234567000 7 1000000000',
      '4242 7f1234568000 7 1000001000',
      '4294967295 7ffffffff000 2147483647 7ffffffff000',
    ]);
    assert.deepEqual([table.count, table.totalPages, table.totalBytes], [3, 6, 6 * 4096]);
  });

  it('can do without any of its pages', () => {
    const table = SegmentTable.from(segments);
    const all = pagesOf(table);
    for (let mask = 0; mask < 64; mask++) {
      const isOut = (place: number) => ((mask >> place) & 1) === 1;
      const left = table.without(isOut);
      assert.deepEqual(
        pagesOf(left),
        all.filter((_, place) => !isOut(place)),
      );
      assert.deepEqual(pagesOf(SegmentTable.decode(left.encode())), pagesOf(left));
    }
    assert.equal(table.without(() => false).count, 3);
    assert.equal(table.without((place) => place === 1).count, 4);
  });

  it('follows another one, and is split again', () => {
    const [one, two, none] = [
      SegmentTable.from(segments.slice(0, 1)),
      SegmentTable.from(segments.slice(1)),
      SegmentTable.from([]),
    ];
    const both = one.followedBy(two);
    assert.deepEqual(pagesOf(both), pagesOf(SegmentTable.from(segments)));
    assert.equal(one.followedBy(none), one);
    assert.equal(none.followedBy(two), two);
    const [first, rest] = both.split(1);
    assert.deepEqual(pagesOf(first), pagesOf(one));
    assert.deepEqual(pagesOf(rest.split(2)[0]), pagesOf(two));
    assert.equal(rest.split(99)[1].count, 0);
  });

  it('is refused when no process could have what it lists', () => {
    const entry = (change: (bytes: Buffer) => void): Buffer => {
      const bytes = Buffer.from(SegmentTable.from([segment(0x1000n, 1)]).encode());
      change(bytes);
      return bytes;
    };
    const bad = [
      entry((bytes) => bytes.writeUInt32LE(0, 4)),
      entry((bytes) => bytes.writeUInt32LE(0x80000000, 4)),
      entry((bytes) => bytes.writeUInt32LE(0x1001, 8)),
      entry((bytes) => bytes.writeUInt32LE(0x8000, 12)),
      entry((bytes) => bytes.writeBigUInt64LE(LAST + 4096n, 16)),
      entry((bytes) => bytes.writeBigUInt64LE(0xffff_ffff_ffff_f000n, 16)),
      entry((bytes) => bytes.writeBigUInt64LE(0n, 24)),
      entry((bytes) => bytes.writeBigUInt64LE(2n ** 35n, 24)),
      entry((bytes) => bytes.writeBigUInt64LE(2n ** 64n - 1n, 24)),
      Buffer.alloc(31),
    ];
    for (const bytes of bad)
      assert.throws(() => SegmentTable.decode(bytes), { code: 'pages.invalid' });
    assert.equal(SegmentTable.decode(entry(() => {})).count, 1);
  });
});
