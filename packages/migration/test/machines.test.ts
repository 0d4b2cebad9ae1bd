import { strict as assert } from 'node:assert';
import {
  type DestinationEvent,
  type DestinationPhase,
  type DestinationState,
  destinationRestart,
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
  sourceRestart,
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
  { kind: 'returnDone' },
  { kind: 'failed', error },
  { kind: 'trackAsked' },
  { kind: 'roundAsked' },
  { kind: 'throttleAsked' },
  { kind: 'freezeAsked' },
  { kind: 'wholeAsked' },
  { kind: 'ready' },
  { kind: 'resumed' },
  { kind: 'abortAsked', error },
  { kind: 'abandoned', error },
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
  row('described', { kind: 'trackAsked' }, 'copying', ['track']);
  row('described', { kind: 'roundAsked' }, 'aborting', ['thaw']);
  row('copying', { kind: 'roundAsked' }, 'copying', ['round']);
  row('copying', { kind: 'throttleAsked' }, 'copying', ['throttle']);
  row('described', { kind: 'throttleAsked' }, 'aborting', ['thaw']);
  row('copying', { kind: 'trackAsked' }, 'aborting', ['thaw']);
  row('copying', { kind: 'freezeAsked' }, 'freezing', ['freeze']);
  row('copying', { kind: 'cancel', error }, 'aborting', ['thaw']);
  row('copying', { kind: 'lost', error }, 'aborting', ['thaw']);
  row('freezing', { kind: 'freezeDone' }, 'frozen', []);
  row('frozen', { kind: 'wholeAsked' }, 'frozen', ['whole']);
  row('copying', { kind: 'wholeAsked' }, 'aborting', ['thaw']);
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
  row('committed', { kind: 'abandoned', error }, 'returning', ['recordReturn']);
  row('returning', { kind: 'returnDone' }, 'reviving', ['thaw']);
  row('returning', { kind: 'failed', error }, 'returning', ['recordReturn']);
  row('destroying', { kind: 'failed', error }, 'destroying', ['destroy']);
  row('returning', { kind: 'reopened' }, 'returning', []);
  row('reviving', { kind: 'thawDone' }, 'returned', ['tellAbort']);
  // A tracer that ends while it lets go; what cannot be thawed now.
  row('reviving', { kind: 'failed', error }, 'reviving', []);
  row('aborting', { kind: 'failed', error }, 'aborting', []);
  row('reviving', { kind: 'failed', error, during: 'thaw' }, 'reviving', ['thaw']);
  row('aborting', { kind: 'failed', error, during: 'thaw' }, 'aborted', ['tellAbort']);
  row('returned', { kind: 'reopened' }, 'returned', ['tellAbort']);
  row('destroying', { kind: 'abandoned', error }, 'destroying', []);
  row('frozen', { kind: 'abandoned', error }, 'aborting', ['thaw']);
  row('aborted', { kind: 'reopened' }, 'aborted', ['tellAbort']);
  // Out of order: a destination that says ready before there is anything to be ready with.
  row('described', { kind: 'ready' }, 'aborting', ['thaw']);
  row('described', { kind: 'resumed' }, 'aborting', ['thaw']);
  row('frozen', { kind: 'freezeAsked' }, 'aborting', ['thaw']);

  it('leaves what is committed only when the destination ran it, or gave it back', () => {
    const committed = sourceStates.filter(({ phase }) => isCommitted(phase));
    assert.equal(committed.length >= 5, true);
    for (const state of committed) {
      for (const event of sourceEvents) {
        const step = sourceStep(state, event);
        const text = `${state.phase} + ${event.kind}`;
        const thaws = step.actions.includes('thaw');
        // The thaw follows what makes the return durable, and that follows the destination's word alone.
        assert.equal(thaws, state.phase === 'returning' && event.kind === 'returnDone', text);
        assert.equal(isCommitted(step.state.phase), !thaws, text);
        if (!step.actions.includes('recordReturn') || state.phase === 'returning') continue;
        assert.deepEqual([state.phase, event.kind], ['committed', 'abandoned']);
      }
    }
  });

  it('goes on where the journal says', () => {
    assert.deepEqual(sourceRestart('committed').actions, []);
    assert.equal(sourceRestart('committed').state.phase, 'committed');
    assert.deepEqual(sourceRestart('returned').actions, ['thaw']);
  });

  it('grants only what is committed, and destroys only what runs elsewhere', () => {
    for (const state of sourceStates) {
      for (const event of sourceEvents) {
        const step = sourceStep(state, event);
        if (step.actions.includes('grant')) assert(isCommitted(step.state.phase));
        const again = state.phase === 'destroying' && event.kind === 'failed';
        if (step.actions.includes('destroy')) assert(again || event.kind === 'resumed');
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
  { kind: 'copyDone' },
  { kind: 'restoreDone' },
  { kind: 'grantRecorded' },
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

  row('opening', { kind: 'described' }, 'preparing', ['record', 'prepare']);
  row('preparing', { kind: 'prepareDone' }, 'copying', ['copy']);
  row('copying', { kind: 'copyDone' }, 'freezing', ['askFreeze']);
  row('copying', { kind: 'cancel', error }, 'cleaning', ['tellAbort', 'clean']);
  row('freezing', { kind: 'imageReceived' }, 'restoring', ['restore']);
  row('restoring', { kind: 'restoreDone' }, 'asking', ['tellReady']);
  row('asking', { kind: 'granted' }, 'accepting', ['recordGrant']);
  row('accepting', { kind: 'grantRecorded' }, 'resuming', ['resume']);
  row('accepting', { kind: 'failed', error }, 'abandoning', ['clean']);
  row('resuming', { kind: 'resumeDone' }, 'reporting', ['tellResumed', 'reopen', 'complete']);
  row('resuming', { kind: 'failed', error }, 'abandoning', ['clean']);
  row('reporting', { kind: 'done' }, 'succeeded', ['recordEnd']);
  row('abandoning', { kind: 'cleanDone' }, 'givingBack', ['tellAbandoned', 'reopen']);
  row('abandoning', { kind: 'granted' }, 'abandoning', []);
  row('abandoning', { kind: 'failed', error }, 'abandoning', ['clean']);
  row('givingBack', { kind: 'granted' }, 'givingBack', ['tellAbandoned']);
  row('givingBack', { kind: 'lost', error }, 'givingBack', ['reopen']);
  row('givingBack', { kind: 'aborted', error }, 'failed', ['recordEnd']);
  row('inDoubt', { kind: 'granted' }, 'inDoubt', []);
  row('inDoubt', { kind: 'lost', error }, 'inDoubt', ['reopen']);
  row('inDoubt', { kind: 'done' }, 'succeeded', ['recordEnd']);
  row('inDoubt', { kind: 'aborted', error }, 'cleaning', ['clean']);
  row('preparing', { kind: 'failed', error }, 'cleaning', ['tellAbort', 'clean']);
  row('restoring', { kind: 'cancel', error }, 'cleaning', ['tellAbort', 'clean']);
  row('restoring', { kind: 'aborted', error }, 'cleaning', ['clean']);
  row('restoring', { kind: 'lost', error }, 'cleaning', ['clean']);
  row('restoring', { kind: 'granted' }, 'cleaning', ['tellAbort', 'clean']);
  row('cleaning', { kind: 'cleanDone' }, 'failed', ['recordEnd']);
  row('asking', { kind: 'lost', error }, 'asking', ['reopen']);
  row('asking', { kind: 'cancel', error }, 'asking', ['tellAbort']);
  row('asking', { kind: 'timeout', error }, 'asking', ['tellAbort']);
  row('asking', { kind: 'aborted', error }, 'cleaning', ['clean']);
  row('asking', { kind: 'unreachable', error }, 'asking', ['reopen']);
  row('asking', { kind: 'failed', error }, 'abandoning', ['clean']);
  row('resuming', { kind: 'lost', error }, 'resuming', []);
  row('resuming', { kind: 'cancel', error }, 'resuming', []);
  row('reporting', { kind: 'lost', error }, 'reporting', ['reopen']);
  row('reporting', { kind: 'granted' }, 'reporting', ['tellResumed']);
  row('reporting', { kind: 'unreachable', error }, 'reporting', ['reopen']);
  row('reporting', { kind: 'aborted', error }, 'succeeded', ['recordEnd']);

  it('is silent while its source is, and no longer', () => {
    for (const phase of ['asking', 'givingBack', 'reporting'] as const) {
      const silent = destinationStep({ phase }, { kind: 'unreachable', error }).state;
      assert.deepEqual([silent.phase, silent.silent], [phase, true]);
      assert(!destinationStep(silent, { kind: 'reopened' }).state.silent);
    }
  });

  it('resumes only what it asked for, was granted and has written down', () => {
    for (const state of destinationStates) {
      for (const event of destinationEvents) {
        const { actions } = destinationStep(state, event);
        const text = `${state.phase} + ${event.kind}`;
        if (actions.includes('resume')) assert.equal(text, 'accepting + grantRecorded');
        if (actions.includes('recordGrant')) assert.equal(text, 'asking + granted');
      }
    }
  });

  it('removes what the source may have granted on its word, or gives it back then', () => {
    for (const state of destinationStates) {
      for (const event of destinationEvents) {
        const step = destinationStep(state, event);
        if (!step.actions.includes('clean') || isCancellable(state.phase)) continue;
        if (state.phase === 'cleaning') continue;
        assert(event.kind === 'aborted' || step.state.phase === 'abandoning');
      }
    }
  });

  it('never removes what may have run', () => {
    for (const state of destinationStates.filter(({ phase }) => phase === 'reporting')) {
      for (const event of destinationEvents) {
        assert(!destinationStep(state, event).actions.includes('clean'));
      }
    }
  });

  it('tells the source of the end only when no memory is missing', () => {
    const running = destinationStep({ phase: 'resuming' }, { kind: 'resumeDone', later: true });
    assert.deepEqual(running.state, { phase: 'fetching' });
    assert(running.actions.includes('tellRunning') && !running.actions.includes('tellResumed'));
    for (const event of destinationEvents) {
      const { state, actions } = destinationStep({ phase: 'fetching' }, event);
      assert(!actions.includes('clean'));
      assert.equal(actions.includes('tellResumed'), event.kind === 'fetchDone');
      assert.equal(state.phase === 'reporting', event.kind === 'fetchDone');
    }
  });

  it('goes on where the journal says, with what it finds', () => {
    const after = (...found: Parameters<typeof destinationRestart>) =>
      destinationRestart(...found).state.phase;
    for (const copy of ['none', 'ran', 'lost'] as const) {
      assert.equal(after('receiving', copy), 'abandoning');
    }
    assert.equal(after('resumed', 'none'), 'reporting');
    assert.equal(after('resumed', 'ran'), 'reporting');
    // It went with its host: the source's, frozen, may be the last one, and what becomes of it is the operator's to say.
    assert.equal(after('resumed', 'lost'), 'inDoubt');
    // Memory is to come; or whoever looked after that is gone.
    assert.equal(after('fetching', 'fetching'), 'fetching');
    assert.equal(after('fetching', 'ran'), 'inDoubt');
    assert.equal(after('fetching', 'lost'), 'inDoubt');
    assert.equal(after('fetching', 'none'), 'abandoning');
    assert.equal(after('granted', 'none'), 'abandoning');
    assert.equal(after('granted', 'ran'), 'reporting');
    assert.equal(after('granted', 'lost'), 'inDoubt');
  });

  it('stays where it has ended', () => {
    for (const state of destinationStates.filter(({ phase }) => isDestinationEnd(phase))) {
      for (const event of destinationEvents) {
        assert.equal(destinationStep(state, event).state.phase, state.phase);
      }
    }
  });
});
