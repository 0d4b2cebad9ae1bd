import { strict as assert } from 'node:assert';
import { Courtesy, lossBetween, type ProcessorUse, processorUse } from '../src/courtesy.js';

/** A container of which a share is lost in each stretch, and a clock. */
function host(lossAt: (courtesy: Courtesy) => number, { usualLoss = 0, wantedMs = 40 } = {}) {
  let [now, ranNs, waitedNs] = [0, 0, 0];
  const use = (): ProcessorUse => ({ ranNs, waitedNs });
  const courtesy = new Courtesy({ use, usualLoss, now: () => now });
  const stretch = (): number => {
    const loss = lossAt(courtesy);
    now += 51;
    ranNs += wantedMs * 1e6 * (1 - loss);
    waitedNs += wantedMs * 1e6 * loss;
    return courtesy.restMs();
  };
  return { courtesy, stretch };
}

describe('migration: courtesy of the copying', () => {
  it('leaves a container alone that has what it wants', () => {
    const { courtesy, stretch } = host(() => 0.05);
    for (let i = 0; i < 50; i += 1) assert.equal(stretch(), 0);
    assert.equal(courtesy.share, 1);
  });

  it('gives way until the container loses little, and takes the rest', () => {
    // The faster the copying, the more the container loses.
    const { courtesy, stretch } = host(({ share }) => 0.3 * share);
    const shares: number[] = [];
    for (let i = 0; i < 100; i += 1) {
      stretch();
      shares.push(courtesy.share);
    }
    const settled = shares.slice(20);
    assert(Math.max(...settled) < 0.45, `up to ${Math.max(...settled)}`);
    assert(Math.min(...settled) > 0.2, `down to ${Math.min(...settled)}`);
  });

  it('does not stop, and does not answer for what others take', () => {
    const { courtesy, stretch } = host(() => 0.9);
    const shares: number[] = [];
    for (let i = 0; i < 200; i += 1) {
      assert(stretch() <= 50 * 4);
      shares.push(courtesy.share);
    }
    assert.equal(Math.min(...shares), 0.2);
    assert(shares.filter((share) => share === 1).length > 100);
  });

  it('counts from what the container lost before', () => {
    const { courtesy, stretch } = host(({ share }) => 0.5 + 0.05 * share, { usualLoss: 0.5 });
    for (let i = 0; i < 20; i += 1) stretch();
    assert.equal(courtesy.share, 1);
  });

  it('gives way again when others have gone', () => {
    let others = 0.8;
    const { courtesy, stretch } = host(({ share }) => others + 0.15 * share);
    const mean = (stretches: number): number => {
      let sum = 0;
      for (let i = 0; i < stretches; i += 1) {
        stretch();
        sum += courtesy.share;
      }
      return sum / stretches;
    };
    const beside = mean(400);
    assert(beside > 0.35, `${beside}`);
    others = 0;
    mean(2000);
    const alone = mean(400);
    assert(alone < 0.85 && alone > 0.35, `${alone}`);
  });

  it('goes on where little is wanted', () => {
    const { courtesy, stretch } = host(() => 0.9, { wantedMs: 1 });
    for (let i = 0; i < 20; i += 1) stretch();
    assert.equal(courtesy.share, 1);
  });

  it('reads what the kernel says of threads', () => {
    const before = processorUse([process.pid]);
    const end = performance.now() + 20;
    while (performance.now() < end);
    const after = processorUse([process.pid]);
    assert(after.ranNs > before.ranNs, 'this process has run');
    const loss = lossBetween(before, after);
    assert(loss >= 0 && loss < 1);
    assert.deepEqual(processorUse([2 ** 22 + 1]), { ranNs: 0, waitedNs: 0 });
  });
});
