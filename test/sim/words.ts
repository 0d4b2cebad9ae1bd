import type { AgentWord } from '../../packages/migration/src/controller-machine.js';
import type { Decision } from '../../packages/migration/src/journal.js';
import { isCommitted, isSourceEnd } from '../../packages/migration/src/source-machine.js';
import type { DestinationHost, Redis, SourceHost } from './world.js';

export function undecided(s: SourceHost): boolean {
  if (s.m === null) return false;
  return !isCommitted(s.m.phase) && !isSourceEnd(s.m.phase);
}

export function listens(d: DestinationHost): boolean {
  return d.m !== null && ['asking', 'givingBack', 'inDoubt'].includes(d.m.phase);
}

export function sourceWord(s: SourceHost): Redis['sourceWord'] {
  if (s.m?.phase === 'committed') return 'committed';
  return s.m?.phase === 'aborted' || s.m?.phase === 'returned' ? 'returned' : null;
}

export function destinationWord(d: DestinationHost): Redis['destinationWord'] {
  if (d.m?.phase === 'reporting') return 'resumed';
  return d.m?.phase === 'givingBack' ? 'abandoned' : null;
}

/** What QueryMigration answers; see Migrations.query and the sessions' status. */
export function sourceSays(s: SourceHost): AgentWord {
  if (s.m !== null) {
    if (s.m.phase === 'done') return 'succeeded';
    if (isCommitted(s.m.phase)) return 'committed';
    return isSourceEnd(s.m.phase) ? 'failed' : 'running';
  }
  const words: Partial<Record<Decision, AgentWord>> = {
    ...{
      committed: 'committed',
      returned: 'failed',
      reclaimed: 'failed',
      aborted: 'failed',
      destroyed: 'succeeded',
    },
    cancelled: 'cancelled',
  };
  return s.journal === null ? 'unknown' : (words[s.journal] ?? 'unknown');
}

export function destinationSays(d: DestinationHost): AgentWord {
  if (d.m === null) {
    if (d.journal === 'succeeded') return 'succeeded';
    if (d.journal === 'cancelled') return 'refused';
    return d.journal === 'abandoned' ? 'failed' : 'unknown';
  }
  const { phase, silent, unbegun } = d.m;
  if (phase === 'failed' && unbegun) return 'refused';
  if (phase === 'succeeded' || phase === 'failed') return phase;
  if (phase === 'inDoubt') return 'in-doubt';
  if (phase === 'asking' || phase === 'givingBack') return silent ? 'in-doubt' : 'running';
  if (phase === 'reporting') return silent ? 'succeeded' : 'committed';
  const decided = phase === 'accepting' || phase === 'resuming' || phase === 'fetching';
  return decided ? 'committed' : 'running';
}
