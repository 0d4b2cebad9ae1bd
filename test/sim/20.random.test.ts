import { strict as assert } from 'node:assert';
import { randomOf, wander } from './explore.js';
import { theProtocol } from './protocol.js';
import type { Budget } from './world.js';

/** More of everything than can be tried in every order. */
const many: Budget = {
  ...{ crash: 4, killAll: 1, host: 0, drop: 2, dup: 2, cut: 3 },
  ...{ clock: 2, cancel: 1, fail: 2, redis: 1, call: 2 },
};
const RUNS = Number(process.env.FERRY_SIM_RUNS ?? (process.env.FERRY_LONG ? 60_000 : 1500));
/** Always the same ones in the short run, so that it fails for a change and not by chance; others each time in the long. */
const seed = Number(
  process.env.FERRY_SIM_SEED ?? (process.env.FERRY_LONG ? Date.now() % 1_000_000_000 : 1),
);

describe('hand-over: runs drawn by chance, many failures', function () {
  this.timeout(900_000);

  for (const [name, faults, later] of [
    ['processes and the network fail', many, false],
    ['the same, memory follows', many, true],
    ['hosts are started anew as well', { ...many, host: 1 }, false],
    ['hosts are started anew, memory follows', { ...many, host: 1 }, true],
  ] as const) {
    it(`${RUNS} runs: ${name}`, () => {
      for (let run = 0; run < RUNS; run += 1) {
        const own = process.env.FERRY_SIM_SEED === undefined ? seed + run : seed;
        const options = { random: randomOf(own), faulty: 120, calm: 2000, later };
        const finding = wander(theProtocol, faults, options);
        if (finding !== undefined) {
          const again = `FERRY_SIM_SEED=${own} FERRY_SIM_RUNS=1 node_modules/.bin/mocha test/sim/20.random.test.ts`;
          assert.fail(`${finding.what}; again: ${again}\n  ${finding.steps.join('\n  ')}`);
        }
      }
      console.log(`      seeds ${seed} to ${seed + RUNS - 1}`);
    });
  }
});
