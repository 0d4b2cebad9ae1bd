/** The destination's half of a migration's hand-over, as a pure function. The session performs what it returns.
 *
 *      opening → preparing → freezing → restoring → asking → resuming → reporting → succeeded
 *         └──────────┴───────────┴──────────┴→ cleaning → failed
 *                                              ↑ └ asking, when the source says that it aborted
 *
 *  Two rules hold in every interleaving: `resume` comes only from a grant; and from `asking` on, where the source may
 *  have decided already, only the source's word leads to `clean`. */
export type DestinationPhase =
  | 'opening'
  | 'preparing'
  | 'freezing'
  | 'restoring'
  | 'asking'
  | 'resuming'
  | 'reporting'
  | 'succeeded'
  | 'cleaning'
  | 'failed'
  | 'inDoubt';

export interface DestinationState {
  readonly phase: DestinationPhase;
  /** Why it failed, or is in doubt; while `asking`: what broke here meanwhile. */
  readonly error?: unknown;
}

export type DestinationEvent =
  /** The work that an action started has ended well. */
  | { readonly kind: 'prepareDone' }
  | { readonly kind: 'restoreDone' }
  | { readonly kind: 'resumeDone' }
  | { readonly kind: 'cleanDone' }
  | { readonly kind: 'failed'; readonly error: unknown }
  /** From the source. */
  | { readonly kind: 'described' }
  | { readonly kind: 'imageReceived' }
  | { readonly kind: 'granted' }
  | { readonly kind: 'done' }
  | { readonly kind: 'aborted'; readonly error: unknown }
  /** The stream broke; it could not be opened again for as long as we try. */
  | { readonly kind: 'lost'; readonly error: unknown }
  | { readonly kind: 'unreachable'; readonly error: unknown }
  | { readonly kind: 'reopened' }
  | { readonly kind: 'cancel'; readonly error: unknown }
  | { readonly kind: 'timeout'; readonly error: unknown };

export type DestinationAction =
  | 'prepare'
  | 'askFreeze'
  | 'restore'
  | 'tellReady'
  | 'resume'
  | 'tellResumed'
  | 'reopen'
  | 'tellAbort'
  | 'clean';

export interface DestinationStep {
  readonly state: DestinationState;
  readonly actions: readonly DestinationAction[];
}

export const destinationStart: DestinationState = { phase: 'opening' };

export function isDestinationEnd(phase: DestinationPhase): boolean {
  return phase === 'succeeded' || phase === 'failed' || phase === 'inDoubt';
}

/** True while the destination may give up by itself. */
export function isCancellable(phase: DestinationPhase): boolean {
  return (
    phase === 'opening' || phase === 'preparing' || phase === 'freezing' || phase === 'restoring'
  );
}

export function destinationStep(state: DestinationState, event: DestinationEvent): DestinationStep {
  switch (state.phase) {
    case 'opening':
      if (event.kind === 'described') return to('preparing', 'prepare');
      return beforeAsking(state, event);
    case 'preparing':
      if (event.kind === 'prepareDone') return to('freezing', 'askFreeze');
      return beforeAsking(state, event);
    case 'freezing':
      if (event.kind === 'imageReceived') return to('restoring', 'restore');
      return beforeAsking(state, event);
    case 'restoring':
      if (event.kind === 'restoreDone') return to('asking', 'tellReady');
      return beforeAsking(state, event);
    case 'asking':
      return whileAsking(state, event);
    case 'resuming':
      return whileResuming(state, event);
    case 'reporting':
      return whileReporting(state, event);
    case 'cleaning':
      if (event.kind !== 'cleanDone' && event.kind !== 'failed') return stay(state);
      return { state: { ...state, phase: 'failed' }, actions: [] };
    default:
      return stay(state);
  }
}

function to(phase: DestinationPhase, ...actions: DestinationAction[]): DestinationStep {
  return { state: { phase }, actions };
}

function stay(state: DestinationState): DestinationStep {
  return { state, actions: [] };
}

function beforeAsking(state: DestinationState, event: DestinationEvent): DestinationStep {
  switch (event.kind) {
    case 'aborted':
    case 'lost':
      return clean(event.error);
    case 'failed':
    case 'cancel':
    case 'timeout':
      return { ...clean(event.error), actions: ['tellAbort', 'clean'] };
    default: {
      const error = new Error(`Out of order while ${state.phase}: ${event.kind}`);
      return { ...clean(error), actions: ['tellAbort', 'clean'] };
    }
  }
}

function clean(error: unknown): DestinationStep {
  return { state: { phase: 'cleaning', error }, actions: ['clean'] };
}

function whileAsking(state: DestinationState, event: DestinationEvent): DestinationStep {
  switch (event.kind) {
    case 'granted':
      if (state.error === undefined) return to('resuming', 'resume');
      return { state: { ...state, phase: 'inDoubt' }, actions: [] };
    case 'aborted':
      return clean(state.error ?? event.error);
    case 'lost':
      return { state, actions: ['reopen'] };
    case 'unreachable':
      return { state: { phase: 'inDoubt', error: event.error }, actions: [] };
    // The source may have decided already: it is asked to abort, and its answer holds.
    case 'failed':
      return { state: { ...state, error: event.error }, actions: ['tellAbort'] };
    case 'cancel':
    case 'timeout':
      return { state, actions: ['tellAbort'] };
    default:
      return stay(state);
  }
}

function whileResuming(state: DestinationState, event: DestinationEvent): DestinationStep {
  switch (event.kind) {
    case 'resumeDone':
      return to('reporting', 'tellResumed');
    case 'failed':
      return { state: { phase: 'inDoubt', error: event.error }, actions: [] };
    default:
      return stay(state);
  }
}

/** The container runs here, whatever becomes of the report: the source keeps its copy frozen until it hears. */
function whileReporting(state: DestinationState, event: DestinationEvent): DestinationStep {
  switch (event.kind) {
    case 'done':
    case 'unreachable':
      return to('succeeded');
    case 'lost':
    // A repeated grant means that the report was lost on its way.
    case 'granted':
      return { state, actions: event.kind === 'lost' ? ['reopen'] : ['tellResumed'] };
    default:
      return stay(state);
  }
}
