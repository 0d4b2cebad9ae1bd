import type { Decision } from './journal.js';
import type { SourcePhase } from './source-machine.js';

/** What a source does with a destination that opens a stream about a migration; pure.
 *  begin: a new migration · join: the session there is goes on with it · beganBefore: refused to one that begins, and
 *  what is not decided is ended, for its destination has forgotten it · others: refused, by that word */
export type Opening = 'begin' | 'join' | 'beganBefore' | 'unknown' | 'rebooted' | 'cancelled';

export interface OpeningFacts {
  /** Of the session about this migration that this agent has. */
  readonly session: SourcePhase | undefined;
  /** What its journal says. */
  readonly decision: Decision | undefined;
  /** The destination had a stream before, and perhaps a copy. */
  readonly again: boolean;
  /** The source's host was started anew since the destination was told its boot id. */
  readonly rebooted: boolean;
}

/** Only `join` can lead to a grant of what is committed already, so only a destination that says `again` gets it: one that
 *  begins has no copy, and what it had was given back or is gone. */
export function opening({ session, decision, again, rebooted }: OpeningFacts): Opening {
  if (decision === 'cancelled') return 'cancelled';
  if (session !== undefined) return again || session === 'aborted' ? 'join' : 'beganBefore';
  // Destroyed or returned: nothing is here that could be granted.
  if (decision !== undefined) return again ? 'unknown' : 'beganBefore';
  if (!again) return 'begin';
  // Its journal may have gone with its host: it cannot tell, so it says nothing that ends the migration.
  return rebooted ? 'rebooted' : 'unknown';
}
