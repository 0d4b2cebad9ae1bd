import {
  checkId,
  type DestinationMessage,
  type MigrationStatus,
  type OpenSession,
  type ReceiveMigrationRequest,
  type SourceMessage,
} from '@ferry/api';
import { FerryError } from '@ferry/core';
import {
  type DestinationHost,
  DestinationSession,
  type Journal,
  type Logger,
  type SourceHost,
  type SourcePort,
  SourceSession,
  SourceWork,
} from '@ferry/migration';
import type { Claims } from './claims.js';

export interface MigrationsOptions {
  readonly node: string;
  readonly source: SourceHost;
  readonly destination: DestinationHost;
  readonly journal: Journal;
  readonly vdsoHash: bigint;
  readonly timeoutMs: number;
  readonly claims: Claims;
  readonly connect: (address: string) => SourcePort;
  readonly logger: Logger;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

/** Sessions that are over and still answer for themselves. */
const KEPT_SESSIONS = 500;
const PATIENCE_MS = 120_000;
const CANCEL_PATIENCE_MS = 10_000;

/** The migrations that this agent takes part in, and those it took part in lately. */
export class Migrations {
  readonly #o: MigrationsOptions;
  readonly #sources = new Map<string, SourceSession>();
  readonly #destinations = new Map<string, DestinationSession>();

  constructor(options: MigrationsOptions) {
    this.#o = options;
  }

  // ---- source -----------------------------------------------------------------------------------------------

  /** The Session call: begins a migration, or goes on with one. */
  async *session(
    messages: AsyncIterable<DestinationMessage>,
  ): AsyncGenerator<SourceMessage, void, undefined> {
    const iterator = messages[Symbol.asyncIterator]();
    const first = await iterator.next();
    if (first.done || first.value.message?.$case !== 'open') {
      throw new FerryError('migrate.invalid', 'A session begins with Open');
    }
    const session = this.#opened(first.value.message.value);
    yield* session.talk({ [Symbol.asyncIterator]: () => iterator });
  }

  #opened(open: OpenSession): SourceSession {
    const { migrationId, container, epoch, again } = open;
    checkId(migrationId, 'Migration id');
    const decided = this.#o.journal.get(migrationId);
    if (decided?.decision === 'cancelled') throw cancelledBefore(migrationId);
    const known = this.#sources.get(migrationId);
    if (known !== undefined) {
      if (known.container === container && known.epoch === epoch) return known;
      throw new FerryError('migrate.epoch', `Migration ${migrationId} is about something else`);
    }
    if (decided !== undefined) {
      if (BigInt(decided.epoch) === epoch && decided.container === container) {
        return this.#keepSource(open, { committed: true });
      }
      throw new FerryError('migrate.epoch', `Migration ${migrationId} is about something else`);
    }
    if (again) throw unknown(migrationId);
    return this.#keepSource(open, { committed: false });
  }

  #keepSource(open: OpenSession, options: { committed: boolean }): SourceSession {
    const { migrationId, container, epoch } = open;
    const { source, journal, now, logger, node, vdsoHash, claims, timeoutMs } = this.#o;
    const release = claims.claim(container, `migration ${migrationId}`);
    const work = new SourceWork({ source, journal, migrationId, container, epoch, now });
    const session = new SourceSession({
      ...{ migrationId, container, epoch, node, vdsoHash, work, logger, now },
      timeoutMs: open.timeoutMs === 0 ? timeoutMs : open.timeoutMs,
      ...options,
    });
    keep(this.#sources, migrationId, session);
    void session.ended.then(release);
    return session;
  }

  /** @throws FerryError migrate.unknown */
  source(migrationId: string): SourceSession {
    const session = this.#sources.get(migrationId);
    if (session === undefined) throw unknown(migrationId);
    return session;
  }

  /** Whether a container is held for a destination that may run it. */
  isOutgoing(container: string): boolean {
    return this.#o.journal.committedOf(container) !== undefined;
  }

  // ---- destination ------------------------------------------------------------------------------------------

  /** Begins to receive, or joins what was begun with that id. */
  receive(request: ReceiveMigrationRequest): DestinationSession {
    const { migrationId, container, epoch, sourceNode, sourceAddress, mode } = request;
    checkId(migrationId, 'Migration id');
    const known = this.#destinations.get(migrationId);
    if (known !== undefined) return known;
    if (this.#o.journal.get(migrationId)?.decision === 'cancelled') {
      throw cancelledBefore(migrationId);
    }
    if (!['', 'auto', 'stop-copy'].includes(mode)) {
      throw new FerryError('migrate.mode', `Mode "${mode}" is not known to this agent`, {
        remedy: 'use auto or stop-copy',
      });
    }
    const { node, destination, vdsoHash, timeoutMs, logger, now, claims, connect } = this.#o;
    const release = claims.claim(container, `migration ${migrationId}`);
    const session = new DestinationSession({
      ...{ migrationId, container, epoch, sourceNode, node, vdsoHash, destination, logger, now },
      connect: () => connect(sourceAddress),
      timeoutMs: request.timeoutMs === 0 ? timeoutMs : request.timeoutMs,
      patienceMs: PATIENCE_MS,
    });
    keep(this.#destinations, migrationId, session);
    void session.ended.then(release);
    session.start();
    return session;
  }

  // ---- both -------------------------------------------------------------------------------------------------

  query(migrationId: string): MigrationStatus {
    const session = this.#destinations.get(migrationId) ?? this.#sources.get(migrationId);
    if (session !== undefined) return session.status();
    const decided = this.#o.journal.get(migrationId);
    const state = decided?.decision ?? 'unknown';
    return { migrationId, state, progress: undefined, result: undefined, error: undefined };
  }

  /** Ends a migration that is not yet decided. One that was never heard of can never begin after this. */
  async cancel(migrationId: string, reason: string): Promise<MigrationStatus> {
    checkId(migrationId, 'Migration id');
    const destination = this.#destinations.get(migrationId);
    if (destination !== undefined) {
      destination.cancel(reason);
      await Promise.race([destination.ended, pause(CANCEL_PATIENCE_MS)]);
      return destination.status();
    }
    const source = this.#sources.get(migrationId);
    source?.cancel(reason);
    await source?.decided;
    const status = this.query(migrationId);
    if (status.state !== 'unknown' && status.state !== 'cancelled') return status;
    await this.#o.journal.write({
      ...{ migrationId, decision: 'cancelled', container: source?.container ?? '' },
      epoch: (source?.epoch ?? 0n).toString(),
    });
    return { ...status, state: 'cancelled' };
  }

  /** Ends what may be ended, and waits for it: the agent is about to end. */
  async close(): Promise<void> {
    const ends = [...this.#destinations.values(), ...this.#sources.values()].map((session) => {
      session.cancel('the agent is stopping');
      return Promise.race([session.ended, pause(CANCEL_PATIENCE_MS)]);
    });
    await Promise.all(ends);
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref();
  });
}

function keep<S>(sessions: Map<string, S>, id: string, session: S): void {
  sessions.set(id, session);
  const [oldest] = sessions.keys();
  if (sessions.size > KEPT_SESSIONS && oldest !== undefined) sessions.delete(oldest);
}

function unknown(migrationId: string): FerryError {
  return new FerryError('migrate.unknown', `Migration ${migrationId} is not known here`);
}

function cancelledBefore(migrationId: string): FerryError {
  return new FerryError('migrate.cancelled', `Migration ${migrationId} was cancelled`);
}
