import assert from 'node:assert/strict';
import { neededXstate } from '../src/xstate.js';

/** An area as long as a processor makes it, with these components in use. */
function area(length: number, ...components: number[]): Buffer {
  const bytes = Buffer.alloc(length, 0xee);
  const used = components.reduce((mask, component) => mask | (1n << BigInt(component)), 0n);
  bytes.writeBigUInt64LE(used, 512);
  return bytes;
}

describe('the FP state of a thread', () => {
  it('is as short as what it uses, whatever the processor has', () => {
    const avx512 = 2696;
    const amx = 11008;
    assert.equal(neededXstate(area(avx512)).length, 576);
    assert.equal(neededXstate(area(avx512, 0, 1)).length, 576);
    assert.equal(
      neededXstate(area(avx512, 0, 1, 2)).length,
      832,
      'fits a processor with AVX alone',
    );
    assert.equal(neededXstate(area(avx512, 1, 5)).length, 1152);
    assert.equal(neededXstate(area(amx, 1, 2, 7)).length, 2688, 'fits one without AMX');
    assert.equal(neededXstate(area(amx, 9)).length, 2696);
  });

  it('is left whole where it holds what has no fixed place', () => {
    assert.equal(neededXstate(area(11008, 1, 18)).length, 11008);
    // PKRU stands elsewhere where there is no AVX-512.
    assert.equal(neededXstate(area(840, 1, 2, 9)).length, 840);
    assert.equal(neededXstate(area(832, 2)).length, 832);
  });
});
