import { strict as assert } from 'node:assert';
import { type Explored, explore } from './explore.js';
import { theProtocol } from './protocol.js';
import { type Budget, noFaults } from './world.js';

/** Everything that one failure of a kind can do, at every moment and in every order of what follows. */
const singles: readonly Partial<Budget>[] = [
  {},
  { crash: 1 },
  { killAll: 1 },
  { cut: 1 },
  { drop: 1 },
  { dup: 1 },
  { clock: 1 },
  { cancel: 1 },
  { fail: 1 },
  { redis: 1 },
  { call: 1 },
  { host: 1 },
];
const STATES_MAX = 200_000;

describe('hand-over: explored exhaustively, one failure', function () {
  this.timeout(120_000);
  let states = 0;
  after(() => console.log(`      ${states} states explored`));

  for (const later of [false, true]) {
    for (const faults of singles) {
      const how = later ? ', memory follows' : '';
      it(`${JSON.stringify(faults)}${how}: never two copies, never none, always an end`, () => {
        const budget = { ...noFaults, ...faults };
        const explored = explore(theProtocol, budget, { statesMax: STATES_MAX, later });
        states += explored.states;
        holds(explored);
        assert(explored.complete, `not all of it: ${explored.states} states`);
        assert(explored.settled > 0);
      });
    }
  }
});

function holds({ finding }: Explored): void {
  if (finding === undefined) return;
  assert.fail(`${finding.what}:\n  ${finding.steps.join('\n  ')}`);
}
