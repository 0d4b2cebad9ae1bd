import type { DestinationStep } from '../../packages/migration/src/destination-machine.js';
import type { SourceStep } from '../../packages/migration/src/source-machine.js';
import { type Protocol, theProtocol as right } from './protocol.js';
import type { Budget } from './world.js';

/** A protocol with one planted fault, and with what has to go wrong for it to show. */
export interface Mutant {
  readonly name: string;
  readonly protocol: Protocol;
  readonly faults: Partial<Budget>;
  /** It shows when the container runs before all of its memory is there. */
  readonly later?: boolean;
}

function source(change: (...asked: Parameters<Protocol['sourceStep']>) => SourceStep | undefined) {
  const sourceStep: Protocol['sourceStep'] = (state, event) =>
    change(state, event) ?? right.sourceStep(state, event);
  return { ...right, sourceStep };
}

function destination(
  change: (...asked: Parameters<Protocol['destinationStep']>) => DestinationStep | undefined,
) {
  const destinationStep: Protocol['destinationStep'] = (state, event) =>
    change(state, event) ?? right.destinationStep(state, event);
  return { ...right, destinationStep };
}

export const mutants: readonly Mutant[] = [
  {
    name: 'the destination is done with its source before it has all memory',
    protocol: destination((state, { kind }) =>
      state.phase === 'resuming' && kind === 'resumeDone'
        ? { state: { phase: 'reporting' }, actions: ['tellResumed', 'reopen', 'complete'] }
        : undefined,
    ),
    faults: {},
    later: true,
  },
  {
    name: 'the source destroys its copy when it hears that the other one runs',
    protocol: source((state, { kind }) =>
      state.phase === 'committed' && kind === 'running'
        ? { state: { ...state, phase: 'destroying' }, actions: ['destroy'] }
        : undefined,
    ),
    faults: {},
    later: true,
  },
  {
    name: 'an agent that starts again forgets that memory is to come',
    protocol: {
      ...right,
      destinationRestart: (decision, copy) =>
        right.destinationRestart(
          decision === 'fetching' ? 'resumed' : decision,
          copy === 'fetching' ? 'ran' : copy,
        ),
    },
    faults: { crash: 1 },
    later: true,
  },
  {
    name: 'a destination that has run gives the container back when its memory does not come',
    protocol: destination((state, { kind }) =>
      state.phase === 'fetching' && kind === 'lost'
        ? { state: { phase: 'abandoning', error: 'x' }, actions: ['clean'] }
        : undefined,
    ),
    faults: { cut: 1 },
    later: true,
  },
  {
    name: 'the source thaws when it is cancelled after COMMIT',
    protocol: source((state, { kind }) =>
      state.phase === 'committed' && kind === 'cancel'
        ? { state: { ...state, phase: 'aborting' }, actions: ['thaw'] }
        : undefined,
    ),
    faults: { cancel: 1 },
  },
  {
    name: 'the source thaws when it loses the destination after COMMIT',
    protocol: source((state, { kind }) =>
      state.phase === 'committed' && kind === 'lost'
        ? { state: { ...state, phase: 'aborting', connected: false }, actions: ['thaw'] }
        : undefined,
    ),
    faults: { cut: 1 },
  },
  {
    name: 'the source grants before its journal has it',
    protocol: source((state, { kind }) =>
      state.phase === 'frozen' && kind === 'ready'
        ? { state: { ...state, phase: 'committing' }, actions: ['grant', 'commit'] }
        : undefined,
    ),
    faults: { crash: 1 },
  },
  {
    name: 'the source destroys its copy with the grant',
    protocol: source((state, { kind }) =>
      state.phase === 'committing' && kind === 'commitDone'
        ? { state: { ...state, phase: 'destroying' }, actions: ['grant', 'destroy'] }
        : undefined,
    ),
    faults: {},
  },
  {
    name: 'the source thaws what came back before it has written that down',
    protocol: source((state, { kind }) =>
      state.phase === 'committed' && kind === 'abandoned'
        ? { state: { ...state, phase: 'reviving' }, actions: ['thaw'] }
        : undefined,
    ),
    faults: { fail: 1 },
  },
  {
    name: 'the source forgets its journal when it starts again',
    protocol: {
      ...right,
      sourceRestart: () => ({
        state: { phase: 'reviving', connected: false },
        actions: ['thaw'],
      }),
    },
    faults: { crash: 1 },
  },
  {
    name: 'the destination resumes without a grant',
    protocol: destination((state, { kind }) =>
      state.phase === 'restoring' && kind === 'restoreDone'
        ? { state: { phase: 'resuming' }, actions: ['resume'] }
        : undefined,
    ),
    faults: { cut: 1 },
  },
  {
    name: 'the destination resumes before it has written the grant down',
    protocol: destination((state, { kind }) =>
      state.phase === 'asking' && kind === 'granted'
        ? { state: { phase: 'resuming' }, actions: ['resume', 'recordGrant'] }
        : undefined,
    ),
    faults: { crash: 1 },
  },
  {
    name: 'the destination takes a broken stream for an abort',
    protocol: destination((state, { kind }) =>
      state.phase === 'asking' && kind === 'lost'
        ? { state: { phase: 'cleaning' }, actions: ['clean'] }
        : undefined,
    ),
    faults: { cut: 1 },
  },
  {
    name: 'the destination ends it by itself when it is cancelled after READY',
    protocol: destination((state, { kind }) =>
      state.phase === 'asking' && kind === 'cancel'
        ? { state: { phase: 'cleaning' }, actions: ['tellAbort', 'clean'] }
        : undefined,
    ),
    faults: { cancel: 1 },
  },
  {
    name: 'the destination gives back what it has not removed yet',
    protocol: destination((state, { kind }) =>
      state.phase === 'asking' && kind === 'timeout'
        ? { state: { phase: 'givingBack' }, actions: ['tellAbandoned'] }
        : undefined,
    ),
    faults: { clock: 1 },
  },
  {
    name: 'the destination gives up what runs when the source is silent',
    protocol: destination((state, { kind }) =>
      state.phase === 'reporting' && kind === 'unreachable'
        ? { state: { phase: 'abandoning' }, actions: ['clean'] }
        : undefined,
    ),
    faults: { cut: 1, clock: 1 },
  },
  {
    name: 'the destination says once that it gives the container back',
    protocol: destination((state, { kind }) =>
      state.phase === 'givingBack' && kind === 'lost'
        ? { state: { ...state, phase: 'failed' }, actions: ['recordEnd'] }
        : undefined,
    ),
    faults: { fail: 1, cut: 1 },
  },
  {
    name: 'the destination does not look for a stream that broke while it let go',
    protocol: destination((state, { kind }) =>
      state.phase === 'resuming' && kind === 'resumeDone'
        ? { state: { phase: 'reporting' }, actions: ['tellResumed', 'complete'] }
        : undefined,
    ),
    faults: { cut: 1 },
  },
  {
    name: 'a destination that starts again gives back what it may have run',
    protocol: {
      ...right,
      destinationRestart: () => ({
        state: { phase: 'abandoning', error: 'x' },
        actions: ['clean'],
      }),
    },
    faults: { crash: 1 },
  },
  {
    name: 'a destination that starts again with a copy that is lost says that it runs',
    protocol: {
      ...right,
      destinationRestart: (decision, copy) =>
        right.destinationRestart(decision, copy === 'lost' || copy === 'none' ? 'ran' : copy),
    },
    faults: { crash: 1 },
  },
  {
    name: 'a destination that begins is told that the source knows nothing of what it decided',
    protocol: {
      ...right,
      opening: (facts) => {
        const answer = right.opening(facts);
        return answer === 'beganBefore' ? 'unknown' : answer;
      },
    },
    faults: { dup: 1 },
  },
  {
    name: 'the controller takes a silent destination for one that failed',
    protocol: {
      ...right,
      controllerStep: (state, event) =>
        event.kind === 'destinationSilent' && event.long
          ? { state: { phase: 'failed', doubted: false }, actions: [] }
          : right.controllerStep(state, event),
    },
    faults: { call: 1, crash: 1 },
  },
  {
    name: 'the controller takes a destination that its source has not begun with for the end of it',
    protocol: {
      ...right,
      controllerStep: (state, event) =>
        event.kind === 'destinationSays' && event.word === 'refused'
          ? { state: { phase: 'failed', doubted: false }, actions: [] }
          : right.controllerStep(state, event),
    },
    faults: { host: 1, cancel: 1 },
    later: true,
  },
];
