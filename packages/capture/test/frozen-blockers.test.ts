import { strict as assert } from 'node:assert';
import { landlocked, passesByItself, refused, tilesInUse } from '../src/frozen-blockers.js';

describe('capture: what blocks once a tree stands', () => {
  it('is tried again where it passes by itself, and only there', () => {
    assert.equal(passesByItself(refused(tilesInUse, 7, 'model')), true);
    assert.equal(passesByItself(refused(landlocked, 7, 'browser')), false);
    assert.equal(passesByItself(new Error('its AMX tiles')), false);
    assert.equal(passesByItself(undefined), false);
  });

  it('names process, object, reason and remedy', () => {
    const error = refused(tilesInUse, 7, 'model');
    assert.equal(error.code, 'capture.blocked');
    assert.match(error.message, /^model \(7\), its AMX tiles: they hold what is being computed/);
    assert.match(error.remedy ?? '', /ONEDNN_MAX_CPU_ISA/);
  });
});
