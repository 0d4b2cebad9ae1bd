import { strict as assert } from 'node:assert';
import { holdsTiles, lengthInUse, xsaveComponents } from '@ferry/linux';

/** As an Intel processor with AVX-512 and AMX has them. */
const COMPONENTS = Object.assign(Array.from({ length: 32 }, () => undefined) as never[], {
  ...{ 2: { offset: 576, size: 256 }, 5: { offset: 1088, size: 64 } },
  ...{ 9: { offset: 2688, size: 8 }, 17: { offset: 2752, size: 64 } },
  ...{ 18: { offset: 2816, size: 8192 } },
});
const AREA_BYTES = 11_008;

function area(...inUse: number[]): Buffer {
  const bytes = Buffer.alloc(AREA_BYTES);
  bytes.writeBigUInt64LE(
    inUse.reduce((mask, i) => mask | (1n << BigInt(i)), 0n),
    512,
  );
  return bytes;
}

describe('linux: XSAVE areas', () => {
  it('end with the last component that is in use', () => {
    const lengths = [[], [0, 1], [1, 2], [2, 5], [2, 9], [2, 17], [2, 17, 18]].map((inUse) =>
      lengthInUse(area(...inUse), COMPONENTS),
    );
    assert.deepEqual(lengths, [576, 576, 832, 1152, 2696, 2816, AREA_BYTES]);
  });

  it('stay whole when something in them is not known, and are never made longer', () => {
    assert.equal(lengthInUse(area(2, 11), COMPONENTS), AREA_BYTES);
    assert.equal(lengthInUse(area(2, 40), COMPONENTS), AREA_BYTES);
    assert.equal(lengthInUse(area(2).subarray(0, 576), COMPONENTS), 576);
    assert.equal(lengthInUse(area(2).subarray(0, 512), COMPONENTS), 512);
  });

  it('tell whether AMX tiles hold something', () => {
    assert.equal(holdsTiles(area(2, 17, 18)), true);
    assert.equal(holdsTiles(area(2, 17)), false);
  });

  it('are laid out as the processor says', () => {
    // AVX, on every processor that Ferry has been tried on.
    assert.deepEqual(xsaveComponents()[2], { offset: 576, size: 256 });
    assert.equal(xsaveComponents()[0], undefined);
  });
});
