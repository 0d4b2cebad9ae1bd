import { strict as assert } from 'node:assert';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Journal, type JournalEntry } from '../src/journal.js';

const entry = (migrationId: string, decision: JournalEntry['decision']): JournalEntry => ({
  ...{ migrationId, role: 'source', decision, container: 'web', epoch: '2', bootId: 'b' },
});

describe('migration: the journal', () => {
  let folder = '';
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'ferry-journal-'));
  });
  afterEach(() => {
    rmSync(folder, { recursive: true });
  });

  const onDisk = (id: string): string =>
    (JSON.parse(readFileSync(join(folder, `${id}.json`), 'utf8')) as JournalEntry).decision;

  it('has what was decided last, however many decisions are written at once', async () => {
    const journal = await Journal.open(folder, Date.now());
    const decisions = ['committed', 'returned', 'reclaimed'] as const;
    for (let i = 0; i < 20; i++) {
      await Promise.all(decisions.map((decision) => journal.write(entry(`m${i}`, decision))));
      assert.deepEqual(
        [onDisk(`m${i}`), journal.get(`m${i}`)?.decision],
        ['reclaimed', 'reclaimed'],
      );
    }
    assert.equal(readdirSync(folder).length, 20);
  });

  it('goes on after a write that failed, and keeps what was there', async () => {
    const journal = await Journal.open(folder, Date.now());
    await journal.write(entry('m', 'committed'));
    const wrong = { ...entry('m', 'destroyed'), epoch: 'x' };
    await assert.rejects(journal.write(wrong));
    assert.equal(onDisk('m'), 'committed');
    await journal.write(entry('m', 'destroyed'));
    assert.equal(onDisk('m'), 'destroyed');
  });

  it('keeps what was prepared from every reader until it is written', async () => {
    const journal = await Journal.open(folder, Date.now());
    await journal.write(entry('m', 'receiving'));
    await journal.prepare(entry('m', 'granted'));
    assert.deepEqual([onDisk('m'), journal.get('m')?.decision], ['receiving', 'receiving']);
    assert.equal((await Journal.open(folder, Date.now())).get('m')?.decision, 'receiving');
    await journal.prepare(entry('m', 'granted'));
    await journal.write(entry('m', 'granted'));
    assert.deepEqual([onDisk('m'), journal.get('m')?.decision], ['granted', 'granted']);
    assert.deepEqual(readdirSync(folder), ['m.json']);
  });

  it('writes what was decided, whatever was prepared', async () => {
    const journal = await Journal.open(folder, Date.now());
    await journal.prepare(entry('m', 'committed'));
    await journal.write(entry('m', 'aborted'));
    assert.equal(onDisk('m'), 'aborted');
    await journal.prepare(entry('m', 'committed'));
    await journal.forget('m');
    assert.deepEqual(readdirSync(folder), []);
  });

  it('tells what an agent that starts has to settle, and no more', async () => {
    const journal = await Journal.open(folder, Date.now());
    const open = ['committed', 'returned', 'receiving', 'granted', 'resumed'] as const;
    const over = [
      'reclaimed',
      'aborted',
      'destroyed',
      'cancelled',
      'succeeded',
      'abandoned',
    ] as const;
    for (const decision of [...open, ...over]) await journal.write(entry(decision, decision));
    const again = await Journal.open(folder, Date.now());
    const found = again.unsettled().map(({ decision }) => decision);
    assert.deepEqual(found.sort(), [...open].sort());
  });

  it('does not guess at an entry that it cannot read, and drops what a write has left', async () => {
    writeFileSync(join(folder, 'm.json.new'), '');
    await Journal.open(folder, Date.now());
    assert.deepEqual(readdirSync(folder), []);
    writeFileSync(join(folder, 'm.json'), '');
    await assert.rejects(Journal.open(folder, Date.now()), { code: 'migrate.journal' });
  });
});
