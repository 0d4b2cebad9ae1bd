import {
  ApiError,
  checkId,
  type DestinationMessage,
  type HandOver,
  type MigrationEvent,
  MigrationResult,
  type MigrationStatus,
  type OpenSession,
  type ReceiveMigrationRequest,
  type SourceMessage,
} from '@ferry/api';
import { FerryError, unreachable } from '@ferry/core';
import {
  CutoverHistory,
  CutoverTurns,
  type DestinationHost,
  DestinationSession,
  findCopy,
  isHeld,
  type Journal,
  type JournalEntry,
  type Logger,
  opening,
  type Pacer,
  parseMode,
  parsePolicy,
  readBootId,
  type SourceHost,
  type SourcePort,
  SourceSession,
  SourceWork,
} from '@ferry/migration';
import type { Claims } from './claims.js';
import { pacedPort } from './paced.js';

export interface MigrationsOptions {
  readonly node: string;
  readonly source: SourceHost;
  readonly destination: DestinationHost;
  readonly journal: Journal;
  readonly vdsoHash: bigint;
  readonly timeoutMs: number;
  /** After so long without an answer of the other side a decided migration is called in doubt. */
  readonly patienceMs: number;
  /** What all migrations to this host share. */
  readonly incoming: Pacer;
  readonly claims: Claims;
  /** @param peer  whose agent must answer, and what lets the migration begin there */
  readonly connect: (
    address: string,
    peer: { node: string; ticket: Buffer | undefined },
  ) => SourcePort;
  readonly logger: Logger;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

/** Sessions that are over and still answer for themselves. */
const KEPT_SESSIONS = 500;
const CANCEL_PATIENCE_MS = 10_000;
const RESOLVE_PATIENCE_MS = 20_000;
const RESOLVE_PAUSE_MS = 50;
/** How long an abort is told to those who may not have heard it. */
const SAID_MS = 600_000;
/** In one heartbeat; more than that are never unsettled at once. */
const HAND_OVERS_MAX = 200;

/** The migrations that this agent takes part in, and those it took part in lately. */
export class Migrations {
  readonly #o: MigrationsOptions;
  readonly #sources = new Map<string, SourceSession>();
  readonly #destinations = new Map<string, DestinationSession>();

  readonly #history = new CutoverHistory();
  readonly #turnsIn = new CutoverTurns();
  readonly #turnsOut = new CutoverTurns();

  #wake: () => void = () => {};

  constructor(options: MigrationsOptions) {
    this.#o = options;
    options.journal.onChange = () => this.#wake();
  }

  /** Resolves at the next decision. */
  changed(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  /** A migration is under way here, one way or the other. */
  isMoving(): boolean {
    return this.#sessions().some(({ hasEnded }) => !hasEnded);
  }

  /** A container stands for its migration, and each millisecond counts. */
  isCuttingOver(): boolean {
    return this.#sessions().some(({ isCuttingOver }) => isCuttingOver);
  }

  #sessions(): (SourceSession | DestinationSession)[] {
    return [...this.#sources.values(), ...this.#destinations.values()];
  }

  /** Goes on with what the agent before this one had begun and not ended; returns when no container is in between. */
  async settle(): Promise<void> {
    const { journal, logger } = this.#o;
    for (const entry of journal.unsettled()) {
      const { migrationId, container, decision, role } = entry;
      logger.warn('settling', { migrationId, container, role, decision });
      if (decision === 'committed') await this.#holdCommitted(entry);
      else if (decision === 'returned') await this.#goOn(entry, 'returned').ended;
      else await this.#receiveOn(entry);
    }
  }

  /** The cgroup freezer has held it: made sure of before anything else. */
  async #holdCommitted(entry: JournalEntry): Promise<void> {
    const { host } = this.#o.source;
    const found = await host.find(entry.container);
    if (found?.pid !== undefined) {
      await host.freeze(entry.container);
      await host.lock(entry.container);
    }
    this.#goOn(entry, 'committed');
  }

  #goOn(entry: JournalEntry, restart: 'committed' | 'returned'): SourceSession {
    const { migrationId, container, peer } = entry;
    const open = { migrationId, container, epoch: BigInt(entry.epoch), timeoutMs: 0 };
    return this.#keepSource({ ...open, destinationNode: peer?.node ?? '' }, { restart });
  }

