import {
  type CallContext,
  clientStream as plainClientStream,
  serverStream as plainServerStream,
  unary as plainUnary,
} from '@ferry/api';
import { redisError } from '../store/db.js';

/** The handlers of @ferry/api; a Redis that does not answer becomes an error that users
 *  understand. */
export function unary<Q, R>(handler: (request: Q, context: CallContext) => Promise<R>) {
  return plainUnary<Q, R>(async (request, context) => {
    try {
      return await handler(request, context);
    } catch (error) {
      throw redisError(error);
    }
  });
}

export function serverStream<Q, R>(
  handler: (request: Q, context: CallContext) => AsyncIterable<R>,
) {
  return plainServerStream<Q, R>(async function* (request, context) {
    try {
      yield* handler(request, context);
    } catch (error) {
      throw redisError(error);
    }
  });
}

export function clientStream<Q, R>(
  handler: (requests: AsyncIterable<Q>, context: CallContext) => Promise<R>,
) {
  return plainClientStream<Q, R>(async (requests, context) => {
    try {
      return await handler(requests, context);
    } catch (error) {
      throw redisError(error);
    }
  });
}
