import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { FerryError } from '@ferry/core';
import {
  type handleBidiStreamingCall,
  type handleClientStreamingCall,
  type handleServerStreamingCall,
  type handleUnaryCall,
  type Metadata,
  Server,
} from '@grpc/grpc-js';
import { serverOptions } from './channel.js';
import { toStatus } from './error-detail.js';
import { callerOf } from './security/guard.js';
import type { Caller } from './security/identity.js';
import { noSecurity, type Security } from './security/security.js';

/** What a handler knows of its call besides the request. */
export interface CallContext {
  /** Fires when the caller cancels, goes away, or its deadline passes. */
  readonly signal: AbortSignal;
  readonly peer: string;
  /** As its certificate or token says; checked before any handler is called. */
  readonly caller: Caller;
  readonly metadata: Metadata;
  readonly path: string;
}

interface AnyCall {
  readonly metadata: Metadata;
  readonly cancelled: boolean;
  getPeer(): string;
  getPath(): string;
  on(event: 'cancelled', listener: () => void): unknown;
}

function contextOf(call: AnyCall): CallContext {
  const controller = new AbortController();
  const abort = () =>
    controller.abort(new FerryError('rpc.cancelled', 'The caller has gone or cancelled'));
  if (call.cancelled) abort();
  else call.on('cancelled', abort);
  return {
    signal: controller.signal,
    peer: call.getPeer(),
    caller: callerOf(call.metadata),
    metadata: call.metadata,
    path: call.getPath(),
  };
}

/** One request, one response. Whatever the handler throws becomes a status (see toStatus). */
export function unary<Q, R>(
  handler: (request: Q, context: CallContext) => Promise<R> | R,
): handleUnaryCall<Q, R> {
  return (call, callback) => {
    const run = async () => await handler(call.request, contextOf(call));
    run().then(
      (response) => callback(null, response),
      (error: unknown) => callback(toStatus(error)),
    );
  };
}

/** One request, an async generator of responses, sent no faster than the caller takes them. */
export function serverStream<Q, R>(
  handler: (request: Q, context: CallContext) => AsyncIterable<R>,
): handleServerStreamingCall<Q, R> {
  return (call) => {
    const context = contextOf(call);
    void pump(call, context, { start: () => handler(call.request, context) });
  };
}

/** Many requests, one response. */
export function clientStream<Q, R>(
  handler: (requests: AsyncIterable<Q>, context: CallContext) => Promise<R>,
): handleClientStreamingCall<Q, R> {
  return (call, callback) => {
    call.on('error', () => {}); // also comes through the iteration
    const run = async () => await handler(messagesOf<Q>(call), contextOf(call));
    run().then(
      (response) => callback(null, response),
      (error: unknown) => callback(toStatus(error)),
    );
  };
}

/** Many requests, many responses.
 *  @param sent  told of each response once the kernel has all of its bytes; not of those that were cut off */
export function bidiStream<Q, R>(
  handler: (requests: AsyncIterable<Q>, context: CallContext) => AsyncIterable<R>,
  sent?: (response: R) => void,
): handleBidiStreamingCall<Q, R> {
  return (call) => {
    const context = contextOf(call);
    void pump(call, context, { start: () => handler(messagesOf<Q>(call), context), sent });
  };
}

/** The caller's messages. A handler that stops reading early must not destroy the stream with
 *  it: the status of a duplex call travels on the same object. */
function messagesOf<Q>(call: Readable): AsyncIterable<Q> {
  return {
    [Symbol.asyncIterator]: () =>
      call.iterator({ destroyOnReturn: false }) as AsyncIterableIterator<Q>,
  };
}

interface Writable<R> {
  write(message: R, written: (error?: Error | null) => void): boolean;
  end(): unknown;
  emit(event: 'error', error: unknown): boolean;
  on(event: 'error', listener: () => void): unknown;
}

/** Sends what `start` yields; never rejects. `for await` calls the generator's `return` when the
 *  caller is gone. */
async function pump<R>(
  call: Writable<R>,
  context: CallContext,
  { start, sent }: { start: () => AsyncIterable<R>; sent?: ((message: R) => void) | undefined },
): Promise<void> {
  call.on('error', () => {});
  try {
    for await (const message of start()) {
      if (context.signal.aborted) return;
      const written = (error?: Error | null) => {
        if (error === undefined || error === null) sent?.(message);
      };
      if (!call.write(message, written)) await drained(call, context.signal);
    }
    if (!context.signal.aborted) call.end();
  } catch (error) {
    if (!context.signal.aborted) call.emit('error', toStatus(error));
  }
}

async function drained(call: Writable<never>, signal: AbortSignal): Promise<void> {
  try {
    await once(call as unknown as NodeJS.EventEmitter, 'drain', { signal });
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

/** A server with Ferry's limits, that lets in whom `security` admits; add services, then startServer. */
export function createServer(security: Security = noSecurity): Server {
  return new Server({ ...serverOptions(), interceptors: security.interceptors() });
}

/** Listens.
 *  @param listen  HOST:PORT; port 0 takes a free one
 *  @returns the port
 *  @param security  the one that createServer got
 *  @throws FerryError server.listen, security.insecure */
export function startServer(
  server: Server,
  listen: string,
  security: Security = noSecurity,
): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(listen, security.serverCredentials(listen), (error, port) => {
      if (error === null) resolve(port);
      else
        reject(
          new FerryError('server.listen', `Cannot listen on ${listen}`, {
            cause: error,
            remedy: 'choose another port, or stop the program that holds this one',
          }),
        );
    });
  });
}

/** Lets calls in flight end, for at most `graceMs`, then breaks them. */
export async function stopServer(server: Server, graceMs: number): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(() => server.forceShutdown(), graceMs);
    server.tryShutdown(() => {
      clearTimeout(timer);
      resolve();
    });
  });
}
