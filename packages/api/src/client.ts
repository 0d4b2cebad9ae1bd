import { once } from 'node:events';
import {
  type CallOptions,
  Client,
  type ClientDuplexStream,
  type ClientReadableStream,
  type ClientWritableStream,
  type Metadata,
  type ServiceError,
} from '@grpc/grpc-js';
import { type ChannelKind, channelOptions } from './channel.js';
import { ApiError, fromServiceError } from './error-detail.js';
import { type ExpectedPeer, noSecurity, type Security } from './security/security.js';

/** A method as ts-proto generates it. */
interface Method {
  readonly path: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
  readonly requestSerialize: (value: never) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => unknown;
}
/** A generated `XService` constant. */
export type ServiceShape = Readonly<Record<string, Method>>;

/** Of one call. */
export interface CallSettings {
  /** Ends the call; it then fails with code `rpc.cancelled` and the signal's reason as cause. */
  readonly signal?: AbortSignal;
  /** Unary calls: 10 s unless given. Streams: none unless given. 0: none. */
  readonly deadlineMs?: number;
}

type Request<M extends Method> = M['requestSerialize'] extends (value: infer Q) => Buffer
  ? Q
  : never;
type Response<M extends Method> = ReturnType<M['responseDeserialize']>;
type Sent<M extends Method> = M['requestStream'] extends true
  ? AsyncIterable<Request<M>> | Iterable<Request<M>>
  : Request<M>;
type Received<M extends Method> = M['responseStream'] extends true
  ? AsyncIterable<Response<M>>
  : Promise<Response<M>>;

/** A client of service `S`: a method per call. Streams are AsyncIterables: leaving the loop
 *  early cancels the call. */
export type ServiceClient<S extends ServiceShape> = {
  readonly [K in keyof S]: (request: Sent<S[K]>, settings?: CallSettings) => Received<S[K]>;
} & {
  /** Ends the connection; calls in flight fail. */
  close(): void;
  readonly address: string;
};

const unaryDeadlineMs = 10_000;

export interface ConnectOptions {
  readonly kind?: ChannelKind;
  /** How this program proves who it is; none: only where none is asked for. */
  readonly security?: Security;
}

/** @param address  HOST:PORT
 *  @param expected  who must answer there
 *  @throws FerryError security.insecure */
export function connect<S extends ServiceShape>(
  service: S,
  address: string,
  options: ConnectOptions & { readonly expected: ExpectedPeer },
): ServiceClient<S> {
  const security = options.security ?? noSecurity;
  const channel = channelOptions(options.kind ?? 'control');
  const client = new Client(
    address,
    security.channelCredentials(address, options.expected),
    channel,
  );
  const metadata = () => security.callMetadata();
  const result: Record<string, unknown> = { close: () => client.close(), address };
  for (const [name, method] of Object.entries(service)) {
    result[name] = callOf({ client, address, metadata }, method as AnyMethod);
  }
  return result as ServiceClient<S>;
}

interface AnyMethod extends Omit<Method, 'requestSerialize'> {
  readonly requestSerialize: (value: unknown) => Buffer;
}
interface Peer {
  readonly client: Client;
  readonly address: string;
  readonly metadata: () => Metadata;
}

function callOf(peer: Peer, method: AnyMethod): unknown {
  if (method.requestStream) {
    return method.responseStream
      ? (requests: Messages, settings: CallSettings = {}) => bidi(peer, method, requests, settings)
      : (requests: Messages, settings: CallSettings = {}) =>
          upload(peer, method, requests, settings);
  }
  return method.responseStream
    ? (request: unknown, settings: CallSettings = {}) => download(peer, method, request, settings)
    : (request: unknown, settings: CallSettings = {}) => unary(peer, method, request, settings);
}

type Messages = AsyncIterable<unknown> | Iterable<unknown>;

function callOptions(settings: CallSettings, defaultMs: number): CallOptions {
  const ms = settings.deadlineMs ?? defaultMs;
  return ms === 0 ? {} : { deadline: new Date(Date.now() + ms) };
}

/** Cancels `call` when the signal fires; the returned function stops listening. */
function cancelOn(signal: AbortSignal | undefined, call: { cancel(): void }): () => void {
  if (signal === undefined) return () => {};
  const cancel = () => call.cancel();
  if (signal.aborted) cancel();
  else signal.addEventListener('abort', cancel, { once: true });
  return () => signal.removeEventListener('abort', cancel);
}