  async #receiveOn(entry: JournalEntry): Promise<void> {
    const { migrationId, container, decision, bootId } = entry;
    const isReceiver =
      decision === 'receiving' ||
      decision === 'granted' ||
      decision === 'fetching' ||
      decision === 'resumed';
    if (!isReceiver) return;
    const { host } = this.#o.destination;
    const epoch = BigInt(entry.epoch);
    const copy = await findCopy(host, container, { epoch, bootId });
    const record = (await host.find(container))?.record;
    const ours =
      record !== undefined &&
      (['incoming', 'restoring'].includes(record.phase) || BigInt(record.epoch) === epoch);
    const { node: sourceNode = '', address: sourceAddress = '' } = entry.peer ?? {};
    const begun = { migrationId, container, epoch, sourceNode, sourceAddress, timeoutMs: 0 };
    this.#keepDestination(begun, { decision, copy, ours });
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
    const { migrationId, container, epoch, again, sourceBootId } = open;
    checkId(migrationId, 'Migration id');
    const entry = this.#o.journal.get(migrationId);
    const known = this.#sources.get(migrationId);
    for (const about of entry?.decision === 'cancelled' ? [] : [known, entry]) {
      if (about === undefined) continue;
      if (about.container !== container || BigInt(about.epoch) !== epoch)
        throw another(migrationId);
    }
    const answer = opening({
      ...{ session: known?.state.phase, decision: entry?.decision, again },
      rebooted: sourceBootId !== '' && sourceBootId !== readBootId(),
    });
    switch (answer) {
      case 'begin':
        return this.#keepSource(open, {});
      case 'join':
        if (known !== undefined) return known;
        throw unknown(migrationId);
      case 'beganBefore':
        known?.cancel('the destination began anew');
        throw beganBefore(migrationId);
      case 'cancelled':
        throw cancelledBefore(migrationId);
      case 'rebooted':
        throw rebooted(migrationId);
      case 'unknown':
        throw unknown(migrationId);
      default:
        unreachable(answer);
    }
  }

  #keepSource(
    open: Pick<OpenSession, 'migrationId' | 'container' | 'epoch' | 'timeoutMs'> & {
      readonly destinationNode: string;
    },
    options: { restart?: 'committed' | 'returned' },
  ): SourceSession {
    const { migrationId, container, epoch, destinationNode } = open;
    const { source, journal, now, logger, node, vdsoHash, claims, timeoutMs } = this.#o;
    const release = claims.claim(container, `migration ${migrationId}`);
    const work = new SourceWork({
      ...{ source, journal, migrationId, container, epoch, now },
      peer: { node: destinationNode, address: '' },
      returned: options.restart === 'returned',
    });
    const session = new SourceSession({
      ...{ migrationId, container, epoch, node, vdsoHash, work, logger, now },
      turns: this.#turnsOut,
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

  /** Begins to receive, or joins what was begun with that id: its progress, then its result.
   *  @throws FerryError why it failed */
  receive(
    request: ReceiveMigrationRequest,
    signal: AbortSignal,
  ): AsyncGenerator<MigrationEvent, void, undefined> {
    const { migrationId, container, sourceAddress } = request;
    checkId(migrationId, 'Migration id');
    const known = this.#destinations.get(migrationId);
    if (known !== undefined) {
      if (known.epoch !== request.epoch || known.container !== container) {
        throw another(migrationId);
      }
      known.sourceAt(sourceAddress);
      return known.events(signal);
    }
    const decided = this.#o.journal.get(migrationId);
    if (decided?.decision === 'cancelled') throw cancelledBefore(migrationId);
    if (decided !== undefined) return replayed(statusOf(decided));
    return this.#keepDestination(request, undefined).events(signal);
  }

  #keepDestination(
    begun: Pick<
      ReceiveMigrationRequest,
      | 'migrationId'
      | 'container'
      | 'epoch'
      | 'sourceNode'
      | 'sourceAddress'
      | 'timeoutMs'
      | 'ticket'
    > &
      Partial<Pick<ReceiveMigrationRequest, 'mode' | 'policy'>>,
    restart: ConstructorParameters<typeof DestinationSession>[0]['restart'],
  ): DestinationSession {
    const { migrationId, container, epoch, sourceNode, sourceAddress } = begun;
    const { node, destination, vdsoHash, timeoutMs, patienceMs, logger, now } = this.#o;
    const { journal, claims, connect, incoming: pacer } = this.#o;
    const wishes = { mode: parseMode(begun.mode ?? ''), policy: parsePolicy(begun.policy) };
    const release = claims.claim(container, `migration ${migrationId}`);
    const share = { pacer, hurry: () => session.isCuttingOver };
    const session: DestinationSession = new DestinationSession({
      ...{ migrationId, container, epoch, sourceNode, node, vdsoHash, destination, logger, now },
      ...{ journal, sourceAddress, patienceMs, history: this.#history, turns: this.#turnsIn },
      ...wishes,
      fetching: () => claims.mayEnd(container),
      connect: (address) =>
        pacedPort(connect(address, { node: sourceNode, ticket: begun.ticket }), share),
      timeoutMs: begun.timeoutMs === 0 ? timeoutMs : begun.timeoutMs,
      ...(restart === undefined ? {} : { restart }),
    });
    keep(this.#destinations, migrationId, session);
    void session.released.then(release);
    session.start();
    return session;
  }

  // ---- both -------------------------------------------------------------------------------------------------

  query(migrationId: string): MigrationStatus {
    const session = this.#destinations.get(migrationId) ?? this.#sources.get(migrationId);
    if (session !== undefined) return session.status();
    const decided = this.#o.journal.get(migrationId);
    return decided === undefined ? noStatus(migrationId) : statusOf(decided);
  }

  /** What this side has to say about migrations that are not settled, for the other side to hear by way of the
   *  controller. */
  handOvers(): HandOver[] {
    const words: HandOver[] = [];
    const say = (session: SourceSession | DestinationSession, role: string, state: string) => {
      const { migrationId, container, epoch } = session;
      words.push({ migrationId, container, epoch, role, state });
    };
    for (const session of this.#sources.values()) {
      const { phase } = session.state;
      if (phase === 'committed') say(session, 'source', 'committed');
      if (this.#isOver(session) && session.endedMsAgo < SAID_MS) say(session, 'source', 'returned');
    }
    for (const session of this.#destinations.values()) {
      const { phase } = session.state;
      if (phase === 'asking') say(session, 'destination', 'asking');
      if (phase === 'reporting') say(session, 'destination', 'resumed');
      if (phase === 'givingBack') say(session, 'destination', 'abandoned');
    }
    return words.slice(-HAND_OVERS_MAX);
  }

  /** Its container is this host's, and no agent after this one will begin the migration anew. */
  #isOver({ migrationId, state }: SourceSession): boolean {
    if (state.phase === 'returned') return true;
    return state.phase === 'aborted' && this.#o.journal.get(migrationId) !== undefined;
  }

  /** What the other sides have told the controller. */
  heard(words: readonly HandOver[]): void {
    for (const { migrationId, epoch, role, state } of words) {
      if (role === 'destination') {
        const session = this.#sources.get(migrationId);
        if (session?.epoch !== epoch) continue;
        if (state === 'resumed' || state === 'abandoned') session.peerSays(state);
      } else {
        const session = this.#destinations.get(migrationId);
        if (session?.epoch !== epoch) continue;
        if (state === 'committed' || state === 'returned') session.peerSays(state);
      }
    }
  }

  /** The operator's decision about a migration in doubt.
   *  @throws FerryError resolve.impossible */
  async resolve(migrationId: string, decision: string): Promise<MigrationStatus> {
    checkId(migrationId, 'Migration id');
    const error = new FerryError('migrate.resolved', 'An operator decided where it runs');
    const destination = this.#destinations.get(migrationId);
    const source = this.#sources.get(migrationId);
    if (decision === 'run-here' && destination?.state.phase === 'asking') {
      if (destination.lacksMemory) throw lacking(destination.container);
      destination.peerSays('committed');
    } else if (decision === 'run-here' && source !== undefined && isHeld(source.state.phase)) {
      source.peerSays('abandoned', error);
    } else if (decision === 'give-up' && destination !== undefined) destination.giveUp(error);
    // What was decided so before is not an error: the operator may repeat it.
    for (let waited = 0; waited < RESOLVE_PATIENCE_MS; waited += RESOLVE_PAUSE_MS) {
      const status = this.query(migrationId);
      const done = decision === 'run-here' ? status.copy === 'runs' : status.copy === 'none';
      if (done) return status;
      await pause(RESOLVE_PAUSE_MS);
    }
    const { copy } = this.query(migrationId);
    throw new FerryError(
      'resolve.impossible',
      `This node cannot ${decision === 'run-here' ? 'run it' : 'give it up'}: its copy is "${copy}"`,
      { remedy: 'look at the log of its agent; the other node may have what this one lacks' },
    );
  }

  /** Ends a migration that is not yet decided. One that was never heard of can never begin after this. */
  async cancel(migrationId: string, reason: string): Promise<MigrationStatus> {
    checkId(migrationId, 'Migration id');
    const destination = this.#destinations.get(migrationId);
    if (destination !== undefined) {
      destination.cancel(reason);
      // It runs here: what is left of its memory comes, whoever wishes what.
      if (destination.state.phase === 'fetching') return destination.status();
      await Promise.race([destination.ended, pause(CANCEL_PATIENCE_MS)]);
      return destination.status();
    }
    const source = this.#sources.get(migrationId);
    source?.cancel(reason);
    await source?.decided;
    const status = this.query(migrationId);
    if (status.state !== 'unknown' && status.state !== 'cancelled') return status;
    await this.#o.journal.write({
      ...{ migrationId, role: 'source', decision: 'cancelled', bootId: readBootId() },
      ...{ container: source?.container ?? '', epoch: (source?.epoch ?? 0n).toString() },
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

/** Post-copy: what it lacks went with its source. */
function lacking(container: string): FerryError {
  const text = `Memory of ${container} is at its source alone: it cannot run without that`;
  return new FerryError('resolve.impossible', text, {
    remedy: "start the source's agent; if its host is gone for good, so is the container",
  });
}

function unknown(migrationId: string): FerryError {
  return new FerryError('migrate.unknown', `Migration ${migrationId} is not known here`);
}

/** Its host was started anew, and its journal with it: it cannot tell what it had decided. Not a word that ends it. */
function rebooted(migrationId: string): FerryError {
  const text = `The host was started anew since migration ${migrationId} began`;
  return new FerryError('migrate.rebooted', text, {
    remedy: 'its copy is gone; "ferry resolve" lets the destination run the container',
  });
}

function another(migrationId: string): FerryError {
  return new FerryError('migrate.epoch', `Migration ${migrationId} is about something else`);
}

function beganBefore(migrationId: string): FerryError {
  return new FerryError('migrate.order', `Migration ${migrationId} has begun before`);
}

function noStatus(migrationId: string): MigrationStatus {
  return {
    ...{ migrationId, state: 'unknown', role: '', copy: '' },
    ...{ progress: undefined, result: undefined, error: undefined },
  };
}

/** What the journal alone can say. */
function statusOf(entry: JournalEntry): MigrationStatus {
  const { migrationId, role, decision, error, result } = entry;
  const status = { ...noStatus(migrationId), role };
  if (error !== undefined) status.error = { ...error, problems: [] };
  switch (decision) {
    case 'succeeded':
      status.result = MigrationResult.fromJSON(JSON.parse(result ?? '{}'));
      return { ...status, state: 'succeeded', copy: 'runs' };
    case 'destroyed':
      return { ...status, state: 'succeeded', copy: 'none' };
    case 'returned':
    case 'reclaimed':
    case 'aborted':
      return { ...status, state: 'failed', copy: 'runs' };
    case 'abandoned': {
      const state = error?.code === 'migrate.cancelled' ? 'cancelled' : 'failed';
      return { ...status, state, copy: 'none' };
    }
    case 'cancelled':
      return { ...status, state: 'cancelled', copy: role === 'source' ? 'runs' : 'none' };
    case 'committed':
      return { ...status, state: 'committed', copy: 'frozen' };
    default:
      return { ...status, state: 'running', copy: '' };
  }
}

/** The outcome of a migration that ended before this agent began. */
async function* replayed(status: MigrationStatus): AsyncGenerator<MigrationEvent, void, undefined> {
  const { migrationId, result, error } = status;
  if (result !== undefined) {
    yield { event: { $case: 'result', value: result } };
    return;
  }
  if (error !== undefined) throw new ApiError(error);
  throw new FerryError('migrate.failed', `Migration ${migrationId} had failed`);
}

function cancelledBefore(migrationId: string): FerryError {
  return new FerryError('migrate.cancelled', `Migration ${migrationId} was cancelled`);
}
