import { isFinal } from '../store/operations.js';
import { startOperation } from './start.js';
import type { Surroundings } from './work.js';

/** One tick of a drain schedule: starts a drain, unless the one before still runs. Repeatable. */
export async function tick(
  around: Surroundings,
  job: { readonly id: string; readonly dueAtMs: number },
): Promise<void> {
  const { operations } = around.stores;
  const schedule = await operations.find(job.id);
  if (schedule === undefined || isFinal(schedule)) {
    await around.queue.unschedule(job.id);
    return;
  }
  const last = schedule.children.at(-1);
  const previous = last === undefined ? undefined : await operations.find(last);
  const busy = previous !== undefined && !isFinal(previous);
  const next = await around.queue.nextTick(job.id);
  const id = `${job.id}-${job.dueAtMs.toString(36)}`;
  if (!busy) {
    const params = await operations.params(job.id);
    const { node, mode } = schedule;
    await startOperation(around, { id, kind: 'drain', node, mode, parent: job.id, params });
  }
  await operations.update(job.id, (present) => {
    if (isFinal(present)) return undefined;
    const known = busy || present.children.includes(id);
    const children = known ? present.children : [...present.children, id].slice(-childrenKept);
    return { ...present, children, scheduledAtMs: BigInt(next ?? 0) };
  });
}

/** Drains of a schedule that its record names; older ones are found by `parent`. */
const childrenKept = 50;
