import { equal, throws } from 'node:assert/strict';
import { onlyOnce } from '../src/only-once.js';

describe('what is done only once', () => {
  it('is done at the first call, whichever that is', () => {
    let times = 0;
    const done = onlyOnce(() => {
      times += 1;
    });
    equal(times, 0);
    done();
    done();
    equal(times, 1);
  });

  it('has failed for good when it fails', () => {
    let times = 0;
    const fails = onlyOnce(() => {
      times += 1;
      throw new Error('it is not cut');
    });
    throws(fails, /it is not cut/);
    throws(fails, /it is not cut/);
    equal(times, 1);
  });
});
