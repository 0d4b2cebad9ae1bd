import { isDestinationEnd } from '../../packages/migration/src/destination-machine.js';
import { isSourceEnd } from '../../packages/migration/src/source-machine.js';
import type { World } from './world.js';

/** What is wrong with a world as it is; undefined when nothing is. */
export function violation({ s, d, c }: World): string | undefined {
  if (s.copy === 'runs' && d.copy === 'runs') return 'two copies run';
  if (s.copy === 'runs' && d.ran) return 'the source runs on from before what the destination did';
  if (s.copy === 'runs' && s.journal === 'committed') return 'the source runs what it has granted';
  if (d.copy === 'runs' && (d.journal === null || d.journal === 'receiving')) {
    return 'the destination runs what it has no right to, by its journal';
  }
  if (s.journal === 'committed' && c.redis.done === 'failed') {
    return 'it is called failed while the source is bound to keep its copy frozen';
  }
  const hostLost = s.rebooted || d.rebooted;
  if (s.copy === 'gone' && d.copy !== 'runs' && !hostLost) return 'no copy is left';
  if (d.lacks && s.copy !== 'held' && !hostLost) return 'memory that has not come is gone';
  return undefined;
}

/** Whether a run has come to its end: one copy runs, or the host that had it is gone, and nobody holds anything. */
export function isSettled(w: World): boolean {
  const { s, d, c } = w;
  if (!s.up || !d.up || s.told !== null || d.told !== null) return false;
  if (s.todo.length > 0 || d.todo.length > 0) return false;
  if (s.m !== null && !isSourceEnd(s.m.phase)) return false;
  if (d.m !== null && !isDestinationEnd(d.m.phase)) return false;
  if (s.copy === 'stopped' || s.copy === 'held' || d.copy === 'ready') return false;
  if (c.redis.done === null) return false;
  // An agent that starts later finds nothing to do: by then the container may be on other ways.
  if (s.journal === 'committed' || s.journal === 'returned') return false;
  if (d.journal === 'receiving' || d.journal === 'granted' || d.journal === 'resumed') return false;
  // What the controller says must be so.
  if (c.redis.done === 'succeeded' && s.copy === 'runs') return false;
  if (c.redis.done === 'failed' && d.copy === 'runs') return false;
  const hostLost = s.rebooted || d.rebooted;
  return s.copy === 'runs' || d.copy === 'runs' || hostLost;
}
