/** The destination's half of a migration's hand-over, as a pure function. The session performs what it returns.
 *
 *      opening → preparing → copying → freezing → restoring → asking → accepting → resuming → (fetching →) reporting → succeeded
 *         └──────────┴──────────┴─────────┴──────────┴→ cleaning → failed  │          │
 *                                                       ↑ │         ↑      └──────────┴→ abandoning → givingBack → failed
 *               asking, when the source says that it aborted        └───────────────────────────────────┘
 *
 *  `copying` brings memory while the container runs at its source, in as many rounds as it takes, or none; `fetching`
 *  brings what it lacks while it runs here (post-copy).
 *
 *  Three rules hold in every interleaving. `resume` comes only from a grant that was written down. From `asking` on,
 *  where the source may have decided already, the copy here is removed only on the source's word, or to be given back:
 *  then the source is told, until it has heard, that this copy has not run and never will. And what may have run is
 *  never given back. */
export type DestinationPhase =
  | 'opening'
  | 'preparing'
  | 'copying'
  | 'freezing'
  | 'restoring'
  | 'asking'
  | 'accepting'
  | 'resuming'
  /** It runs here; the source keeps its copy for the memory that has not come. */
  | 'fetching'
  | 'reporting'
  | 'succeeded'
  | 'cleaning'
  | 'failed'
  | 'abandoning'
  | 'givingBack'
  /** The host was started anew after it had the right to run: nobody can tell what became of the copy. */
  | 'inDoubt';

export interface DestinationState {
  readonly phase: DestinationPhase;
  /** Why it failed, is given back, or is in doubt. */
  readonly error?: unknown;
  /** The source has not answered for a long time; it is asked all the same. */
  readonly silent?: boolean;
  /** It ended before its source had begun with it: who has forgotten what it had received before may be told so. What the
   *  source had decided then is not known here. */
  readonly unbegun?: boolean;
}

export type DestinationEvent =
  /** The work that an action started has ended well. */
  | { readonly kind: 'prepareDone' }
  | { readonly kind: 'copyDone' }
  | { readonly kind: 'restoreDone' }
  | { readonly kind: 'grantRecorded' }
  /** It runs, with all of its memory or with `later` some to come. After 'failed' instead it has not run, and cannot. */
  | { readonly kind: 'resumeDone'; readonly later?: boolean }
  /** All of its memory is here. */
  | { readonly kind: 'fetchDone' }
  | { readonly kind: 'cleanDone' }
  /** Work failed; `during` names the action. */
  | { readonly kind: 'failed'; readonly error: unknown; readonly during?: DestinationAction }
  /** From the source. */
  | { readonly kind: 'described' }
  | { readonly kind: 'imageReceived' }
  | { readonly kind: 'granted' }
  | { readonly kind: 'done' }
  | { readonly kind: 'aborted'; readonly error: unknown }
  /** The stream broke; it could not be opened again for a long time. */
  | { readonly kind: 'lost'; readonly error: unknown }
  | { readonly kind: 'unreachable'; readonly error: unknown }
  | { readonly kind: 'reopened' }
  | { readonly kind: 'cancel'; readonly error: unknown }
  | { readonly kind: 'timeout'; readonly error: unknown };

export type DestinationAction =
  /** Makes it durable that something is received: what an agent that starts again finds then, it gives back. */
  | 'record'
  | 'prepare'
  | 'copy'
  | 'askFreeze'
  | 'restore'
  | 'tellReady'
  /** Makes the right to run durable. */
  | 'recordGrant'
  | 'resume'
  /** Brings the memory that it lacks. */
  | 'fetch'
  | 'tellRunning'
  | 'tellResumed'
  /** The container is this host's, as if it had been made here. */
  | 'complete'
  | 'reopen'
  | 'tellAbort'
  | 'clean'
  | 'tellAbandoned'
  /** What came of it, for whoever asks later. */
  | 'recordEnd';

export interface DestinationStep {
  readonly state: DestinationState;
  readonly actions: readonly DestinationAction[];
}

export const destinationStart: DestinationState = { phase: 'opening' };

export function isDestinationEnd(phase: DestinationPhase): boolean {
  return phase === 'succeeded' || phase === 'failed';
}

