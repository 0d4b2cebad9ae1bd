import { strict as assert } from 'node:assert';
import { CutoverHistory } from '../src/cutover-history.js';

describe('migration: what cutovers took before', () => {
  it('is guessed, then the median of the latest', () => {
    const history = new CutoverHistory();
    assert(history.restMs > 0);
    history.learn(70, 20);
    assert.equal(history.restMs, 50);
    history.learn(31, 1);
    history.learn(400, 0);
    assert.equal(history.restMs, 50);
    for (let i = 0; i < 9; i += 1) history.learn(25, 5);
    assert.equal(history.restMs, 20);
  });

  it('is never below nothing', () => {
    const history = new CutoverHistory();
    history.learn(5, 9);
    assert.equal(history.restMs, 0);
  });
});
