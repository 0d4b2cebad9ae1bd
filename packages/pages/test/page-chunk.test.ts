import { strict as assert } from 'node:assert';
import { PageChunk as Generated } from '@ferry/api';
import fc from 'fast-check';
import { CHUNK_HEADROOM, decodePageChunk, encodePageChunk, type PageChunk } from '../src/index.js';
import { framePageChunk } from '../src/page-chunk.js';

const chunks: fc.Arbitrary<PageChunk> = fc.record(
  {
    segment: fc.oneof(fc.constant(0), fc.nat(0xffffffff)),
    firstPage: fc.oneof(fc.constant(0), fc.nat(300), fc.maxSafeNat()),
    pages: fc.nat(0xffffffff),
    encoding: fc.constantFrom('raw' as const, 'lz4' as const),
    hash: fc.bigInt(0n, 2n ** 64n - 1n),
    data: fc.uint8Array({ maxLength: 400 }).map((bytes) => Buffer.from(bytes)),
  },
  { noNullPrototype: true },
);

function generated(chunk: PageChunk): Buffer {
  const encoding = chunk.encoding === 'lz4' ? 1 : 0;
  const message = { ...chunk, firstPage: BigInt(chunk.firstPage), encoding };
  return Buffer.from(Generated.encode(message).finish());
}

describe('pages: the codec of page messages', () => {
  it('makes the very bytes that the generated one makes', () => {
    fc.assert(
      fc.property(chunks, (chunk) => {
        assert.deepEqual(encodePageChunk(chunk), generated(chunk));
      }),
    );
  });

  it('makes the same bytes in place', () => {
    fc.assert(
      fc.property(chunks, (chunk) => {
        const space = Buffer.concat([Buffer.alloc(CHUNK_HEADROOM, 7), chunk.data]);
        assert.deepEqual(framePageChunk(chunk, space, chunk.data.length), generated(chunk));
      }),
    );
  });

  it('reads what it and the generated one make', () => {
    fc.assert(
      fc.property(chunks, (chunk) => {
        assert.deepEqual(decodePageChunk(generated(chunk)), chunk);
      }),
    );
  });

  it('reads any bytes without harm: a chunk, or "damaged"', () => {
    const bytes = fc.uint8Array({ maxLength: 64 }).map((array) => Buffer.from(array));
    fc.assert(
      fc.property(bytes, (message) => {
        try {
          assert(decodePageChunk(message).data.length <= message.length);
        } catch (error) {
          assert.equal((error as { code?: string }).code, 'pages.damaged');
        }
      }),
      { numRuns: 5000 },
    );
  });

  it('refuses every message that is cut off', () => {
    const whole = generated({
      segment: 3,
      firstPage: 5,
      pages: 2,
      encoding: 'lz4',
      hash: 77n,
      data: Buffer.alloc(40, 1),
    });
    for (let length = whole.length - 40; length < whole.length; length++) {
      assert.throws(() => decodePageChunk(whole.subarray(0, length)), { code: 'pages.damaged' });
    }
  });
});