/** What an agent that has just started finds of a migration into its host.
 *  none: it ended without having been let go · ran: it was let go, whether it still runs or not · fetching: so it was, and
 *  lacks memory · lost: it went with the host (or nobody can tell) */
export type FoundCopy = 'none' | 'ran' | 'fetching' | 'lost';

/** What the journal of an agent that has just started says, what it finds, and what follows. */
export function destinationRestart(
  decision: 'receiving' | 'granted' | 'fetching' | 'resumed',
  copy: FoundCopy,
): DestinationStep {
  const error = new Error('The agent was started again while the container was on its way');
  // Without the right to run nothing can have run.
  const neverRan = copy === 'none' && decision !== 'resumed';
  if (decision === 'receiving' || neverRan) {
    return { state: { phase: 'abandoning', error }, actions: ['clean'] };
  }
  if (copy === 'fetching') {
    return { state: { phase: 'fetching' }, actions: ['complete', 'reopen', 'fetch'] };
  }
  // A copy that went with its host is not reported: the source would remove the only one that is left, frozen since. Nor
  // is one whose memory cannot come any more: whoever looked after that has gone, and the copy with it.
  const lost = copy === 'lost' || decision === 'fetching';
  if (!lost && (copy === 'ran' || decision === 'resumed')) {
    return { state: { phase: 'reporting' }, actions: ['complete', 'reopen'] };
  }
  return { state: { phase: 'inDoubt', error }, actions: ['reopen'] };
}

/** True while the destination may give up by itself. */
export function isCancellable(phase: DestinationPhase): boolean {
  return (
    phase === 'opening' ||
    phase === 'preparing' ||
    phase === 'copying' ||
    phase === 'freezing' ||
    phase === 'restoring'
  );
}

