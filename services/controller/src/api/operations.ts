import {
  type CancelOperationRequest,
  checkId,
  type GetOperationRequest,
  type ListOperationsRequest,
  type Operation,
  type OperationEvent,
  type WatchOperationRequest,
} from '@ferry/api';
import { FerryError } from '@ferry/core';
import { isFinal, pageSize } from '../store/operations.js';
import { earlyEnd, giveBack } from '../work/runner.js';
import type { Surroundings } from '../work/work.js';

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

  return { get, list, watch, cancel };
}
