/** The source's half of a migration's hand-over, as a pure function. The session performs what it returns.
 *
 *      describing → described → freezing → frozen → committing ─→ committed → destroying → done
 *           └───────────┴──────────┴─────────┴──────────┴→ aborting → aborted
 *
 *  Two rules hold in every interleaving: before `committed` any loss, refusal or time-out leads to `thaw`; from
 *  `committed` on no event leads to it, and the copy goes only when the destination says that its own runs. */
export type SourcePhase =
  | 'describing'
  | 'described'
  | 'freezing'
  | 'frozen'
  | 'committing'
  | 'committed'
  | 'destroying'
  | 'done'
  | 'aborting'
  | 'aborted';

export interface SourceState {
  readonly phase: SourcePhase;
  /** A destination listens. */
  readonly connected: boolean;
  /** Why it was aborted. */
  readonly error?: unknown;
}

export type SourceEvent =
  /** The work that an action started has ended well. */
  | { readonly kind: 'describeDone' }
  | { readonly kind: 'freezeDone' }
  | { readonly kind: 'commitDone' }
  | { readonly kind: 'destroyDone' }
  | { readonly kind: 'thawDone' }
  /** Work failed; `during` names the action. */
  | { readonly kind: 'failed'; readonly error: unknown }
  /** From the destination. */
  | { readonly kind: 'freezeAsked' }
  | { readonly kind: 'ready' }
  | { readonly kind: 'resumed' }
  | { readonly kind: 'abortAsked'; readonly error: unknown }
  /** Its stream broke; it came back with the same migration and epoch. */
  | { readonly kind: 'lost'; readonly error: unknown }
  | { readonly kind: 'reopened' }
  /** From the operator, or the clock. */
  | { readonly kind: 'cancel'; readonly error: unknown }
  | { readonly kind: 'timeout'; readonly error: unknown };

export type SourceAction =
  | 'describe'
  | 'freeze'
  /** Makes the decision durable. */
  | 'commit'
  | 'grant'
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

/** True once the source may never run its copy again. */
export function isCommitted(phase: SourcePhase): boolean {
  return phase === 'committed' || phase === 'destroying' || phase === 'done';
}

/** True when nothing more will happen. */
export function isSourceEnd(phase: SourcePhase): boolean {
  return phase === 'done' || phase === 'aborted';
}

export function sourceStep(state: SourceState, event: SourceEvent): SourceStep {
  if (isCommitted(state.phase)) return afterCommit(state, event);
  if (state.phase === 'aborting' || state.phase === 'aborted') return afterAbort(state, event);
  if (state.phase === 'committing') return whileCommitting(state, event);
  switch (event.kind) {
    case 'describeDone':
      return advance(state, 'describing', 'described', []);
    case 'freezeAsked':
      return advance(state, 'described', 'freezing', ['freeze']);
    case 'freezeDone':
      return advance(state, 'freezing', 'frozen', []);
    case 'ready':
      return advance(state, 'frozen', 'committing', ['commit']);
    case 'failed':
    case 'abortAsked':
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
    case 'reopened': {
      const actions: SourceAction[] = state.phase === 'done' ? ['tellDone'] : ['grant'];
      return { state: { ...state, connected: true }, actions };
    }
    case 'resumed': {
      // Told again after the copy would not go away: it is tried again.
      const again = state.phase === 'destroying' && state.error !== undefined;
      if (state.phase !== 'committed' && !again) return { state, actions: [] };
      const { connected } = state;
      return { state: { phase: 'destroying', connected }, actions: ['destroy'] };
    }
    case 'destroyDone':
      if (state.phase !== 'destroying') return { state, actions: [] };
      return {
        state: { ...state, phase: 'done' },
        actions: state.connected ? ['tellDone'] : [],
      };
    case 'failed':
      // The copy does not go away: it stays frozen, and the operator hears of it.
      return { state: { ...state, error: event.error }, actions: [] };
    default:
      return { state, actions: [] };
  }
}

function afterAbort(state: SourceState, event: SourceEvent): SourceStep {
  switch (event.kind) {
    case 'lost':
      return { state: { ...state, connected: false }, actions: [] };
    case 'reopened':
      return {
        state: { ...state, connected: true },
        actions: state.phase === 'aborted' ? ['tellAbort'] : [],
      };
    case 'thawDone':
    case 'failed': {
      if (state.phase !== 'aborting') return { state, actions: [] };
      const actions: SourceAction[] = state.connected ? ['tellAbort'] : [];
      return { state: { ...state, phase: 'aborted' }, actions };
    }
    default:
      return { state, actions: [] };
  }
}
