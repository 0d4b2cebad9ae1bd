import { strict as assert } from 'node:assert';
import { explore } from './explore.js';
import { theProtocol } from './protocol.js';
import { type Budget, noFaults } from './world.js';

/** Two failures of any two kinds, and two of the same. */
const kinds: readonly (keyof Budget)[] = [
  ...(['crash', 'killAll', 'cut', 'drop', 'dup', 'clock'] as const),
  ...(['cancel', 'fail', 'redis', 'call', 'host'] as const),
];
const STATES_MAX = 300_000;

describe('hand-over: explored exhaustively, two failures', function () {
  this.timeout(600_000);
  let [states, whole, bounded] = [0, 0, 0];
  after(() => {
    console.log(
      `      ${states} states explored; ${whole} pairs whole, ${bounded} up to the bound`,
    );
  });

  const pairs = kinds.flatMap((first, index) =>
    kinds.slice(index).map((second) => [first, second] as const),
  );
  for (const later of [false, true]) {
    for (const [first, second] of pairs) {
      it(`${first} and ${second}${later ? ', memory follows' : ''}`, () => {
        const faults = { ...noFaults, [first]: 1 };
        faults[second] += 1;
        const explored = explore(theProtocol, faults, { statesMax: STATES_MAX, later });
        states += explored.states;
        if (explored.complete) whole += 1;
        else bounded += 1;
        const { finding } = explored;
        if (finding === undefined) return;
        assert.fail(`${finding.what}:\n  ${finding.steps.join('\n  ')}`);
      });
    }
  }
});
