import { strict as assert } from 'node:assert';
import {
  type AgentWord,
  type ControllerPhase,
  controllerStart,
  controllerStep,
} from '../src/controller-machine.js';
import {
  type DestinationEvent,
  destinationStart,
  destinationStep,
} from '../src/destination-machine.js';

const error = new Error('why');

describe('migration: what is not called failed while the source may hold the copy', () => {
  const ends: DestinationEvent[] = [
    { kind: 'lost', error },
    { kind: 'aborted', error },
    { kind: 'cancel', error },
    { kind: 'timeout', error },
  ];
  for (const event of ends) {
    it(`a destination knows that its source had not begun with it: ${event.kind}`, () => {
      const early = destinationStep(destinationStart, event).state;
      assert.equal(destinationStep(early, { kind: 'cleanDone' }).state.unbegun, true);
      const later = destinationStep({ phase: 'preparing' }, event).state;
      assert.equal(destinationStep(later, { kind: 'cleanDone' }).state.unbegun, undefined);
    });
  }

  const row = (destination: AgentWord, source: AgentWord | 'silent', phase: ControllerPhase) =>
    it(`destination ${destination}, source ${source} → ${phase}`, () => {
      const { state } = controllerStart({ begun: true, doubted: false });
      const asked = controllerStep(state, { kind: 'destinationSays', word: destination, error });
      assert.deepEqual(asked.actions, ['askSource']);
      const answer =
        source === 'silent'
          ? ({ kind: 'sourceSilent', error } as const)
          : ({ kind: 'sourceSays', word: source } as const);
      assert.equal(controllerStep(asked.state, answer).state.phase, phase);
    });

  row('refused', 'committed', 'inDoubt');
  row('refused', 'silent', 'inDoubt');
  row('refused', 'running', 'callingOff');
  row('refused', 'unknown', 'failed');
  row('refused', 'failed', 'failed');
  row('refused', 'succeeded', 'succeeded');
  row('unknown', 'committed', 'inDoubt');
  row('in-doubt', 'failed', 'inDoubt');

  it('what a destination has failed with that its source had begun with is the end', () => {
    const { state } = controllerStart({ begun: true, doubted: false });
    const step = controllerStep(state, { kind: 'destinationSays', word: 'failed', error });
    assert.equal(step.state.phase, 'failed');
  });
});
