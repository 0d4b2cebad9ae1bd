/** The controller's part of a migration, as a pure function. It decides nothing about who may run: it begins, asks both
 *  agents what is true, calls off what has not been decided, and says what came of it. Its memory may be lost at any time.
 *
 *      (new) → receiving ⇄ asking → succeeded, failed
 *                 └→ callingOff ←┘ → checkingSource → inDoubt, looked at again later
 *
 *  What it finishes with is always one side's own word. */
export type ControllerPhase =
  | 'receiving'
  | 'asking'
  | 'checkingSource'
  | 'callingOff'
  | 'inDoubt'
  | 'succeeded'
  | 'failed';

/** What an agent says of a migration: MigrationStatus.state. Of `refused` a destination knows no more than that its source
 *  has not begun with it: it may have begun before, with the same one, which has forgotten it. */
const agentWords = [
  ...(['unknown', 'running', 'committed', 'succeeded', 'failed', 'cancelled'] as const),
  ...(['in-doubt', 'refused'] as const),
];
export type AgentWord = (typeof agentWords)[number];

export function isAgentWord(word: string): word is AgentWord {
  return (agentWords as readonly string[]).includes(word);
}

export interface ControllerState {
  readonly phase: ControllerPhase;
  /** It was in doubt before: it is looked at, never begun again. */
  readonly doubted: boolean;
  /** The destination's last word, while the source is asked. */
  readonly destination?: AgentWord;
  readonly error?: unknown;
}

export type ControllerEvent =
  | { readonly kind: 'destinationSays'; readonly word: AgentWord; readonly error?: unknown }
  /** Its agent was not reached: just now, or for a long time already. */
  | { readonly kind: 'destinationSilent'; readonly long: boolean; readonly error: unknown }
  | { readonly kind: 'sourceSays'; readonly word: AgentWord; readonly error?: unknown }
  | { readonly kind: 'sourceSilent'; readonly error: unknown };

export type ControllerAction =
  /** Has the destination begin, or joins it. */
  | 'receive'
  | 'askDestination'
  | 'askSource'
  /** Has the source end it, if it is not decided; it can never begin after that. */
  | 'callOff'
  /** Waits a moment before the next action. */
  | 'pause';

export interface ControllerStep {
  readonly state: ControllerState;
  readonly actions: readonly ControllerAction[];
}

/** @param begun  a worker before this one had it begun, or may have
 *  @param doubted  and found it in doubt */
export function controllerStart(before: { begun: boolean; doubted: boolean }): ControllerStep {
  const { doubted } = before;
  if (!before.begun) return { state: { phase: 'receiving', doubted }, actions: ['receive'] };
  return { state: { phase: 'asking', doubted }, actions: ['askDestination'] };
}

export function isControllerEnd(phase: ControllerPhase): boolean {
  return phase === 'succeeded' || phase === 'failed' || phase === 'inDoubt';
}

export function controllerStep(state: ControllerState, event: ControllerEvent): ControllerStep {
  switch (state.phase) {
    case 'receiving':
    case 'asking':
      return withDestination(state, event);
    case 'checkingSource':
    case 'callingOff':
      return withSource(state, event);
    default:
      return { state, actions: [] };
  }
}

function withDestination(state: ControllerState, event: ControllerEvent): ControllerStep {
  const { doubted } = state;
  if (event.kind === 'destinationSilent') {
    const { error } = event;
    if (event.long) return { state: { phase: 'callingOff', doubted, error }, actions: ['callOff'] };
    return { state: { phase: 'asking', doubted }, actions: ['pause', 'askDestination'] };
  }
  if (event.kind !== 'destinationSays') return { state, actions: [] };
  const { word, error } = event;
  switch (word) {
    case 'succeeded':
      return end(state, 'succeeded', error);
    case 'failed':
    case 'cancelled':
      return end(state, 'failed', error);
    case 'running':
    case 'committed':
      return { state: { phase: 'receiving', doubted }, actions: ['pause', 'receive'] };
    // It, or the controller, may have forgotten what it had begun: the source knows what it has decided.
    case 'unknown':
    case 'refused':
    case 'in-doubt':
      return {
        state: { phase: 'checkingSource', doubted, destination: word, error },
        actions: ['askSource'],
      };
  }
}

function withSource(state: ControllerState, event: ControllerEvent): ControllerStep {
  if (event.kind === 'sourceSilent') return end(state, 'inDoubt', event.error);
  if (event.kind !== 'sourceSays') return { state, actions: [] };
  const { doubted, destination } = state;
  switch (event.word) {
    // It destroys its copy on the destination's word alone: that ran.
    case 'succeeded':
      return end(state, 'succeeded', undefined);
    case 'committed':
    case 'in-doubt':
      return end(state, 'inDoubt', state.error ?? event.error);
    case 'failed':
    case 'refused':
    case 'cancelled':
      // A destination in doubt hears of it by itself, and removes what it has.
      if (destination === 'in-doubt') return end(state, 'inDoubt', state.error);
      return end(state, 'failed', state.error ?? event.error);
    case 'running':
      // Its destination has forgotten it: nobody would ever be ready.
      return { state: { ...state, phase: 'callingOff' }, actions: ['callOff'] };
    case 'unknown':
      if (destination === 'in-doubt') return end(state, 'inDoubt', state.error);
      if (doubted || destination === 'refused') return end(state, 'failed', state.error);
      return { state: { phase: 'receiving', doubted }, actions: ['pause', 'receive'] };
  }
}

function end(state: ControllerState, phase: ControllerPhase, error: unknown): ControllerStep {
  return { state: { phase, doubted: state.doubted, error }, actions: [] };
}
