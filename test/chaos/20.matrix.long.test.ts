import { strict as assert } from 'node:assert';
import { faultPlaces } from '../../packages/migration/src/fault-points.js';
import { Matrix } from './matrix.js';
import { harms } from './support.js';

/** How many are tried at once. */
const ARENAS = Number(process.env.FERRY_CHAOS_ARENAS ?? 8);
/** Only these, by expressions: FERRY_CHAOS_HARM="kill -9 of the source" FERRY_CHAOS_POINT=commit. */
const onlyHarm = new RegExp(process.env.FERRY_CHAOS_HARM ?? '');
const onlyPoint = new RegExp(process.env.FERRY_CHAOS_POINT ?? '');

describe('chaos: every failure at every point', function () {
  this.timeout(3_600_000);
  const matrix = new Matrix();
  before(() => matrix.start(ARENAS));
  after(async () => assert.deepEqual(await matrix.end(), []));

  for (const { path, point } of faultPlaces) {
    for (const harm of harms) {
      const title = `${harm.name} at ${point}${path === 'done' ? '' : `, ${path}`}`;
      if (!onlyHarm.test(harm.name) || !onlyPoint.test(title)) continue;
      const verdict = matrix.add({ harm, path, point });
      it(title, async () => {
        assert((await verdict).reached, 'the migration did not come there');
      });
    }
  }
});
