import {
  type CancelOperationRequest,
  checkId,
  checkNodeName,
  type GetOperationRequest,
  type ListOperationsRequest,
  type Operation,
  type OperationEvent,
  type ResolveOperationRequest,
  type WatchOperationRequest,
} from '@ferry/api';
import { FerryError } from '@ferry/core';
import { resolveMigration } from '../operations/resolve.js';
import { earlyEnd, giveBack } from '../operations/runner.js';
import type { Surroundings } from '../operations/work.js';
import { isFinal, pageSize } from '../store/operations.js';

/** ClusterService: what concerns operations. */
export function operationCalls(around: Surroundings) {
  const { operations, notices, db } = around.stores;

  async function get(request: GetOperationRequest): Promise<Operation> {
    return await operations.get(checkId(request.id, 'Operation id'));
  }

  async function list(request: ListOperationsRequest) {
    const after = request.pageToken === '' ? '' : checkId(request.pageToken, 'Page token');
    const page = await operations.page({
      after,
      size: pageSize(request.pageSize),
      accept: (operation) =>
        (request.container === '' || operation.container === request.container) &&
        (request.node === '' || [operation.node, operation.source].includes(request.node)) &&
        (request.parent === '' || operation.parent === request.parent) &&
        (!request.activeOnly || !isFinal(operation)),
    });
    return { operations: page.operations, nextPageToken: page.next };
  }

  async function* watch(
    request: WatchOperationRequest,
    { signal }: { signal: AbortSignal },
  ): AsyncIterable<OperationEvent> {
    const ended = AbortSignal.any([signal, around.closing]);
    yield* operations.watch(checkId(request.id, 'Operation id'), ended);
    if (!around.closing.aborted) return;
    throw new FerryError('controller.unavailable', 'The controller shuts down', {
      remedy: 'watch again: another controller, or this one when it is back, goes on',
    });
  }

  async function cancel(request: CancelOperationRequest): Promise<Operation> {
    const id = checkId(request.id, 'Operation id');
    const asked = await operations.update(id, (present) => {
      if (!isFinal(present) && present.progress?.phase === 'post-copy') throw runsAlready(present);
      return isFinal(present) || present.cancelRequested
        ? undefined
        : { ...present, cancelRequested: true };
    });
    if (isFinal(asked)) return asked;
    if (asked.kind === 'drain-schedule') await around.queue.unschedule(id);
    if (asked.attempts > 0) {
      await notices.publish('cancel', id);
      return asked;
    }
    await around.queue.remove(asked);
    // A worker may have begun it in this moment: then the record has an attempt, and the worker
    // sees the wish.
    const ended = await operations.update(id, (present) => {
      if (isFinal(present) || present.attempts > 0) return undefined;
      return { ...present, ...earlyEnd, finishedAtMs: BigInt(db.now()), scheduledAtMs: 0n };
    });
    if (isFinal(ended) && ended.attempts === 0) await giveBack(around, ended);
    else await notices.publish('cancel', id);
    return ended;
  }

  async function resolve(request: ResolveOperationRequest): Promise<Operation> {
    const id = checkId(request.id, 'Operation id');
    const runOn = checkNodeName(request.runOn);
    return await resolveMigration(around, { id, runOn, fenced: checkNodeName(request.fenced) });
  }

  return { get, list, watch, cancel, resolve };
}

/** Post-copy: only what is left of its memory is fetched. */
function runsAlready({ container }: Operation): FerryError {
  const text = `${container} runs at its destination already, and gets the rest of its memory`;
  return new FerryError('operation.committed', `It cannot be called off: ${text}`, {
    remedy: 'wait until it is done; then migrate it back',
  });
}
