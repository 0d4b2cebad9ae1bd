import { strict as assert } from 'node:assert';
import { createHash, randomBytes } from 'node:crypto';
import {
  Credits,
  decodePageChunk,
  type PageChunk,
  PageReader,
  PageWriter,
  type Segment,
  SegmentTable,
} from '../src/index.js';
import { type Holder, Holders } from './support/holder.js';

/** Half random, half not, in every page; deterministic in nothing but its size. */
function halfCompressible(pages: number): Buffer {
  const bytes = Buffer.alloc(pages * 4096, 'Ferry ');
  for (let i = 0; i < pages; i++) randomBytes(2048).copy(bytes, i * 4096);
  return bytes;
}

function segmentOf(from: Holder, to: Holder, first: number, pages: number): Segment {
  const offset = BigInt(first * 4096);
  const addresses = { address: from.address + offset, targetAddress: to.address + offset };
  return { hostPid: from.pid, pid: to.pid, ...addresses, pages };
}

/** The messages as a network carries them. */
async function sent(reader: PageReader): Promise<Buffer[]> {
  const messages: Buffer[] = [];
  for await (const chunk of reader.chunks()) {
    messages.push(Buffer.from(chunk.message()));
    chunk.release();
  }
  return messages;
}

const same = (pid: number) => pid;

async function write(writer: PageWriter, messages: readonly Buffer[]): Promise<void> {
  try {
    for (const message of messages) await writer.write(decodePageChunk(message));
    await writer.finish();
  } finally {
    await writer.settle();
  }
}

describe('pages: from one process to another', () => {
  let holders: Holders;
  before(() => {
    holders = new Holders();
  });
  after(() => holders.close());

  it('carries scattered pages of several segments, and nothing beside them', async () => {
    const [from, to] = [await holders.start(3000), await holders.start(3000)];
    from.write(halfCompressible(3000));
    to.write(Buffer.alloc(3000 * 4096, 0xee));
    const segments = [segmentOf(from, to, 0, 700)];
    for (let i = 710; i < 1400; i += 2) segments.push(segmentOf(from, to, i, 1));
    segments.push(segmentOf(from, to, 1500, 1499));
    const table = SegmentTable.decode(SegmentTable.from(segments).encode());
    const reader = new PageReader(table);
    const writer = new PageWriter(table, same);
    await write(writer, await sent(reader));
    const [expected, got, blank] = [from.read(), to.read(), Buffer.alloc(3000 * 4096, 0xee)];
    for (let page = 0; page < 3000; page++) {
      const moved = page < 700 || (page >= 710 && page < 1400 && page % 2 === 0);
      const inLast = page >= 1500 && page < 2999;
      const source = moved || inLast ? expected : blank;
      const at = page * 4096;
      assert(got.subarray(at, at + 4096).equals(source.subarray(at, at + 4096)), `page ${page}`);
    }
    assert.equal(writer.counters.raw, table.totalBytes);
    assert.deepEqual(writer.counters, reader.counters);
    assert(reader.counters.wire < 0.7 * reader.counters.raw, 'half of it compresses');
  });

  it('sends random memory as it is, zeros as nearly nothing', async () => {
    const [from, to] = [await holders.start(1024), await holders.start(1024)];
    from.write(Buffer.concat([randomBytes(512 * 4096), Buffer.alloc(512 * 4096)]));
    const table = SegmentTable.from([segmentOf(from, to, 0, 1024)]);
    const reader = new PageReader(table);
    const messages = await sent(reader);
    const chunks = messages.map(decodePageChunk);
    assert.deepEqual(
      chunks.map(({ encoding }) => encoding),
      ['raw', 'raw', 'lz4', 'lz4', 'raw'],
    );
    assert(chunks[3]!.data.length < 8192);
    await write(new PageWriter(table, same), messages);
    assert(to.read().equals(from.read()));
  });

  it('carries pages that their own process may not touch', async () => {
    const [from, to] = [await holders.start(600, [5, 300]), await holders.start(600, [5, 6, 599])];
    from.write(halfCompressible(600));
    const table = SegmentTable.from([segmentOf(from, to, 0, 600)]);
    await write(new PageWriter(table, same), await sent(new PageReader(table)));
    const digest = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');
    assert.equal(digest(to.read()), digest(from.read()));
  });

  it('names the process and page that is gone', async () => {
    const from = await holders.start(10);
    const beyond = { ...segmentOf(from, from, 0, 10), address: 0x1000n };
    await assert.rejects(sent(new PageReader(SegmentTable.from([beyond]))), {
      errno: 'EIO',
      message: new RegExp(`page 1000 of process ${from.pid}`),
    });
  });

  it('holds no more chunks than its pool has, whoever keeps them', async () => {
    const from = await holders.start(4096);
    const table = SegmentTable.from([segmentOf(from, from, 0, 4096)]);
    const held = [];
    const chunks = new PageReader(table, { slots: 4 }).chunks();
    for (let i = 0; i < 4; i++) held.push((await chunks.next()).value!);
    const fifth = chunks.next();
    const late = await Promise.race([fifth, new Promise((done) => setTimeout(done, 50, 'late'))]);
    assert.equal(late, 'late');
    held[0]!.release();
    held[0]!.release();
    assert.equal((await fifth).done, false);
    await chunks.return();
  });
});

