import { setTimeout as sleep } from 'node:timers/promises';
import { isFinal, isInDoubt } from '../store/operations.js';
import type { Full, Route } from '../store/slots.js';
import { progressOf } from './run.js';
import { cancelled, throwIfStopping, type Work } from './work.js';

const lookAgainMs = 1000;

/** Waits until both hosts have room for one more migration, and takes it.
 *  @returns whether it had to wait
 *  @throws FerryError operation.cancelled; HandOver */
export async function takeTurn(work: Work, route: Route): Promise<boolean> {
  for (let waited = false; ; waited = true) {
    throwIfStopping(work);
    if (work.cancel.aborted) throw cancelled(work);
    const full = await work.stores.slots.take(work.operation.id, route);
    if (full === undefined) return waited;
    work.report(progressOf(work, 'waiting', waitText(full), 0.01));
    if (!(await dropEnded(work, full, route))) await roomAt(work, full.node);
  }
}

/** Gives the places back, and lets those who wait know. */
export async function endTurn(
  { stores }: Pick<Work, 'stores'>,
  operation: string,
  { source, destination }: Pick<Route, 'source' | 'destination'>,
): Promise<void> {
  await stores.slots.release(operation, { source, destination });
  for (const node of [source, destination]) await stores.notices.publish('room', node);
}

/** Waits for a notice, or a while: it may get lost. */
async function roomAt(work: Work, node: string): Promise<void> {
  const woken = new AbortController();
  const stop = work.stores.notices.listen('room', node, () => woken.abort());
  const signal = AbortSignal.any([woken.signal, work.stop, work.cancel]);
  await sleep(lookAgainMs, undefined, { signal }).catch(() => {});
  stop();
}

/** Gives places back that a controller died with. @returns whether there were any */
async function dropEnded(work: Work, { holders }: Full, route: Route): Promise<boolean> {
  let dropped = false;
  for (const id of holders) {
    const holder = await work.stores.operations.find(id);
    // In doubt nothing is copied; it may last until somebody mends a host.
    if (holder !== undefined && !isFinal(holder) && !isInDoubt(holder)) continue;
    const { source, destination } = route;
    await work.stores.slots.release(id, { source, destination });
    dropped = true;
  }
  return dropped;
}

function waitText({ node, way, most, holders }: Full): string {
  const option = way === 'from' ? '--max-outgoing' : '--max-incoming';
  const text = `waits for its turn: ${holders.length} migrations ${way} ${node} are under way`;
  return `${text}, and no more than ${most} may be (${option} of its agent)`;
}
