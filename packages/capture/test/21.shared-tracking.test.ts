import assert from 'node:assert/strict';
import type { PageRun } from '@ferry/image';
import { type PageSegment, TreeCapture } from '../src/index.js';
import { type Writer, Writers } from './support/writer.js';

const START = 0x600000000000n;
const PAGES = 64;
const HALF = Array.from({ length: PAGES / 2 }, (_, i) => i);
const KINDS = ['anonymous', 'memfd', 'sysv'] as const;

describe('dirty tracking of shared memory', function () {
  this.timeout(90_000);
  let writers: Writers;
  let writer: Writer;
  let capture: TreeCapture;
  before(() => {
    writers = new Writers('sharer.c');
  });
  after(() => writers.close());
  afterEach(async () => {
    capture[Symbol.dispose]();
    await writer.end();
  });

  /** Tracked, all of it sent, and nothing has happened for long enough to be certain. */
  async function settled(kind: string): Promise<void> {
    writer = await writers.start(kind, PAGES);
    await pause();
    capture = TreeCapture.open(writer.pid);
    const { warnings } = capture.track();
    assert.deepEqual(warnings, []);
    assert.deepEqual(owed(), { written: HALF, doubtful: [] });
  }

  const pause = () => new Promise((done) => setTimeout(done, 30));

  const numbers = (segments: readonly PageSegment[]): number[] =>
    segments.flatMap(({ targetAddress, pages }) => {
      const first = Number((targetAddress - START) >> 12n);
      return Array.from({ length: pages }, (_, i) => first + i);
    });

  function owed() {
    const { written, doubtful } = capture.dirtySharedPages();
    return { written: numbers(written), doubtful: numbers(doubtful) };
  }

  const pagesOf = (runs: readonly PageRun[]): number[] =>
    runs.flatMap(({ address, pages }) =>
      Array.from({ length: Number(pages) }, (_, i) => Number(address >> 12n) + i),
    );

  function rest(): { owed: number[]; emptied: number[] } {
    capture.freeze();
    const [object, ...others] = capture.capture().sharedMemory;
    capture.thaw();
    assert.deepEqual(others, []);
    return { owed: pagesOf(object!.runs), emptied: pagesOf(object!.emptied) };
  }

  for (const kind of KINDS) {
    it(`gives what any process writes, once, and nothing else (${kind})`, async () => {
      await settled(kind);
      assert.deepEqual(owed(), { written: [], doubtful: [] });
      await writer.do('write', 3);
      await writer.do('other', 5);
      await writer.do('read', 6);
      const found = owed();
      // A write through a mapping moves the times of a memfd as well.
      if (kind === 'memfd') assert.deepEqual(found, { written: [], doubtful: HALF });
      else assert.deepEqual(found, { written: [3, 5], doubtful: [] });
      await pause();
      owed();
      await pause();
      assert.deepEqual(owed(), { written: [], doubtful: [] });
      assert.deepEqual(rest(), { owed: [], emptied: [] });
    });

    it(`gives pages that get data for the first time (${kind})`, async () => {
      await settled(kind);
      await writer.do('write', 60);
      await writer.do('other', 50);
      const { written, doubtful } = owed();
      assert.deepEqual(
        [...written, ...doubtful].filter((page) => page > 40),
        [50, 60],
      );
      await pause();
      owed();
      await writer.do('write', 61);
      const { owed: last } = rest();
      assert(last.includes(61), `${last}`);
    });
  }

  it('gives what is written between the last look and the stop, and that alone', async () => {
    await settled('anonymous');
    await writer.do('other', 9);
    assert.deepEqual(rest(), { owed: [9], emptied: [] });
    // As long as no look has taken it.
    assert.deepEqual(pagesOfBoth(), [9]);
  });

  function pagesOfBoth(): number[] {
    const { written, doubtful } = owed();
    return [...written, ...doubtful].filter((page) => page === 9);
  }

  it('is certain of what it took while the program stood, however lately it was written', async () => {
    await settled('memfd');
    await writer.do('write', 3);
    capture.freeze();
    assert.deepEqual(owed(), { written: [], doubtful: HALF });
    const [object] = capture.capture().sharedMemory;
    capture.thaw();
    assert.deepEqual([object?.runs, object?.emptied], [[], []]);
    // It has run since.
    assert.deepEqual(owed(), { written: [], doubtful: HALF });
  });

  it('gives pages whose entries the kernel has taken out of the page table', async () => {
    await settled('anonymous');
    await writer.do('pageout', 12);
    const { written } = owed();
    assert(written.includes(12), `${written}`);
    assert.deepEqual(owed(), { written: [], doubtful: [] });
  });

  for (const [kind, word] of [
    ...KINDS.flatMap((each) =>
      ['child', 'dup', 'away', 'remove', 'forget', 'unmap'].map((word) => [each, word] as const),
    ),
    ...[['memfd', 'again'] as const, ['sysv', 'again'] as const, ['memfd', 'pwrite'] as const],
  ]) {
    it(`doubts all pages after "${word}" (${kind})`, async () => {
      await settled(kind);
      await writer.do(word, 7);
      const all = word === 'remove' ? HALF.filter((page) => page !== 7) : HALF;
      const { written, doubtful } = owed();
      assert.deepEqual([written, doubtful.filter((page) => page < 32)], [[], all]);
    });

    it(`and so it does at the end (${kind}, ${word})`, async () => {
      await settled(kind);
      await writer.do(word, 7);
      const { owed: last, emptied } = rest();
      const gone = word === 'remove' ? [7] : [];
      assert.deepEqual([last, emptied], [HALF.filter((page) => !gone.includes(page)), gone]);
    });
  }

  it('is certain again once a child is there to stay, and follows it', async () => {
    await settled('anonymous');
    await writer.do('stay', 4);
    await pause();
    assert.deepEqual(owed(), { written: [], doubtful: HALF });
    assert.deepEqual(owed(), { written: [], doubtful: [] });
    await writer.do('write', 8);
    assert.deepEqual(owed(), { written: [8], doubtful: [] });
  });

  it('forgets what was emptied once it holds something again', async () => {
    await settled('anonymous');
    await writer.do('remove', 7);
    owed();
    await writer.do('read', 7);
    assert.deepEqual(owed(), { written: [7], doubtful: [] });
    assert.deepEqual(rest(), { owed: [], emptied: [] });
  });

  it('knows at the end what was emptied before the last look', async () => {
    await settled('anonymous');
    await writer.do('remove', 7);
    owed();
    assert.deepEqual(rest(), { owed: [], emptied: [7] });
  });

  it('leaves nothing in the program', async () => {
    await settled('anonymous');
    capture.untrack();
    for (const word of ['child', 'dup', 'remove', 'write']) {
      assert.equal(await writer.do(word, 3), 'done');
    }
  });
});
