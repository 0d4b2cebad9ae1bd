/** The source's half of a migration's hand-over, as a pure function. The session performs what it returns.
 *
 *      describing → described → (copying →) freezing → frozen → committing ─→ committed → (serving →) destroying → done
 *           └───────────┴───────────┴──────────┴─────────┴──────────┴→ aborting → aborted    └→ returning → reviving → returned
 *
 *  While `copying` the container runs and its memory moves in rounds; nothing is decided there that the rest goes by.
 *  While `serving` the destination runs it, and fetches from the copy here the memory that it lacks (post-copy): it goes
 *  as from `committed`. An agent that starts again is in `committed`, and serves there as well.
 *
 *  Three rules hold in every interleaving. Before `committed` any loss, refusal or time-out leads to `thaw`. From
 *  `committed` on the copy goes only when the destination says that its own runs, and is thawed only when the
 *  destination (or the operator who has fenced it) says that its own has not run and never will, which is written down
 *  first. Nothing else leads out of `committed`: no time-out, no lost peer. */
export type SourcePhase =
  | 'describing'
  | 'described'
  | 'copying'
  | 'freezing'
  | 'frozen'
  | 'committing'
  | 'committed'
  | 'serving'
  | 'destroying'
  | 'done'
  | 'returning'
  | 'reviving'
  | 'returned'
  | 'aborting'
  | 'aborted';

export interface SourceState {
  readonly phase: SourcePhase;
  /** A destination listens. */
  readonly connected: boolean;
  /** Why it was aborted, or came back. */
  readonly error?: unknown;
}

export type SourceEvent =
  /** The work that an action started has ended well. */
  | { readonly kind: 'describeDone' }
  | { readonly kind: 'freezeDone' }
  | { readonly kind: 'commitDone' }
  | { readonly kind: 'destroyDone' }
  | { readonly kind: 'thawDone' }
  | { readonly kind: 'returnDone' }
  /** Work failed; `during` names the action. */
  | { readonly kind: 'failed'; readonly error: unknown; readonly during?: SourceAction }
  /** From the destination. */
  | { readonly kind: 'trackAsked' }
  | { readonly kind: 'roundAsked' }
  | { readonly kind: 'throttleAsked' }
  | { readonly kind: 'freezeAsked' }
  | { readonly kind: 'wholeAsked' }
  | { readonly kind: 'ready' }
  /** It runs, and has not all of its memory. */
  | { readonly kind: 'running' }
  /** It runs, and needs nothing of the copy here. */
  | { readonly kind: 'resumed' }
  | { readonly kind: 'abortAsked'; readonly error: unknown }
  /** Its copy is gone, has not run and never will. */
  | { readonly kind: 'abandoned'; readonly error: unknown }
  /** Its stream broke; it came back with the same migration and epoch. */
  | { readonly kind: 'lost'; readonly error: unknown }
  | { readonly kind: 'reopened' }
  /** From the operator, or the clock. */
  | { readonly kind: 'cancel'; readonly error: unknown }
  | { readonly kind: 'timeout'; readonly error: unknown };

export type SourceAction =
  | 'describe'
  /** Has writes noted, and tells the layout. */
  | 'track'
  /** Tells what was written since the last one. */
  | 'round'
  /** Slows the container down, as asked last. */
  | 'throttle'
  | 'freeze'
  /** Tells all of the frozen container again, as if nothing of it had been sent. */
  | 'whole'
  /** Makes the decision durable. */
  | 'commit'
  | 'grant'
  /** Makes it durable that the container is this host's again, with a later epoch than it granted. */
  | 'recordReturn'
  | 'destroy'
  | 'tellDone'
  | 'thaw'
  | 'tellAbort';

export interface SourceStep {
  readonly state: SourceState;
  readonly actions: readonly SourceAction[];
}

export const sourceStart: SourceStep = {
  state: { phase: 'describing', connected: true },
  actions: ['describe'],
};

/** What the journal of an agent that has just started says, and what follows. */
export function sourceRestart(decision: 'committed' | 'returned'): SourceStep {
  if (decision === 'committed') {
    return { state: { phase: 'committed', connected: false }, actions: [] };
  }
  const error = new Error('The agent was started again');
  return { state: { phase: 'reviving', connected: false, error }, actions: ['thaw'] };
}

/** True while the source may not run its copy. */
export function isCommitted(phase: SourcePhase): boolean {
  return isHeld(phase) || phase === 'destroying' || phase === 'done' || phase === 'returning';
}

/** True while the copy is held for a destination that may run it, or does. */
export function isHeld(phase: SourcePhase): boolean {
  return phase === 'committed' || phase === 'serving';
}

/** True when nothing more will happen. */
export function isSourceEnd(phase: SourcePhase): boolean {
  return phase === 'done' || phase === 'aborted' || phase === 'returned';
}

/** True once the copy may run again, or runs. */
function isUndone(phase: SourcePhase): boolean {
  return (
    phase === 'aborting' || phase === 'aborted' || phase === 'reviving' || phase === 'returned'
  );
}

