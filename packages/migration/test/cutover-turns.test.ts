import { strict as assert } from 'node:assert';
import { CutoverTurns } from '../src/cutover-turns.js';

/** Long enough that it is never the reason for anything here. */
const LONG_MS = 60_000;

describe('migration: turns of cutovers', () => {
  it('lets one go at a time, in the order in which they came', async () => {
    const turns = new CutoverTurns({ holdMsMax: LONG_MS });
    const all = Array.from({ length: 4 }, () => turns.take());
    const order: number[] = [];
    await Promise.all(
      all.map(async (turn, i) => {
        assert.ok(await turn.within(LONG_MS));
        order.push(i);
        for (const later of all.slice(i + 1)) assert.equal(await later.within(0), false);
        turn.end();
      }),
    );
    assert.deepEqual(order, [0, 1, 2, 3]);
    assert.ok(await turns.take().within(0));
  });

  it('keeps the place of one that did something else meanwhile', async () => {
    const turns = new CutoverTurns({ holdMsMax: LONG_MS });
    const [first, second, third] = [turns.take(), turns.take(), turns.take()];
    assert.equal(await second.within(0), false);
    first.end();
    assert.equal(await third.within(0), false);
    assert.ok(await second.within(0));
  });

  it('leaves out who has gone before it came', async () => {
    const turns = new CutoverTurns({ holdMsMax: LONG_MS });
    const [first, second, third] = [turns.take(), turns.take(), turns.take()];
    second.end();
    second.end();
    assert.equal(await third.within(0), false);
    first.end();
    assert.ok(await third.within(0));
  });

  it('passes on a turn that is held for too long, and is not confused by its end', async () => {
    const turns = new CutoverTurns({ holdMsMax: 5 });
    const [first, second, third] = [turns.take(), turns.take(), turns.take()];
    assert.ok(await third.within(LONG_MS));
    first.end();
    second.end();
    assert.ok(await turns.take().within(LONG_MS));
  });
});