export function destinationStep(state: DestinationState, event: DestinationEvent): DestinationStep {
  switch (state.phase) {
    case 'opening':
      if (event.kind === 'described') return to('preparing', 'record', 'prepare');
      return unbegun(beforeAsking(state, event));
    case 'preparing':
      if (event.kind === 'prepareDone') return to('copying', 'copy');
      return beforeAsking(state, event);
    case 'copying':
      if (event.kind === 'copyDone') return to('freezing', 'askFreeze');
      return beforeAsking(state, event);
    case 'freezing':
      if (event.kind === 'imageReceived') return to('restoring', 'restore');
      return beforeAsking(state, event);
    case 'restoring':
      if (event.kind === 'restoreDone') return to('asking', 'tellReady');
      return beforeAsking(state, event);
    case 'asking':
      return whileAsking(state, event);
    case 'accepting':
      return whileAccepting(state, event);
    case 'resuming':
      return whileResuming(state, event);
    case 'fetching':
      return whileFetching(state, event);
    case 'reporting':
      return whileReporting(state, event);
    case 'abandoning':
      return whileAbandoning(state, event);
    case 'givingBack':
      return whileGivingBack(state, event);
    case 'inDoubt':
      return whileInDoubt(state, event);
    case 'cleaning':
      if (event.kind === 'failed') return cleanAgain(state, event);
      if (event.kind !== 'cleanDone') return stay(state);
      return { state: { ...state, phase: 'failed' }, actions: ['recordEnd'] };
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

function unbegun({ state, actions }: DestinationStep): DestinationStep {
  return { state: { ...state, unbegun: true }, actions };
}

function whileAsking(state: DestinationState, event: DestinationEvent): DestinationStep {
  switch (event.kind) {
    case 'granted':
      return to('accepting', 'recordGrant');
    case 'aborted':
      return clean(event.error);
    case 'lost':
      return { state, actions: ['reopen'] };
    case 'unreachable':
      return { state: { ...state, silent: true, error: event.error }, actions: ['reopen'] };
    case 'reopened':
      return heard(state);
    case 'failed':
      return abandon(event.error);
    // The source may have decided already: it is asked to abort, and its answer holds.
    case 'cancel':
    case 'timeout':
      return { state, actions: ['tellAbort'] };
    default:
      return stay(state);
  }
}

function heard(state: DestinationState): DestinationStep {
  return state.silent === true ? to(state.phase) : stay(state);
}

function abandon(error: unknown): DestinationStep {
  return { state: { phase: 'abandoning', error }, actions: ['clean'] };
}

/** A right to run that cannot be written down is not used. */
function whileAccepting(state: DestinationState, event: DestinationEvent): DestinationStep {
  if (event.kind === 'grantRecorded') return to('resuming', 'resume');
  return event.kind === 'failed' ? abandon(event.error) : stay(state);
}

function whileResuming(state: DestinationState, event: DestinationEvent): DestinationStep {
  // The stream may have broken meanwhile.
  if (event.kind === 'resumeDone') {
    if (event.later === true) return to('fetching', 'tellRunning', 'reopen', 'complete', 'fetch');
    return to('reporting', 'tellResumed', 'reopen', 'complete');
  }
  return event.kind === 'failed' ? abandon(event.error) : stay(state);
}

/** The container runs here, and what it lacks is at its source alone: the source is told only when nothing is missing.
 *  Should the memory be lost, nobody but an operator can say what that means. */
function whileFetching(state: DestinationState, event: DestinationEvent): DestinationStep {
  switch (event.kind) {
    case 'fetchDone':
      return to('reporting', 'tellResumed', 'reopen');
    case 'failed':
      if (event.during !== 'fetch') return stay(state);
      return { state: { phase: 'inDoubt', error: event.error }, actions: [] };
    case 'aborted':
      return { state: { ...state, silent: true, error: event.error }, actions: ['reopen'] };
    case 'unreachable':
      return { state: { ...state, silent: true, error: event.error }, actions: ['reopen'] };
    case 'reopened':
      return heard(state);
    case 'lost':
      return { state, actions: ['reopen'] };
    case 'granted':
      return { state, actions: ['tellRunning'] };
    default:
      return stay(state);
  }
}

/** The container runs here, whatever becomes of the report: the source keeps its copy frozen until it hears. */
function whileReporting(state: DestinationState, event: DestinationEvent): DestinationStep {
  switch (event.kind) {
    case 'done':
    // It does not know of it any more: its copy is gone.
    case 'aborted':
      return to('succeeded', 'recordEnd');
    case 'unreachable':
      return { state: { ...state, silent: true }, actions: ['reopen'] };
    case 'reopened':
      return heard(state);
    case 'lost':
      return { state, actions: ['reopen'] };
    // A repeated grant means that the report was lost on its way.
    case 'granted':
      return { state, actions: ['tellResumed'] };
    default:
      return stay(state);
  }
}

/** The copy goes first: what does not exist cannot run, whatever grant is still on its way. */
function whileAbandoning(state: DestinationState, event: DestinationEvent): DestinationStep {
  switch (event.kind) {
    case 'cleanDone':
      return { state: { ...state, phase: 'givingBack' }, actions: ['tellAbandoned', 'reopen'] };
    case 'failed':
      return cleanAgain(state, event);
    default:
      return stay(state);
  }
}

/** What cannot be removed is tried until it is; what was under way when the cleaning began may fail as it likes. */
function cleanAgain(
  state: DestinationState,
  { during }: Extract<DestinationEvent, { readonly kind: 'failed' }>,
): DestinationStep {
  return during === undefined || during === 'clean' ? { state, actions: ['clean'] } : stay(state);
}

function whileGivingBack(state: DestinationState, event: DestinationEvent): DestinationStep {
  switch (event.kind) {
    case 'aborted':
      return { state: { ...state, phase: 'failed' }, actions: ['recordEnd'] };
    case 'granted':
      return { state, actions: ['tellAbandoned'] };
    case 'lost':
      return { state, actions: ['reopen'] };
    case 'unreachable':
      return { state: { ...state, silent: true }, actions: ['reopen'] };
    case 'reopened':
      return { state: { ...state, silent: false }, actions: [] };
    default:
      return stay(state);
  }
}

/** The source's word ends it: that the container is its own again, which is the operator's decision, or that its copy is
 *  gone, for it had heard that this one ran. */
function whileInDoubt(state: DestinationState, event: DestinationEvent): DestinationStep {
  switch (event.kind) {
    case 'aborted':
      return clean(event.error);
    case 'done':
      return to('succeeded', 'recordEnd');
    case 'lost':
      return { state, actions: ['reopen'] };
    case 'unreachable':
      return { state: { ...state, silent: true }, actions: ['reopen'] };
    default:
      return stay(state);
  }
}