function failure(error: unknown, peer: Peer, settings: CallSettings): Error {
  if (settings.signal?.aborted) {
    const cause: unknown = settings.signal.reason;
    return new ApiError(
      { code: 'rpc.cancelled', message: `Call to ${peer.address} was cancelled` },
      { cause },
    );
  }
  if (error instanceof Error && 'details' in error && 'metadata' in error) {
    return fromServiceError(error as ServiceError, peer.address);
  }
  return error instanceof Error ? error : new Error(String(error));
}

function unary(peer: Peer, method: AnyMethod, request: unknown, settings: CallSettings) {
  return new Promise<unknown>((resolve, reject) => {
    const call = peer.client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      peer.metadata(),
      callOptions(settings, unaryDeadlineMs),
      (error, response) => {
        stop();
        if (error === null) resolve(response);
        else reject(failure(error, peer, settings));
      },
    );
    const stop = cancelOn(settings.signal, call);
  });
}

function download(peer: Peer, method: AnyMethod, request: unknown, settings: CallSettings) {
  const call = peer.client.makeServerStreamRequest(
    method.path,
    method.requestSerialize,
    method.responseDeserialize,
    request,
    peer.metadata(),
    callOptions(settings, 0),
  );
  return received(call, peer, settings);
}

/** The messages of a call that is under way. */
async function* received(
  call: ClientReadableStream<unknown> | ClientDuplexStream<unknown, unknown>,
  peer: Peer,
  settings: CallSettings,
): AsyncGenerator<unknown, void, undefined> {
  // A cancelled call emits its error also when nobody iterates any more; without a listener that
  // ends the process.
  call.on('error', () => {});
  const stop = cancelOn(settings.signal, call);
  try {
    for await (const message of call) yield message;
  } catch (error) {
    throw failure(error, peer, settings);
  } finally {
    stop();
    call.cancel();
  }
}

async function upload(peer: Peer, method: AnyMethod, requests: Messages, settings: CallSettings) {
  let finish: (error: unknown, response?: unknown) => void = () => {};
  const response = new Promise<unknown>((resolve, reject) => {
    finish = (error, value) =>
      error === null ? resolve(value) : reject(failure(error, peer, settings));
  });
  response.catch(() => {}); // looked at below, after the sending ended
  const call = peer.client.makeClientStreamRequest(
    method.path,
    method.requestSerialize,
    method.responseDeserialize,
    peer.metadata(),
    callOptions(settings, 0),
    (error, value) => finish(error, value),
  );
  const stop = cancelOn(settings.signal, call);
  try {
    await Promise.race([send(call, requests, response), response]);
    return await response;
  } finally {
    stop();
  }
}

/** Writes every message, never faster than the peer takes them. An error of the source cancels
 *  the call. */
async function send(
  call: ClientWritableStream<unknown> | ClientDuplexStream<unknown, unknown>,
  requests: Messages,
  ended: Promise<unknown>,
): Promise<void> {
  let over = false;
  const end = ended.then(
    () => {
      over = true;
    },
    () => {
      over = true;
    },
  );
  try {
    for await (const request of requests) {
      // The other side may have ended the call between two messages: what is left is not for it.
      if (over || call.destroyed || call.writableEnded) return;
      if (!call.write(request)) await Promise.race([once(call, 'drain').catch(() => {}), end]);
    }
    if (!call.destroyed) call.end();
  } catch (error) {
    call.cancel();
    throw error;
  }
}

async function* bidi(peer: Peer, method: AnyMethod, requests: Messages, settings: CallSettings) {
  const call = peer.client.makeBidiStreamRequest(
    method.path,
    method.requestSerialize,
    method.responseDeserialize,
    peer.metadata(),
    callOptions(settings, 0),
  );
  let sourceError: { error: unknown } | undefined;
  const ended = new Promise<void>((resolve) => {
    call
      .once('close', resolve)
      .once('end', resolve)
      .once('error', () => resolve());
  });
  const sending = send(call, requests, ended).catch((error: unknown) => {
    sourceError = { error };
  });
  try {
    yield* received(call, peer, settings);
    if (sourceError === undefined) return;
  } catch (error) {
    await Promise.race([sending, ended]);
    throw sourceError === undefined ? error : sourceError.error;
  }
  throw sourceError.error;
}
