import assert from 'node:assert/strict';
import { Loader } from '../src/loader.js';

describe('a restorer that has ended', () => {
  it('is what whoever speaks to it hears of, also before its end was noticed', async () => {
    const loader = Loader.create(Buffer.from('#!/bin/true\n'));
    loader.closeChildEnds();
    try {
      await assert.rejects(loader.pagesWritten(), { code: 'restore.failed' });
      await assert.rejects(loader.go(), { code: 'restore.failed' });
      assert.equal(loader.ran, false);
    } finally {
      loader.close();
    }
  });
});