describe('pages: a stream that is not what it should be', () => {
  let holders: Holders;
  let from: Holder;
  let table: SegmentTable;
  let to: Holder;
  let messages: Buffer[];
  before(async () => {
    holders = new Holders();
    [from, to] = [await holders.start(1000), await holders.start(1000)];
    from.write(halfCompressible(1000));
    table = SegmentTable.from([segmentOf(from, to, 0, 400), segmentOf(from, to, 400, 600)]);
    messages = await sent(new PageReader(table));
  });
  after(() => holders.close());

  const changed = (index: number, change: Partial<PageChunk>): PageChunk[] =>
    messages
      .map(decodePageChunk)
      .map((chunk, i) => (i === index ? { ...chunk, ...change } : chunk));
  const refuse = async (chunks: readonly PageChunk[], code: string) => {
    const writer = new PageWriter(table, same);
    const run = async () => {
      for (const chunk of chunks) await writer.write(chunk);
      await writer.finish();
    };
    await assert.rejects(run(), { code });
    await writer.settle();
  };

  it('is refused at once, though its next chunk never comes', async () => {
    const writer = new PageWriter(table, same);
    const data = Buffer.from(decodePageChunk(messages[0]!).data);
    data[100]! ^= 1;
    await writer.write(changed(0, { data })[0]!);
    await assert.rejects(writer.failed, { code: 'pages.damaged' });
    await writer.settle();
  });

  it('is refused when a bit flipped, and the damaged pages are not written', async () => {
    to.write(Buffer.alloc(1000 * 4096, 0xee));
    for (const at of [0, 100, 5000, 100_000]) {
      const data = Buffer.from(decodePageChunk(messages[1]!).data);
      data[at]! ^= 4;
      await refuse(changed(1, { data }), 'pages.damaged');
    }
    const untouched = to.read().subarray(256 * 4096, 512 * 4096);
    assert(untouched.equals(Buffer.alloc(256 * 4096, 0xee)));
  });

  it('is refused by the name of the chunk', async () => {
    const data = Buffer.from(decodePageChunk(messages[2]!).data);
    data[10]! ^= 1;
    const { segment, firstPage } = decodePageChunk(messages[2]!);
    const writer = new PageWriter(table, same);
    const run = async () => {
      for (const chunk of changed(2, { data })) await writer.write(chunk);
      await writer.finish();
    };
    await assert.rejects(run(), { message: new RegExp(`^Chunk ${segment}/${firstPage} `) });
    await writer.settle();
  });

  it('is refused when its chunks are sound, but of another stream', async () => {
    from.write(randomBytes(1000 * 4096));
    const other = (await sent(new PageReader(table))).map(decodePageChunk);
    await refuse(changed(1, other[1]!), 'pages.damaged');
    await refuse(changed(4, other[4]!), 'pages.damaged');
    const flipped = Buffer.from(decodePageChunk(messages[4]!).data);
    flipped[31]! ^= 128;
    await refuse(changed(4, { data: flipped }), 'pages.damaged');
  });

  it('is refused when it ends early', async () => {
    await refuse(messages.slice(0, 4).map(decodePageChunk), 'pages.truncated');
    await refuse(messages.slice(0, 3).map(decodePageChunk), 'pages.truncated');
    await refuse([], 'pages.truncated');
  });

  it('is refused when chunks repeat, are left out, or change order', async () => {
    const [a, b, c, d] = messages.map(decodePageChunk) as [
      PageChunk,
      PageChunk,
      PageChunk,
      PageChunk,
    ];
    await refuse([a, a, b, c, d], 'pages.sequence');
    await refuse([a, c, d], 'pages.sequence');
    await refuse([b, a, c, d], 'pages.sequence');
    await refuse([a, b, c, d, d], 'pages.sequence');
  });

  it('is refused when sizes do not fit', async () => {
    await refuse(changed(0, { pages: 0 }), 'pages.damaged');
    await refuse(changed(0, { pages: 257 }), 'pages.damaged');
    await refuse(changed(0, { pages: 2 ** 32 - 1 }), 'pages.damaged');
    await refuse(changed(3, { pages: 256 }), 'pages.damaged');
    await refuse(changed(0, { pages: 255 }).slice(0, 1), 'pages.damaged');
    await refuse(changed(0, { data: Buffer.alloc(256 * 4096 + 1) }), 'pages.damaged');
    await refuse(changed(0, { data: Buffer.alloc(0) }), 'pages.damaged');
    await refuse(changed(0, { encoding: 'raw' }), 'pages.damaged');
  });

  it('cannot bring a segment list that reaches where no memory is', () => {
    const bytes = () => Buffer.from(table.encode());
    const refused = (list: Buffer) =>
      assert.throws(() => SegmentTable.decode(list), { code: 'pages.invalid' });
    const put = (value: bigint, at: number) => {
      const list = bytes();
      list.writeBigUInt64LE(value, at);
      return list;
    };
    refused(bytes().subarray(1));
    refused(put(0n, 24));
    refused(put(2n ** 60n, 24));
    refused(put(2n ** 47n, 16));
    refused(put(2n ** 63n, 16));
    refused(put(123n, 16));
    refused(put(0n, 0));
  });
});

describe('pages: credits', () => {
  it('let a sender go on only with what the receiver has written', async () => {
    const credits = new Credits();
    const { signal } = new AbortController();
    credits.grant(100);
    await credits.take(60, signal);
    await credits.take(60, signal); // overdraws once
    let passed = false;
    const third = credits.take(10, signal).then(() => {
      passed = true;
    });
    credits.grant(20);
    await new Promise((done) => setTimeout(done, 10));
    assert.equal(passed, false);
    credits.grant(1);
    await third;
  });

  it('stop waiting when the migration ends', async () => {
    const ended = new AbortController();
    const waiting = new Credits().take(1, ended.signal);
    ended.abort(new Error('cancelled'));
    await assert.rejects(waiting, { message: 'cancelled' });
  });
});
