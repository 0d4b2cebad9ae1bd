import {
  type AgentServiceServer,
  bidiStream,
  type Caller,
  type CheckpointEvent,
  type CheckpointResult,
  type Container,
  checkContainerName,
  checkId,
  clientStream,
  type DestinationMessage,
  type FetchPagesRequest,
  limits,
  type MigrationSourceServer,
  type OpenSession,
  type PullPagesRequest,
  type RestoreEvent,
  type StoreCheckpointMessage,
  serverStream,
  unary,
} from '@ferry/api';
import { FerryError } from '@ferry/core';
import {
  type DestinationHost,
  describe,
  type Pacer,
  ProgressReporter,
  preflight,
  type SourceHost,
} from '@ferry/migration';
import { Credits } from '@ferry/pages';
import type { Checkpoints } from './checkpoints.js';
import type { Containers } from './containers.js';
import type { Migrations } from './migrations.js';
import { isUnhurried, lengthOf, paced } from './paced.js';
import { chunkSent } from './page-codec.js';
import type { Tickets } from './tickets.js';
import { Works } from './works.js';

export interface AgentParts {
  readonly containers: Containers;
  readonly checkpoints: Checkpoints;
  readonly migrations: Migrations;
  readonly source: SourceHost;
  readonly destination: DestinationHost;
  readonly tickets: Tickets;
  /** What all migrations from this host share. */
  readonly outgoing: Pacer;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

/** What the controller calls. */
export function agentService(parts: AgentParts): AgentServiceServer {
  const { containers, checkpoints, migrations, source, destination, tickets } = parts;
  const runs = new Works<Container>();
  return {
    runContainer: unary(async ({ operationId, spec, epoch }) => {
      if (spec === undefined) throw new FerryError('request.invalid', 'A spec is missing');
      checkContainerName(spec.name);
      return await runs.once(checkId(operationId, 'Operation id'), (signal) =>
        containers.run(spec, epoch, signal),
      );
    }),
    stopContainer: unary(async ({ name, graceMs, remove }) => {
      await containers.stop(checkContainerName(name), { graceMs, remove });
      return {};
    }),
    listContainers: unary(async () => ({ containers: await containers.list() })),
    containerLogs: serverStream(({ name, options }, { signal }) =>
      unknownNames(containers.logs(name, options, signal)),
    ),
    describeContainer: unary(async ({ name }) => {
      const known = await source.host.find(checkContainerName(name));
      if (known === undefined) throw unknownContainer(name);
      return await describe(source, name);
    }),
    preflight: unary(async ({ description }) => {
      if (description === undefined) {
        throw new FerryError('request.invalid', 'A description is missing');
      }
      return await preflight(destination, description);
    }),
    ...checkpointCalls(parts, runs),
    receiveMigration: serverStream((request, { signal }) => {
      tickets.receive(request);
      return migrations.receive(request, signal);
    }),
    resolveMigration: unary(({ migrationId, decision }) =>
      migrations.resolve(migrationId, decision),
    ),
    queryMigration: unary(({ migrationId }) => migrations.query(migrationId)),
    cancelMigration: unary(({ migrationId, reason }) => migrations.cancel(migrationId, reason)),
    deleteCheckpoint: unary(async ({ checkpointId }) => {
      await checkpoints.delete(checkpointId);
      return {};
    }),
  };
}

type CheckpointCalls = Pick<
  AgentServiceServer,
  'checkpointContainer' | 'fetchCheckpoint' | 'storeCheckpoint' | 'restoreContainer' | 'cancelWork'
>;

/** A checkpoint or restore that may be watched by several callers. */
interface Watched<T> {
  readonly progress: ProgressReporter;
  readonly result: Promise<T>;
}

function checkpointCalls(parts: AgentParts, runs: Works<Container>): CheckpointCalls {
  const { checkpoints, now } = parts;
  const writes = new Works<CheckpointResult>();
  const restores = new Works<Container>();
  const reporters = new Map<string, ProgressReporter>();
  const reporterOf = (operationId: string, container: string) => {
    const known = reporters.get(operationId) ?? new ProgressReporter(container, now);
    reporters.set(operationId, known);
    return known;
  };
  return {
    checkpointContainer: serverStream((request, { signal }) => {
      const progress = reporterOf(checkId(request.operationId, 'Operation id'), request.name);
      const result = writes.once(request.operationId, (cancelled) =>
        checkpoints.write(request, { progress, signal: cancelled }),
      );
      return watched<CheckpointResult, CheckpointEvent>({ progress, result }, signal);
    }),
    restoreContainer: serverStream((request, { signal }) => {
      const progress = reporterOf(checkId(request.operationId, 'Operation id'), request.name);
      const result = restores.once(request.operationId, (cancelled) =>
        checkpoints.restore(request, { progress, signal: cancelled }),
      );
      return watched<Container, RestoreEvent>({ progress, result }, signal);
    }),
    fetchCheckpoint: serverStream(({ checkpointId, offset }) =>
      checkpoints.fetch(checkpointId, Number(offset)),
    ),
    storeCheckpoint: clientStream((messages: AsyncIterable<StoreCheckpointMessage>) =>
      checkpoints.store(messages),
    ),
    cancelWork: unary(({ operationId, reason }) => {
      for (const works of [runs, writes, restores]) works.cancel(operationId, reason);
      return {};
    }),
  };
}

/** Progress as it comes, then the result.
 *  @throws why it failed */
async function* watched<T, E extends { event?: unknown }>(
  work: Watched<T>,
  signal: AbortSignal,
): AsyncGenerator<E, void, undefined> {
  const over = work.result.then(
    () => {},
    () => {},
  );
  for await (const value of work.progress.watch(signal, over)) {
    yield { event: { $case: 'progress', value } } as E;
  }
  if (!signal.aborted) yield { event: { $case: 'result', value: await work.result } } as E;
}

function unknownContainer(name: string): FerryError {
  return new FerryError('container.unknown', `There is no container "${name}" on this node`, {
    remedy: 'list the containers of the cluster with "ferry ps"',
  });
}

/** The API's code for a container that is not here. */
async function* unknownNames<T>(items: AsyncIterable<T>): AsyncGenerator<T, void, undefined> {
  try {
    yield* items;
  } catch (error) {
    if ((error as { code?: unknown }).code !== 'container.notFound') throw error;
    throw new FerryError('container.unknown', (error as Error).message, { cause: error });
  }
}

/** What a destination's agent calls. */
export function sourceService(parts: AgentParts): MigrationSourceServer {
  const { migrations, source, tickets, outgoing } = parts;
  return {
    session: bidiStream((messages: AsyncIterable<DestinationMessage>, { caller }) =>
      migrations.session(withLeave(messages, (open) => tickets.open(open, caller))),
    ),
    // The chunks pass by the codec of page-codec.ts, not the generated one.
    pullPages: bidiStream(
      (requests: AsyncIterable<PullPagesRequest>, { caller }) => pages(parts, requests, caller),
      chunkSent,
    ) as unknown as MigrationSourceServer['pullPages'],
    fetchPages: bidiStream(
      (requests: AsyncIterable<FetchPagesRequest>, { caller }) => fetched(parts, requests, caller),
      chunkSent,
    ) as unknown as MigrationSourceServer['fetchPages'],
    pullLayer: serverStream(({ migrationId, digest }, { caller }) => {
      tickets.mayPull(migrationId, caller);
      const { stopped } = migrations.source(migrationId);
      const layer = source.host.layers.exportLayer(digest, { signal: stopped });
      // No container stands while layers are sent.
      const share = { pacer: outgoing, hurry: () => false };
      return fileChunks(paced(layer, lengthOf, share, stopped));
    }),
    pullState: serverStream((request, { caller }) => {
      tickets.mayPull(request.migrationId, caller);
      const session = migrations.source(request.migrationId);
      const buffers = state(parts, request);
      if (!isUnhurried(request.kind)) return fileChunks(buffers);
      const share = { pacer: outgoing, hurry: () => session.isCuttingOver };
      return fileChunks(paced(buffers, lengthOf, share, session.stopped));
    }),
  };
}

/** Passes on what a destination says once it may say it. */
async function* withLeave(
  messages: AsyncIterable<DestinationMessage>,
  check: (open: OpenSession) => void,
): AsyncGenerator<DestinationMessage, void, undefined> {
  for await (const next of messages) {
    if (next.message?.$case === 'open') check(next.message.value);
    yield next;
  }
}

async function* pages(
  { migrations, tickets, outgoing }: AgentParts,
  requests: AsyncIterable<PullPagesRequest>,
  caller: Caller,
) {
  const iterator = requests[Symbol.asyncIterator]();
  const first = await iterator.next();
  if (first.done) throw new FerryError('migrate.invalid', 'The first message is missing');
  tickets.mayPull(first.value.migrationId, caller);
  const session = migrations.source(first.value.migrationId);
  const credits = new Credits();
  credits.grant(Number(first.value.creditBytes));
  const granting = (async () => {
    for (let next = await iterator.next(); !next.done; next = await iterator.next()) {
      credits.grant(Number(next.value.creditBytes));
    }
  })().catch(() => {}); // a broken stream ends the call itself
  const share = { pacer: outgoing, hurry: () => session.isCuttingOver };
  const chunks = session.pages(credits, first.value.round);
  yield* paced(chunks, ({ length }) => length, share, session.stopped);
  // The destination closes its side when it has the last page; ended before that, its credits would break the call.
  await granting;
}

async function* fetched(
  { migrations, tickets }: AgentParts,
  requests: AsyncIterable<FetchPagesRequest>,
  caller: Caller,
) {
  const iterator = requests[Symbol.asyncIterator]();
  const first = await iterator.next();
  if (first.done) return;
  tickets.mayPull(first.value.migrationId, caller);
  const rest = { [Symbol.asyncIterator]: () => iterator };
  yield* migrations.source(first.value.migrationId).fetched(
    (async function* () {
      yield first.value;
      yield* rest;
    })(),
  );
}

async function* state(
  { migrations, source }: AgentParts,
  request: { migrationId: string; kind: string; from: bigint },
): AsyncGenerator<Buffer> {
  const { migrationId, kind, from } = request;
  const session = migrations.source(migrationId);
  const { work, container, stopped: signal } = session;
  const { host } = source;
  const { phase } = session.state;
  if (kind === 'upper') {
    yield* work.exportUpper(signal);
    return;
  }
  if (kind === 'log') {
    yield* host.exportLog(container, { from: Number(from), signal });
    return;
  }
  if (!['described', 'copying', 'freezing', 'frozen'].includes(phase)) {
    throw new FerryError('migrate.order', `"${kind}" cannot be sent while it is ${phase}`);
  }
  if (kind === 'upper-changes') {
    yield* work.exportUpperChanges(signal);
    return;
  }
  if (kind === 'mounts-copy') {
    yield* work.exportMounts(signal);
    return;
  }
  if (kind === 'mounts-changes') {
    yield* work.exportMountChanges('running', signal);
    return;
  }
  // Asked for early, so that it is on its way while the processes are captured.
  await unlessAborted(session.standing, signal);
  if (kind === 'log-rest') {
    await host.flushLog(container, { signal });
    yield* host.exportLog(container, { from: Number(from), signal });
  } else if (kind === 'upper-rest') yield* work.exportUpperChanges(signal);
  else if (kind === 'mounts-rest') yield* work.exportMountChanges('standing', signal);
  else if (kind === 'mounts') yield* host.exportMounts(container, { signal });
  else throw new FerryError('migrate.order', `There is no state "${kind}"`);
}

/** @throws the reason of the abort, when that comes first */
async function unlessAborted(promise: Promise<void>, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  let abort: () => void = () => {};
  const aborted = new Promise<never>((_resolve, reject) => {
    abort = () => reject(signal.reason as Error);
    signal.addEventListener('abort', abort, { once: true });
  });
  try {
    await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

async function* fileChunks(buffers: AsyncIterable<Buffer>) {
  let offset = 0;
  for await (const buffer of buffers) {
    for (let at = 0; at < buffer.length; at += limits.chunkBytes) {
      const data = buffer.subarray(at, at + limits.chunkBytes);
      yield { offset: BigInt(offset), data, sizeBytes: 0n };
      offset += data.length;
    }
  }
}
