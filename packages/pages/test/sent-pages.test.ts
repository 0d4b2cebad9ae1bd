import { strict as assert } from 'node:assert';
import { randomBytes } from 'node:crypto';
import { PageReader, type Segment, SegmentTable, SentPages } from '../src/index.js';
import { type Holder, Holders } from './support/holder.js';

const PAGES = 1500;

/** As the container numbers it. */
const PID = 7;

function tableOf(from: Holder, ranges: readonly (readonly [first: number, pages: number])[]) {
  const segments: Segment[] = ranges.map(([first, pages]) => {
    const address = from.address + BigInt(first * 4096);
    return { hostPid: from.pid, pid: PID, address, targetAddress: address, pages };
  });
  return SegmentTable.from(segments);
}

/** Pages of a table, by their number in the holder's memory. */
function listed(from: Holder, table: SegmentTable): number[] {
  const pages: number[] = [];
  for (let i = 0; i < table.count; i++) {
    const run = table.targetRun(i, 0, table.pages(i));
    assert.equal(run.hostPid, PID);
    assert.equal(table.sourceRun(i, 0, 1).address, run.address);
    const first = (run.address - Number(from.address)) / 4096;
    for (let page = 0; page < run.pages; page++) pages.push(first + page);
  }
  return pages;
}

async function send(table: SegmentTable, sent: SentPages): Promise<void> {
  for await (const chunk of new PageReader(table, { sent, lenient: true }).chunks())
    chunk.release();
}

const numbers = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);

describe('pages: what was sent before', () => {
  let holders: Holders;
  let holder: Holder;
  let content: Buffer;
  before(async () => {
    holders = new Holders();
    holder = await holders.start(PAGES);
  });
  after(() => holders.close());
  beforeEach(() => {
    content = randomBytes(PAGES * 4096);
    holder.write(content);
  });

  /** Flips one bit of a page. */
  function change(page: number): void {
    content[page * 4096 + 4095]! ^= 1;
    holder.write(content);
  }

  it('is not sent again as long as it is the same, to the last bit', async () => {
    const sent = new SentPages();
    await send(tableOf(holder, [[0, 700], [800, 600]]), sent); // biome-ignore format: pairs
    change(3);
    change(699);
    change(900);
    const owed = tableOf(holder, [[2, 3], [698, 2], [899, 3]]); // biome-ignore format: pairs
    assert.deepEqual(listed(holder, await sent.changed(owed)), [3, 699, 900]);
  });

  it('is sent when it was not known what was sent, and when it went back after having been sent otherwise', async () => {
    const sent = new SentPages();
    const all = tableOf(holder, [[0, 10]]);
    await send(tableOf(holder, [[0, 5]]), sent);
    assert.deepEqual(listed(holder, await sent.changed(all)), numbers(5, 10));
    change(1);
    await send(tableOf(holder, [[1, 1]]), sent);
    change(1);
    assert.deepEqual(listed(holder, await sent.changed(all)), [1, ...numbers(5, 10)]);
  });

  it('is compared by process, and with a key of its own', async () => {
    const [one, other] = [new SentPages(), new SentPages()];
    assert.notDeepEqual(one.key, other.key);
    const table = tableOf(holder, [[0, 10]]);
    await send(table, one);
    const { pid: hostPid, address } = holder;
    const stranger = SegmentTable.from([
      { hostPid, address, pid: PID + 1, targetAddress: address, pages: 10 },
    ]);
    assert.equal((await one.changed(stranger)).totalPages, 10);
    assert.equal((await one.changed(table)).totalPages, 0);
  });

  it('is looked at in part only where that does not pay, and wholly again once it does', async () => {
    const sent = new SentPages();
    assert.equal(sent.pays, false);
    const all = tableOf(holder, [[0, PAGES]]);
    await send(all, sent);
    assert.equal(sent.pays, true);
    content = randomBytes(PAGES * 4096);
    content.fill(0, 600 * 4096);
    const before = holder.read();
    before.copy(content, 600 * 4096, 600 * 4096);
    holder.write(content);
    // The first 600 have changed: it stops there, and the others are sent although they are the same.
    assert.equal((await sent.changed(all)).totalPages, PAGES);
    assert.equal(sent.pays, false);
    await send(all, sent);
    assert.ok((await sent.changed(all)).totalPages < PAGES);
    assert.equal(sent.pays, true);
    assert.equal((await sent.changed(all)).totalPages, 0);
  });

  it('is noted of some pages only until that pays, and never forgotten of one that is known', async () => {
    const sent = new SentPages();
    const all = tableOf(holder, [[0, PAGES]]);
    const sendSome = async () => {
      const options = { sent, lenient: true, notedWhole: 0, others: 'some' } as const;
      for await (const chunk of new PageReader(all, options).chunks()) chunk.release();
    };
    await sendSome();
    const first = listed(holder, await sent.changed(all)).length;
    assert.ok(first > PAGES / 2 && first < PAGES, `${first} of ${PAGES} pages are not known`);
    assert.equal(sent.pays, true);
    await sendSome();
    assert.equal((await sent.changed(all)).totalPages, 0);
    const original = Buffer.from(content);
    content.fill(1);
    holder.write(content);
    assert.equal((await sent.changed(all)).totalPages, PAGES);
    assert.equal(sent.pays, false);
    // What went to the destination last is this, also of pages that would not be noted now.
    await sendSome();
    holder.write(original);
    assert.equal((await sent.changed(all, 'all')).totalPages, PAGES);
  });

  it('is not noted of others where only the beginning is wanted', async () => {
    const sent = new SentPages();
    const table = tableOf(holder, [[0, 300], [300, 300]]); // biome-ignore format: pairs
    const options = { sent, lenient: true, notedWhole: 1, others: 'none' } as const;
    for await (const chunk of new PageReader(table, options).chunks()) chunk.release();
    const left = listed(holder, await sent.changed(tableOf(holder, [[0, 600]])));
    assert.ok(left.length >= 300 - 256 && left.every((page) => page >= 300), `${left.length}`);
  });
});
