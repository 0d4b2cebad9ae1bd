import { strict as assert } from 'node:assert';
import {
  type DestinationEvent,
  type DestinationPhase,
  type DestinationState,
  destinationStart,
  destinationStep,
  isCancellable,
  isDestinationEnd,
} from '../src/destination-machine.js';
import {
  isCommitted,
  isSourceEnd,
  type SourceEvent,
  type SourcePhase,
  type SourceState,
  sourceStart,
  sourceStep,
} from '../src/source-machine.js';

const error = new Error('why');

const sourceEvents: SourceEvent[] = [
  { kind: 'describeDone' },
  { kind: 'freezeDone' },
  { kind: 'commitDone' },
  { kind: 'destroyDone' },
  { kind: 'thawDone' },
  { kind: 'failed', error },
  { kind: 'freezeAsked' },
  { kind: 'ready' },
  { kind: 'resumed' },
  { kind: 'abortAsked', error },
  { kind: 'lost', error },
  { kind: 'reopened' },
  { kind: 'cancel', error },
  { kind: 'timeout', error },
];

/** Every state that the machine can get into, by trying every event in each. */
function reachable<S extends object, E>(start: S, events: readonly E[], step: (s: S, e: E) => S) {
  const key = (state: S) => JSON.stringify({ ...state, error: 'error' in state });
  const seen = new Map<string, S>([[key(start), start]]);
  for (const state of seen.values()) {
    for (const event of events) {
      const next = step(state, event);
      if (!seen.has(key(next))) seen.set(key(next), next);
    }
  }
  return [...seen.values()];
}

const sourceStates = reachable<SourceState, SourceEvent>(
  sourceStart.state,
  sourceEvents,
  (state, event) => sourceStep(state, event).state,
);

describe('migration: the source', () => {
  const row = (from: SourcePhase, event: SourceEvent, to: SourcePhase, actions: string[]) =>
    it(`${from} + ${event.kind} → ${to} [${actions.join(', ')}]`, () => {
      const step = sourceStep({ phase: from, connected: true }, event);
      assert.equal(step.state.phase, to);
      assert.deepEqual(step.actions, actions);
    });

  row('describing', { kind: 'describeDone' }, 'described', []);
  row('described', { kind: 'freezeAsked' }, 'freezing', ['freeze']);
  row('freezing', { kind: 'freezeDone' }, 'frozen', []);
  row('frozen', { kind: 'ready' }, 'committing', ['commit']);
  row('committing', { kind: 'commitDone' }, 'committed', ['grant']);
  row('committed', { kind: 'resumed' }, 'destroying', ['destroy']);
  row('destroying', { kind: 'destroyDone' }, 'done', ['tellDone']);
  row('frozen', { kind: 'lost', error }, 'aborting', ['thaw']);
  row('frozen', { kind: 'cancel', error }, 'aborting', ['thaw']);
  row('frozen', { kind: 'timeout', error }, 'aborting', ['thaw']);
  row('frozen', { kind: 'abortAsked', error }, 'aborting', ['thaw']);
  row('freezing', { kind: 'failed', error }, 'aborting', ['thaw']);
  row('aborting', { kind: 'thawDone' }, 'aborted', ['tellAbort']);
  row('committing', { kind: 'cancel', error }, 'committing', []);
  row('committing', { kind: 'lost', error }, 'committing', []);
  row('committing', { kind: 'failed', error }, 'aborting', ['thaw']);
  row('committed', { kind: 'lost', error }, 'committed', []);
  row('committed', { kind: 'cancel', error }, 'committed', []);
  row('committed', { kind: 'timeout', error }, 'committed', []);
  row('committed', { kind: 'reopened' }, 'committed', ['grant']);
  row('done', { kind: 'reopened' }, 'done', ['tellDone']);
  row('aborted', { kind: 'reopened' }, 'aborted', ['tellAbort']);
  // Out of order: a destination that says ready before there is anything to be ready with.
  row('described', { kind: 'ready' }, 'aborting', ['thaw']);
  row('described', { kind: 'resumed' }, 'aborting', ['thaw']);
  row('frozen', { kind: 'freezeAsked' }, 'aborting', ['thaw']);

  it('never thaws once it is committed, nor goes back', () => {
    const committed = sourceStates.filter(({ phase }) => isCommitted(phase));
    assert.equal(committed.length >= 4, true);
    for (const state of committed) {
      for (const event of sourceEvents) {
        const step = sourceStep(state, event);
        assert(isCommitted(step.state.phase), `${state.phase} + ${event.kind}`);
        assert(!step.actions.includes('thaw'), `${state.phase} + ${event.kind}`);
      }
    }
  });

  it('grants only what is committed, and destroys only what runs elsewhere', () => {
    for (const state of sourceStates) {
      for (const event of sourceEvents) {
        const step = sourceStep(state, event);
        if (step.actions.includes('grant')) assert(isCommitted(step.state.phase));
        if (step.actions.includes('destroy')) assert.equal(event.kind, 'resumed');
        if (step.actions.includes('destroy')) assert(isCommitted(state.phase));
      }
    }
  });

  it('thaws after any failure, loss, cancellation or time-out before the decision', () => {
    const before: SourcePhase[] = ['describing', 'described', 'freezing', 'frozen'];
    for (const phase of before) {
      for (const kind of ['failed', 'lost', 'cancel', 'timeout', 'abortAsked'] as const) {
        const step = sourceStep({ phase, connected: true }, { kind, error });
        assert.deepEqual(step.actions, ['thaw']);
      }
    }
  });

  it('stays where it has ended', () => {
    for (const state of sourceStates.filter(({ phase }) => isSourceEnd(phase))) {
      for (const event of sourceEvents) {
        assert.equal(sourceStep(state, event).state.phase, state.phase);
      }
    }
  });
});

