import { progressOf } from './run.js';
import { perform, refresh, type Work, type WorkResult } from './work.js';

/** Ends a container, and unless it is to be kept forgets it. */
export async function stopContainer(work: Work): Promise<WorkResult> {
  const { containers, nodes } = work.stores;
  const name = work.operation.container;
  const record = await containers.get(name);
  const graceMs = Number(work.params.graceMs ?? 0);
  const remove = work.params.keep !== 'true';
  if (record.node !== '') {
    await nodes.getUp(record.node);
    work.report(progressOf(work, 'stop', `stopping ${name} on ${record.node}`, 0.2));
    const request = { operationId: work.operation.id, name, graceMs, remove };
    await perform(work, {
      node: record.node,
      call: async (agent, settings) => {
        await agent.stopContainer(request, { ...settings, deadlineMs: graceMs + 60_000 });
      },
      // Stopping cannot be taken back.
      cancel: async () => {},
    });
  }
  if (remove) await containers.remove(name, work.operation.id);
  else await refresh(work, record.node);
  return undefined;
}