export function sourceStep(state: SourceState, event: SourceEvent): SourceStep {
  if (isCommitted(state.phase)) return afterCommit(state, event);
  if (isUndone(state.phase)) return afterUndoing(state, event);
  if (state.phase === 'committing') return whileCommitting(state, event);
  switch (event.kind) {
    case 'describeDone':
      return advance(state, 'describing', 'described', []);
    case 'trackAsked':
      return advance(state, 'described', 'copying', ['track']);
    case 'roundAsked':
      return advance(state, 'copying', 'copying', ['round']);
    case 'throttleAsked':
      return advance(state, 'copying', 'copying', ['throttle']);
    case 'freezeAsked':
      return advance(state, state.phase === 'copying' ? 'copying' : 'described', 'freezing', [
        'freeze',
      ]);
    case 'freezeDone':
      return advance(state, 'freezing', 'frozen', []);
    case 'wholeAsked':
      return advance(state, 'frozen', 'frozen', ['whole']);
    case 'ready':
      return advance(state, 'frozen', 'committing', ['commit']);
    case 'failed':
    case 'abortAsked':
    case 'abandoned':
    case 'lost':
    case 'cancel':
    case 'timeout':
      return abort(state, event);
    default:
      return outOfOrder(state, event);
  }
}

function advance(
  state: SourceState,
  from: SourcePhase,
  to: SourcePhase,
  actions: readonly SourceAction[],
): SourceStep {
  if (state.phase !== from) return outOfOrder(state, { kind: `${from} → ${to}` });
  return { state: { ...state, phase: to }, actions };
}

/** A destination that does not keep to the protocol is not trusted with a container. */
function outOfOrder(state: SourceState, event: { readonly kind: string }): SourceStep {
  const error = new Error(`Out of order while ${state.phase}: ${event.kind}`);
  return abort(state, { kind: 'failed', error });
}

function abort(
  state: SourceState,
  event: Extract<SourceEvent, { readonly error: unknown }>,
): SourceStep {
  const connected = state.connected && event.kind !== 'lost';
  return { state: { phase: 'aborting', connected, error: event.error }, actions: ['thaw'] };
}

/** The decision is on its way to the disk: whoever asks learns how that ended. Only its own failure, which means that it
 *  did not get there, still aborts. */
function whileCommitting(state: SourceState, event: SourceEvent): SourceStep {
  switch (event.kind) {
    case 'commitDone':
      return {
        state: { ...state, phase: 'committed' },
        actions: state.connected ? ['grant'] : [],
      };
    case 'failed':
      return abort(state, event);
    case 'lost':
      return { state: { ...state, connected: false }, actions: [] };
    case 'reopened':
      return { state: { ...state, connected: true }, actions: [] };
    default:
      return { state, actions: [] };
  }
}

function afterCommit(state: SourceState, event: SourceEvent): SourceStep {
  switch (event.kind) {
    case 'lost':
      return { state: { ...state, connected: false }, actions: [] };
    case 'reopened':
      return { state: { ...state, connected: true }, actions: answerTo(state.phase) };
    case 'running':
      if (!isHeld(state.phase)) return { state, actions: [] };
      return { state: { ...state, phase: 'serving' }, actions: [] };
    case 'resumed': {
      if (!isHeld(state.phase)) return { state, actions: [] };
      const { connected } = state;
      return { state: { phase: 'destroying', connected }, actions: ['destroy'] };
    }
    case 'destroyDone':
      if (state.phase !== 'destroying') return { state, actions: [] };
      return {
        state: { ...state, phase: 'done' },
        actions: state.connected ? ['tellDone'] : [],
      };
    case 'abandoned':
      if (!isHeld(state.phase)) return { state, actions: [] };
      return {
        state: { ...state, phase: 'returning', error: event.error },
        actions: ['recordReturn'],
      };
    case 'returnDone':
      if (state.phase !== 'returning') return { state, actions: [] };
      return { state: { ...state, phase: 'reviving' }, actions: ['thaw'] };
    case 'failed':
      return { state: { ...state, error: event.error }, actions: triedAgain(state.phase) };
    default:
      return { state, actions: [] };
  }
}

/** The copy does not go away, or its return cannot be written down: it stays frozen, the operator hears of it, and it is
 *  tried until it succeeds, for nobody else would. */
function triedAgain(phase: SourcePhase): SourceAction[] {
  if (phase === 'destroying') return ['destroy'];
  return phase === 'returning' ? ['recordReturn'] : [];
}

/** What a destination that comes back is told at once. */
function answerTo(phase: SourcePhase): SourceAction[] {
  if (phase === 'done') return ['tellDone'];
  // It hears when it is back.
  return phase === 'returning' ? [] : ['grant'];
}

/** Aborted before the decision, or come back after it: the container runs here. */
function afterUndoing(state: SourceState, event: SourceEvent): SourceStep {
  const ended = state.phase === 'aborted' || state.phase === 'returned';
  switch (event.kind) {
    case 'lost':
      return { state: { ...state, connected: false }, actions: [] };
    case 'reopened':
      return { state: { ...state, connected: true }, actions: ended ? ['tellAbort'] : [] };
    case 'failed':
      // What was under way when the thaw was asked for may fail as it likes, and a tracer may end.
      if (ended || event.during !== 'thaw') return { state, actions: [] };
      // Nobody else will thaw what was returned: it is tried until it is done.
      if (state.phase === 'reviving') return { state, actions: ['thaw'] };
      return undone(state, 'aborted');
    case 'thawDone':
      if (ended) return { state, actions: [] };
      return undone(state, state.phase === 'reviving' ? 'returned' : 'aborted');
    default:
      return { state, actions: [] };
  }
}

function undone(state: SourceState, phase: 'aborted' | 'returned'): SourceStep {
  return { state: { ...state, phase }, actions: state.connected ? ['tellAbort'] : [] };
}