const destinationEvents: DestinationEvent[] = [
  { kind: 'prepareDone' },
  { kind: 'restoreDone' },
  { kind: 'resumeDone' },
  { kind: 'cleanDone' },
  { kind: 'failed', error },
  { kind: 'described' },
  { kind: 'imageReceived' },
  { kind: 'granted' },
  { kind: 'done' },
  { kind: 'aborted', error },
  { kind: 'lost', error },
  { kind: 'unreachable', error },
  { kind: 'reopened' },
  { kind: 'cancel', error },
  { kind: 'timeout', error },
];

const destinationStates = reachable<DestinationState, DestinationEvent>(
  destinationStart,
  destinationEvents,
  (state, event) => destinationStep(state, event).state,
);

describe('migration: the destination', () => {
  const row = (
    from: DestinationPhase,
    event: DestinationEvent,
    to: DestinationPhase,
    actions: string[],
  ) =>
    it(`${from} + ${event.kind} → ${to} [${actions.join(', ')}]`, () => {
      const step = destinationStep({ phase: from }, event);
      assert.equal(step.state.phase, to);
      assert.deepEqual(step.actions, actions);
    });

  row('opening', { kind: 'described' }, 'preparing', ['prepare']);
  row('preparing', { kind: 'prepareDone' }, 'freezing', ['askFreeze']);
  row('freezing', { kind: 'imageReceived' }, 'restoring', ['restore']);
  row('restoring', { kind: 'restoreDone' }, 'asking', ['tellReady']);
  row('asking', { kind: 'granted' }, 'resuming', ['resume']);
  row('resuming', { kind: 'resumeDone' }, 'reporting', ['tellResumed']);
  row('reporting', { kind: 'done' }, 'succeeded', []);
  row('preparing', { kind: 'failed', error }, 'cleaning', ['tellAbort', 'clean']);
  row('restoring', { kind: 'cancel', error }, 'cleaning', ['tellAbort', 'clean']);
  row('restoring', { kind: 'aborted', error }, 'cleaning', ['clean']);
  row('restoring', { kind: 'lost', error }, 'cleaning', ['clean']);
  row('restoring', { kind: 'granted' }, 'cleaning', ['tellAbort', 'clean']);
  row('cleaning', { kind: 'cleanDone' }, 'failed', []);
  row('asking', { kind: 'lost', error }, 'asking', ['reopen']);
  row('asking', { kind: 'cancel', error }, 'asking', ['tellAbort']);
  row('asking', { kind: 'timeout', error }, 'asking', ['tellAbort']);
  row('asking', { kind: 'aborted', error }, 'cleaning', ['clean']);
  row('asking', { kind: 'unreachable', error }, 'inDoubt', []);
  row('asking', { kind: 'failed', error }, 'asking', ['tellAbort']);
  row('resuming', { kind: 'lost', error }, 'resuming', []);
  row('resuming', { kind: 'cancel', error }, 'resuming', []);
  row('reporting', { kind: 'lost', error }, 'reporting', ['reopen']);
  row('reporting', { kind: 'granted' }, 'reporting', ['tellResumed']);
  row('reporting', { kind: 'unreachable', error }, 'succeeded', []);

  it('is in doubt when its own copy broke and the source had decided', () => {
    const broken = destinationStep({ phase: 'asking' }, { kind: 'failed', error }).state;
    assert.equal(destinationStep(broken, { kind: 'granted' }).state.phase, 'inDoubt');
    assert.equal(destinationStep(broken, { kind: 'aborted', error }).state.phase, 'cleaning');
  });

  it('resumes only on a grant it asked for', () => {
    for (const state of destinationStates) {
      for (const event of destinationEvents) {
        if (!destinationStep(state, event).actions.includes('resume')) continue;
        assert.equal(state.phase, 'asking');
        assert.equal(event.kind, 'granted');
      }
    }
  });

  it('removes nothing from where the source may have decided, but on its word', () => {
    for (const state of destinationStates) {
      for (const event of destinationEvents) {
        if (!destinationStep(state, event).actions.includes('clean')) continue;
        if (!isCancellable(state.phase)) assert.equal(event.kind, 'aborted');
      }
    }
  });

  it('stays where it has ended', () => {
    for (const state of destinationStates.filter(({ phase }) => isDestinationEnd(phase))) {
      for (const event of destinationEvents) {
        assert.equal(destinationStep(state, event).state.phase, state.phase);
      }
    }
  });
});
