import { strict as assert } from 'node:assert';
import type { FaultPath, FaultPoint } from '../../packages/migration/src/fault-points.js';
import { Matrix } from './matrix.js';
import { type Harm, harms } from './support.js';

/** Where it hurts most, with what hurts most there: the whole is in 20.matrix.long.test.ts. */
const sample: readonly (readonly [harm: string, point: FaultPoint, path?: FaultPath])[] = [
  ['kill -9 of the source', 'source.after.commit'],
  ['kill -9 of the destination', 'source.after.grant'],
  ['kill -9 of the destination', 'destination.after.recordGrant'],
  ['kill -9 of the source', 'destination.after.resume'],
  ['kill -9 of the source', 'source.before.recordReturn', 'given back'],
  ['kill -9 of Redis', 'source.before.freeze'],
  ['the agents cut off from each other', 'source.before.commit'],
  ['kill -9 of the source', 'destination.before.fetch', 'memory follows'],
  ['the disk of the destination is full', 'destination.before.recordWhole', 'memory follows'],
];
const ARENAS = 2;

describe('chaos: a sample of all failures', function () {
  this.timeout(300_000);
  const matrix = new Matrix();
  before(() => matrix.start(ARENAS));
  after(async () => assert.deepEqual(await matrix.end(), []));

  for (const [name, point, path = 'done'] of sample) {
    const harm = harms.find((each) => each.name === name) as Harm;
    const verdict = matrix.add({ harm, path, point });
    it(`${name} at ${point}${path === 'done' ? '' : `, ${path}`}`, async () => {
      assert((await verdict).reached, 'the migration did not come there');
    });
  }
});
