import { strict as assert } from 'node:assert';
import { Pacer } from '@ferry/migration';
import { isUnhurried, lengthOf, paced } from '../src/paced.js';

async function* buffers(count: number, bytes: number) {
  for (let i = 0; i < count; i++) yield Buffer.alloc(bytes);
}

async function timed(items: AsyncIterable<Buffer>): Promise<{ count: number; ms: number }> {
  const before = performance.now();
  let count = 0;
  for await (const _ of items) count += 1;
  return { count, ms: performance.now() - before };
}

const now = () => performance.now();
const { signal } = new AbortController();

describe('agent: the share that all migrations have of a host', () => {
  it('is kept by two that go on at once, together', async () => {
    const share = { pacer: new Pacer(10 << 20, now), hurry: () => false };
    const both = await Promise.all([
      timed(paced(buffers(4, 256 << 10), lengthOf, share, signal)),
      timed(paced(buffers(4, 256 << 10), lengthOf, share, signal)),
    ]);
    // 2 MiB at 10 MiB/s.
    assert(Math.max(...both.map(({ ms }) => ms)) >= 195, JSON.stringify(both));
    assert.deepEqual(
      both.map(({ count }) => count),
      [4, 4],
    );
  });

  it('holds nothing back while a container stands, nor where there is none', async () => {
    const none = { pacer: new Pacer(0, now), hurry: () => false };
    const standing = { pacer: new Pacer(1, now), hurry: () => true };
    for (const share of [none, standing]) {
      const { count } = await timed(paced(buffers(100, 1 << 20), lengthOf, share, signal));
      assert.equal(count, 100);
    }
  });

  it('ends at once when the migration does', async () => {
    const stop = new AbortController();
    const share = { pacer: new Pacer(1, now), hurry: () => false };
    const taking = timed(paced(buffers(2, 1 << 20), lengthOf, share, stop.signal));
    setImmediate(() => stop.abort());
    await assert.rejects(taking, { name: 'AbortError' });
  });

  it('is of what is sent while the container runs', () => {
    assert(isUnhurried('upper') && isUnhurried('log') && isUnhurried('upper-changes'));
    assert(isUnhurried('mounts-copy') && isUnhurried('mounts-changes'));
    assert(!isUnhurried('mounts-rest'));
    assert(!isUnhurried('upper-rest') && !isUnhurried('log-rest') && !isUnhurried('mounts'));
  });
});
