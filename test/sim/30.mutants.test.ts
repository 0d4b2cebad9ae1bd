import { strict as assert } from 'node:assert';
import { explore } from './explore.js';
import { mutants } from './mutants.js';
import { noFaults } from './world.js';

const STATES_MAX = 100_000;

describe('hand-over: a fault planted in the protocol is found', function () {
  this.timeout(120_000);

  for (const { name, protocol, faults, later = false } of mutants) {
    it(name, () => {
      const options = { statesMax: STATES_MAX, later };
      const { finding } = explore(protocol, { ...noFaults, ...faults }, options);
      assert(finding !== undefined, 'it was not found');
    });
  }
});
