import { ApiError, type CheckpointResult, type Container } from '@ferry/api';
import { InvariantError } from '@ferry/core';
import { withoutPrefix } from '../plan/view.js';
import { describe, refuse } from './place.js';
import { cordoned, progressOf } from './run.js';
import {
  cancelled,
  perform,
  refresh,
  throwIfStopping,
  type Work,
  type WorkResult,
} from './work.js';

/** The agent writes a container's complete state into a file of its own; it is fetched by
 *  DownloadCheckpoint. */
export async function checkpointContainer(work: Work): Promise<WorkResult> {
  const { containers, nodes } = work.stores;
  const { id: operationId, container: name } = work.operation;
  const record = await containers.get(name);
  await nodes.getUp(record.node);
  const leaveRunning = work.params.leaveRunning === 'true';
  if (work.memory.begun === undefined) {
    const { blockers } = await describe(work, record);
    refuse(blockers, { code: 'checkpoint.blocked', message: `"${name}" cannot be checkpointed` });
    if (work.cancel.aborted) throw cancelled(work);
    await work.stores.operations.remember(operationId, { begun: 'true' });
  }
  const value = await perform<CheckpointResult>(work, {
    node: record.node,
    call: async (agent, settings, alive) => {
      const sealFor = Buffer.from(work.params.sealFor ?? '', 'hex');
      const request = { operationId, name, checkpointId: operationId, leaveRunning, sealFor };
      for await (const { event } of agent.checkpointContainer(request, settings)) {
        alive();
        if (event?.$case === 'progress') work.report(event.value);
        if (event?.$case === 'result') return event.value;
      }
      throwIfStopping(work);
      throw streamEnded('checkpoint');
    },
    cancel: (agent) => agent.cancelWork({ operationId, reason: 'cancelled by a user' }),
  });
  if (!leaveRunning) await containers.remove(name, operationId);
  return { $case: 'checkpoint', value: { ...value, container: name, node: record.node } };
}

/** Starts a container from a checkpoint that was uploaded to the node; its name is reserved. */
export async function restoreContainer(work: Work): Promise<WorkResult> {
  const { containers, nodes, operations } = work.stores;
  const { id: operationId, container: name, node } = work.operation;
  const checkpointId = work.params.checkpointId;
  if (checkpointId === undefined) throw new InvariantError('A restore without a checkpoint');
  try {
    const { cordoned: isCordoned } = (await nodes.getUp(node)).node;
    const begun = work.memory.epoch !== undefined;
    if (isCordoned && !begun) throw cordoned(node);
    if (work.cancel.aborted && !begun) throw cancelled(work);
    const epoch = begun ? BigInt(work.memory.epoch ?? 0) : await containers.nextEpoch(name);
    await operations.remember(operationId, { epoch: epoch.toString() });
    work.report(progressOf(work, 'restore', `restoring ${name} on ${node}`, 0.05));
    const started = await perform<Container>(work, {
      node,
      call: async (agent, settings, alive) => {
        const request = { operationId, checkpointId, name, epoch };
        for await (const { event } of agent.restoreContainer(request, settings)) {
          alive();
          if (event?.$case === 'progress') work.report(event.value);
          if (event?.$case === 'result') return event.value;
        }
        throwIfStopping(work);
        throw streamEnded('restore');
      },
      cancel: (agent) => agent.cancelWork({ operationId, reason: 'cancelled by a user' }),
    });
    const address = withoutPrefix(started.spec?.network?.address || started.address);
    if (address !== '') await containers.takeAddress(address, name);
    await containers.claim(name, { node, epoch, spec: started.spec });
    await refresh(work, node);
    return { $case: 'started', value: { ...started, address, name, node, epoch } };
  } catch (error) {
    if (!work.stop.aborted) await containers.remove(name, operationId);
    throw error;
  }
}

/** A stream without a result: the agent went away in the middle, and is asked again. */
function streamEnded(what: string): ApiError {
  return new ApiError({ code: 'rpc.failed', message: `The ${what} ended without a result` });
}
