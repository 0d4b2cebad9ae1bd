import { strict as assert } from 'node:assert';
import { freeBuffer } from '../src/index.js';

describe('linux: memory of buffers', () => {
  it('is given back at once, and no view of it holds anything then', () => {
    const length = 64 * 1024 * 1024;
    const buffer = Buffer.allocUnsafe(length).fill(1);
    const view = buffer.subarray(100, 200);
    // Garbage of other tests that is collected in between can only make the difference larger.
    const held = process.memoryUsage().arrayBuffers;
    freeBuffer(buffer);
    assert(process.memoryUsage().arrayBuffers <= held - length);
    assert.deepEqual([buffer.length, view.length], [0, 0]);
    freeBuffer(buffer);
  });

  it('of small buffers, which share it with others, is left alone', () => {
    const [mine, other] = [Buffer.from('one'), Buffer.from('another')];
    freeBuffer(mine);
    assert.deepEqual([mine.toString(), other.toString()], ['one', 'another']);
  });
});
