import { setImmediate } from 'node:timers/promises';
import {
  type DestinationMessage,
  type MigrationEvent,
  type MigrationResult,
  type MigrationStatus,
  MigrationResult as ResultMessage,
  type SessionDone,
  type SourceDescription,
  type SourceMessage,
  toErrorDetail,
} from '@ferry/api';
import { errorText, FerryError, unreachable } from '@ferry/core';
import { lossesOf, TreeImage } from '@ferry/image';
import { collectYoung } from '@ferry/linux';
import type { Policy } from './convergence.js';
import type { CutoverHistory } from './cutover-history.js';
import type { CutoverTurns } from './cutover-turns.js';
import {
  type DestinationAction,
  type DestinationEvent,
  type DestinationState,
  destinationRestart,
  destinationStart,
  destinationStep,
  type FoundCopy,
  isDestinationEnd,
} from './destination-machine.js';
import {
  copyOf,
  errorOf,
  isCuttingOver,
  isWordOfSource,
  modeOf,
  predicted,
  runsHere,
  stateNameOf,
} from './destination-status.js';
import { DestinationWork, type MigrationMode } from './destination-work.js';
import { faultPoint } from './fault-points.js';
import { readBootId } from './host-facts.js';
import { Hurry } from './hurry.js';
import { ImageReceiver, type ReceivedImage } from './image-receiver.js';
import type { Decision, Journal, JournalEntry } from './journal.js';
import type { Logger } from './logger.js';
import type { DestinationHost } from './offer.js';
import { Outbox } from './outbox.js';
import { ProgressReporter } from './progress.js';
import type { SourcePort } from './source-port.js';
import { SourceQuestions } from './source-questions.js';

export interface DestinationSessionOptions {
  readonly migrationId: string;
  readonly container: string;
  readonly epoch: bigint;
  readonly sourceNode: string;
  readonly node: string;
  readonly vdsoHash: bigint;
  readonly destination: DestinationHost;
  readonly journal: Journal;
  readonly sourceAddress: string;
  readonly connect: (address: string) => SourcePort;
  readonly timeoutMs: number;
  readonly mode: MigrationMode;
  readonly policy: Policy;
  readonly history: CutoverHistory;
  /** Of all migrations to this host. */
  readonly turns: CutoverTurns;
  /** After so long without an answer of a source that may have decided, the migration is called in doubt. It is asked on. */
  readonly patienceMs: number;
  /** What the journal says that was decided before this agent started, and what is here of it. */
  readonly restart?: {
    readonly decision: 'receiving' | 'granted' | 'fetching' | 'resumed';
    readonly copy: FoundCopy;
    /** The container of that name here is the one of this migration. */
    readonly ours: boolean;
  };
  /** Called when it runs and lacks memory: from then on it may be stopped, but not moved. */
  readonly fetching: () => void;
  readonly logger: Logger;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

type Message = NonNullable<DestinationMessage['message']>;
type WorkAction = Exclude<DestinationAction, 'tellAbort' | 'reopen'>;

/** A cutover that takes longer is reported again. */
const QUIET_MS = 300;
const REOPEN_PAUSE_MS = 200;
const REOPEN_PAUSE_MS_MAX = 3000;
const AGAIN_PAUSE_MS = 1000;

/** One migration, at the destination: feeds the machine with what happens, and performs its actions. */
export class DestinationSession {
  readonly #o: DestinationSessionOptions;
  readonly #work: DestinationWork;
  readonly #progress: ProgressReporter;
  readonly #questions: SourceQuestions;
  readonly #hurry = new Hurry();
  readonly #startedAt: number;
  readonly #over = new AbortController();
  /** Fires when the source will not answer what it is asked. */
  readonly #unanswered = new AbortController();
  readonly #timer: NodeJS.Timeout;
  readonly ended: Promise<void>;
  /** Resolves once nothing is done to the container any more: it is over, or the container is this host's. */
  readonly released: Promise<void>;
  /** Resolves once it can be told how it stands: it is over, or in doubt. */
  readonly #known: Promise<void>;
  #port: SourcePort;
  #sourceAddress: string;
  #end: () => void = () => {};
  #release: () => void = () => {};
  #know: () => void = () => {};
  #state: DestinationState = destinationStart;
  #queue: Promise<void> = Promise.resolve();
  #outbox = new Outbox<DestinationMessage>();
  /** A stream to the source is open, or being opened. */
  #streaming = false;
  #lostSince: number | undefined;
  #reopenPauseMs = REOPEN_PAUSE_MS;
  #completed: Promise<void> | undefined;
  #described: SourceDescription | undefined;
  #receiver: ImageReceiver | undefined;
  #received: ReceivedImage | undefined;
  /** Kept for what is to be told of it, which is not worked out while the container stands. */
  #image: Buffer | undefined;
  #losses: readonly string[] = [];
  #done: SessionDone | undefined;
  #totalMs = 0;
  /** The last reason given for ending it. */
  #reason: unknown;

  constructor(options: DestinationSessionOptions) {
    this.#o = options;
    this.#sourceAddress = options.sourceAddress;
    this.#port = options.connect(options.sourceAddress);
    this.#startedAt = options.now();
    this.#progress = new ProgressReporter(options.container, options.now);
    this.#questions = new SourceQuestions(
      (message) => this.#send(message),
      this.#unanswered.signal,
    );
    this.#work = new DestinationWork({
      ...options,
      port: this.#port,
      connectAnew: () => options.connect(this.#sourceAddress),
      progress: this.#progress,
      questions: this.#questions,
    });
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.released = new Promise((resolve) => {
      this.#release = resolve;
    });
    this.#known = new Promise((resolve) => {
      this.#know = resolve;
    });
    this.#timer = setTimeout(() => {
      const error = new FerryError(
        'migrate.deadline',
        'The migration took too long before COMMIT',
        {
          remedy: 'the container runs on at its source',
        },
      );
      this.#dispatch({ kind: 'timeout', error });
    }, options.timeoutMs);
  }

  get migrationId(): string {
    return this.#o.migrationId;
  }

  get container(): string {
    return this.#o.container;
  }

  /** Begins, or goes on where the journal says. `ended` resolves when it is over, whatever came of it. */
  start(): void {
    const { restart, sourceNode } = this.#o;
    if (restart === undefined) {
      this.#progress.tell('preflight', `asking ${sourceNode}`, 0.02);
      this.#open(false);
      return;
    }
    clearTimeout(this.#timer);
    if (restart.ours) this.#work.adopt();
    void this.#restart(restart);
  }

  async #restart({ decision, copy }: NonNullable<DestinationSessionOptions['restart']>) {
    const hasPager = copy === 'ran' && this.#work.hasPager && (await this.#work.adoptPager());
    const fetching = hasPager && decision !== 'resumed';
    if (hasPager && !fetching) await this.#work.endPager();
    if (fetching) this.#o.fetching();
    const { state, actions } = destinationRestart(decision, fetching ? 'fetching' : copy);
    this.#state = state;
    this.#o.logger.warn('destination', { ...this.#names, phase: state.phase, event: 'restart' });
    this.#perform(actions);
    if (state.phase === 'inDoubt') this.#know();
  }

  /** Where the source's agent is now. */
  sourceAt(address: string): void {
    if (address === this.#sourceAddress || isDestinationEnd(this.#state.phase)) return;
    this.#sourceAddress = address;
    const before = this.#port;
    this.#port = this.#o.connect(address);
    // Streams that were under way break, and are opened again.
    before.close();
  }

  /** What the source has told somebody else, who passes it on; or the operator, who has fenced it. */
  peerSays(word: 'committed' | 'returned', error?: unknown): void {
    // Before READY it is not asked for, and says nothing that this side could act on.
    if (!['asking', 'givingBack', 'inDoubt'].includes(this.#state.phase)) return;
    if (word === 'committed') this.#dispatch({ kind: 'granted' });
    else {
      const text = `The container is ${this.#o.sourceNode}'s again`;
      this.#dispatch({ kind: 'aborted', error: error ?? new FerryError('migrate.aborted', text) });
    }
  }

  /** The operator's decision that this copy never runs. */
  giveUp(error: unknown): void {
    const { phase } = this.#state;
    if (phase === 'asking') this.#dispatch({ kind: 'failed', error });
    if (phase === 'inDoubt') this.#dispatch({ kind: 'aborted', error });
  }

  get state(): DestinationState {
    return this.#state;
  }

  get hasEnded(): boolean {
    return isDestinationEnd(this.#state.phase);
  }

  /** Its container stands, and each millisecond counts. */
  get isCuttingOver(): boolean {
    return isCuttingOver(this.#state);
  }

  /** Part of its memory is at its source alone. */
  get lacksMemory(): boolean {
    return this.#work.comesLater && this.#work.later === undefined;
  }

  get epoch(): bigint {
    return this.#o.epoch;
  }

  get #names() {
    return { migrationId: this.#o.migrationId, container: this.#o.container };
  }

  cancel(reason: string): void {
    const error = new FerryError('migrate.cancelled', `The migration was cancelled: ${reason}`);
    this.#dispatch({ kind: 'cancel', error });
  }

  status(): MigrationStatus {
    const { error } = this.#state;
    return {
      migrationId: this.#o.migrationId,
      state: stateNameOf(this.#state),
      progress: this.#progress.last,
      result: runsHere(this.#state) ? this.#result() : undefined,
      error: error === undefined ? undefined : toErrorDetail(error),
      role: 'destination',
      copy: copyOf(this.#state),
    };
  }

  /** Progress from now on, then the result: what ReceiveMigration streams.
   *  @throws why it failed */
  async *events(signal: AbortSignal): AsyncGenerator<MigrationEvent, void, undefined> {
    for await (const value of this.#progress.watch(signal, this.#known)) {
      yield { event: { $case: 'progress', value } };
    }
    if (signal.aborted) return;
    const { phase, error } = this.#state;
    if (runsHere(this.#state)) {
      yield { event: { $case: 'result', value: this.#result() } };
      return;
    }
    if (phase === 'failed') throw error;
    throw new FerryError('migrate.inDoubt', `It is not known where ${this.#o.container} may run`, {
      cause: error,
      remedy: `start the agent of ${this.#o.sourceNode}: it settles by itself then; or see "ferry resolve --help"`,
    });
  }

  #result(): MigrationResult {
    const { migrationId, container, sourceNode: from, node: to, epoch } = this.#o;
    const { outcome, later } = this.#work;
    const done = this.#done;
    return {
      later,
      ...{ migrationId, container, from, to, epoch },
      mode: modeOf(outcome, later !== undefined),
      rounds: outcome?.rounds.length ?? 0,
      predicted: predicted(outcome),
      downtimeMs: done?.downtimeMs ?? 0,
      totalMs: this.#totalMs,
      bytesRaw: BigInt(this.#work.counters.raw),
      bytesWire: BigInt(this.#work.counters.wire),
      parts: [...(done?.parts ?? this.#work.parts), ...this.#work.lateParts],
      warnings: [...this.#work.warnings, ...this.#notCarried(), ...(done?.warnings ?? [])],
    };
  }

  /** What of the container's descriptors did not come along, worked out once. */
  #notCarried(): readonly string[] {
    if (this.#image !== undefined) this.#losses = lossesOf(TreeImage.decode(this.#image));
    this.#image = undefined;
    return this.#losses;
  }

  #dispatch(event: DestinationEvent): void {
    const { state, actions } = destinationStep(this.#state, event);
    const before = this.#state;
    const changed = state.phase !== before.phase;
    this.#state = state;
    this.#hurry.while(this.isCuttingOver);
    if (!this.isCuttingOver && state.phase !== 'copying') this.#work.endTurn();
    if ('error' in event) this.#reason = event.error;
    if (changed || state.silent !== before.silent) this.#entered(event);
    this.#perform(actions);
    if (!changed || !isDestinationEnd(state.phase)) return;
    // What was begun is finished first.
    void this.#queue.then(() => {
      this.#work.endTurn();
      this.#outbox.close();
      this.#over.abort();
      this.#port.close();
      this.#release();
      this.#know();
      this.#end();
    });
  }

  #entered(event: DestinationEvent): void {
    const { logger } = this.#o;
    const { phase, error, silent } = this.#state;
    const fields = { ...this.#names, phase, event: event.kind };
    if (error === undefined) logger.info('destination', fields);
    else logger.warn('destination', { ...fields, error: errorText(error) });
    if (phase === 'cleaning' || phase === 'abandoning') {
      this.#unanswered.abort(error);
      this.#work.stop(error);
    }
    if (['asking', 'cleaning', 'abandoning'].includes(phase)) clearTimeout(this.#timer);
    if (phase === 'reporting') this.#totalMs = this.#o.now() - this.#startedAt;
    // Of one that runs here, and waits for memory, there is more to be heard.
    if (silent === true && phase !== 'fetching') this.#know();
    if (phase === 'inDoubt') this.#know();
    if (phase === 'fetching' && event.kind === 'resumeDone') this.#o.fetching();
  }

  // ---- the stream to the source -----------------------------------------------------------------------------

  #open(again: boolean): void {
    const outbox = new Outbox<DestinationMessage>();
    this.#outbox = outbox;
    this.#streaming = true;
    const { migrationId, epoch, container, node, timeoutMs } = this.#o;
    // Only who has a copy to run may ask for it on the ground that the source's copy went with its host.
    const asks = this.#state.phase === 'asking';
    const sourceBootId = asks ? (this.#described?.description?.host?.bootId ?? '') : '';
    this.#send({
      $case: 'open',
      value: {
        ...{ migrationId, epoch, container, destinationNode: node, timeoutMs, again },
        sourceBootId,
      },
    });
    void this.#listen(outbox);
  }

  async #listen(outbox: Outbox<DestinationMessage>): Promise<void> {
    let error: unknown;
    try {
      const messages = this.#port.session(outbox, { signal: this.#over.signal });
      for await (const { message } of messages) {
        this.#heard();
        if (message !== undefined) this.#take(message);
      }
      error = new FerryError('migrate.lost', `The agent of ${this.#o.sourceNode} ended the stream`);
    } catch (caught) {
      error = caught;
    }
    if (this.#over.signal.aborted || this.#outbox !== outbox) return;
    this.#streaming = false;
    if (isWordOfSource(error, this.#state.phase)) this.#dispatch({ kind: 'aborted', error });
    else this.#dispatch({ kind: 'lost', error });
  }

  #heard(): void {
    if (this.#lostSince === undefined) return;
    this.#lostSince = undefined;
    this.#reopenPauseMs = REOPEN_PAUSE_MS;
    this.#dispatch({ kind: 'reopened' });
  }

  #take(message: NonNullable<SourceMessage['message']>): void {
    try {
      this.#accept(message);
    } catch (error) {
      this.#dispatch({ kind: 'failed', error });
    }
  }

  #accept(message: NonNullable<SourceMessage['message']>): void {
    switch (message.$case) {
      case 'described':
        this.#described = message.value;
        this.#dispatch({ kind: 'described' });
        return;
      case 'layout':
      case 'round':
        this.#questions.take(message);
        return;
      case 'frozen':
        this.#work.takeNeighbours(message.value.neighbours);
        if (this.#questions.take(message)) return;
        this.#receiver = new ImageReceiver(message.value);
        this.#progress.announced(Number(message.value.pagesBytes));
        this.#progress.tell('capture', 'taking the state of the processes', 0.25);
        return;
      case 'segments':
        (this.#questions.receiver ?? this.#receiver)?.takeSegments(message.value);
        return;
      case 'image':
        (this.#questions.receiver ?? this.#receiver)?.takeImage(message.value);
        return;
      case 'imageEnd':
        if (this.#questions.receiver !== undefined) {
          this.#questions.finish(message.value.sha256);
          return;
        }
        if (this.#receiver === undefined) throw new FerryError('migrate.order', 'No image began');
        this.#received = this.#receiver.finish(message.value.sha256);
        this.#image = this.#received.image;
        this.#receiver = undefined;
        this.#dispatch({ kind: 'imageReceived' });
        return;
      case 'together':
        for (const { message: each } of message.value.messages) {
          if (each === undefined || each.$case === 'together') {
            throw new FerryError('migrate.order', 'The source sent messages within messages');
          }
          this.#accept(each);
        }
        return;
      case 'frames':
        this.#work.takeFrames(message.value.frames);
        return;
      case 'grant':
        if (message.value.epoch === this.#o.epoch) this.#dispatch({ kind: 'granted' });
        return;
      case 'done':
        this.#done = message.value;
        this.#learn(message.value);
        this.#dispatch({ kind: 'done' });
        return;
      case 'abort':
        this.#dispatch({ kind: 'aborted', error: errorOf(message.value.error) });
        return;
      case 'progress':
        return;
      default:
        unreachable(message);
    }
  }

  #learn({ downtimeMs, parts }: SessionDone): void {
    const { outcome } = this.#work;
    if (outcome === undefined || downtimeMs === 0) return;
    const pages = parts.filter(({ name }) => name === 'last round' || name === 'last pages');
    const other = pages.reduce((sum, { ms }) => sum + ms, outcome.stopMs);
    this.#o.history.learn(downtimeMs, other);
  }

  #send(message: Message): void {
    this.#outbox.push({ message });
  }

  // ---- actions ----------------------------------------------------------------------------------------------

  #perform(actions: readonly DestinationAction[]): void {
    for (const action of actions) {
      // Told at once: the work that runs may be what it ends.
      if (action === 'tellAbort') {
        this.#send({ $case: 'abort', value: { error: toErrorDetail(this.#reason) } });
      } else if (action === 'reopen') void this.#reopen();
      else this.#enqueue(action);
    }
  }

  #enqueue(action: WorkAction): void {
    this.#queue = this.#queue.then(async () => {
      try {
        await faultPoint(`destination.before.${action}`);
        await this.#act(action);
        await faultPoint(`destination.after.${action}`);
      } catch (error) {
        const { migrationId, logger } = this.#o;
        logger.warn('destination', { migrationId, action, error: errorText(error) });
        // How it ended is no longer in question, only that it is written down: a full disk has room again some time.
        if (action === 'recordEnd') setTimeout(() => this.#enqueue(action), AGAIN_PAUSE_MS).unref();
        this.#dispatch({ kind: 'failed', error, during: action });
      }
    });
  }

  async #act(action: WorkAction): Promise<void> {
    switch (action) {
      case 'prepare':
        await this.#work.prepare(this.#described);
        this.#dispatch({ kind: 'prepareDone' });
        return;
      case 'copy':
        await this.#work.copy();
        this.#dispatch({ kind: 'copyDone' });
        return;
      case 'askFreeze':
        this.#progress.quietFor(QUIET_MS);
        this.#progress.tell('freeze', 'stopping the processes at the source', 0.2);
        collectYoung(); // not in what follows
        this.#send({ $case: 'freeze', value: { later: this.#work.asksLater } });
        this.#work.beginRest();
        return;
      case 'restore':
        // Beside it. What cannot be written now is tried again when it is due.
        this.#o.journal.prepare(this.#entry('granted')).catch(() => {});
        await this.#work.restore(this.#received);
        this.#received = undefined;
        this.#dispatch({ kind: 'restoreDone' });
        return;
      case 'tellReady':
        this.#progress.tell('restore', 'asking for the right to run', 0.95);
        this.#watchLoader();
        this.#send({ $case: 'ready', value: { bytesRaw: BigInt(this.#work.countersNow.raw) } });
        return;
      case 'record':
        await this.#record('receiving');
        return;
      case 'recordGrant':
        await this.#record(this.#work.comesLater ? 'fetching' : 'granted');
        this.#dispatch({ kind: 'grantRecorded' });
        return;
      case 'resume':
        await this.#work.resume();
        this.#dispatch({ kind: 'resumeDone', later: this.#work.comesLater });
        return;
      case 'fetch':
        // Beside the other actions, which go on meanwhile.
        void this.#fetch();
        return;
      case 'tellRunning':
        this.#send({ $case: 'running', value: { parts: this.#work.parts } });
        return;
      case 'tellResumed':
        this.#progress.tell('resume', `runs on ${this.#o.node}`, 0.99);
        this.#send({ $case: 'resumed', value: { parts: this.#work.parts } });
        await setImmediate(); // first it leaves: the downtime ends with it
        return;
      case 'complete':
        this.#completed ??= this.#complete();
        return;
      case 'clean':
        await this.#clean();
        return;
      case 'tellAbandoned':
        this.#send({ $case: 'abandoned', value: { error: toErrorDetail(this.#state.error) } });
        return;
      case 'recordEnd':
        await this.#completed;
        await this.#recordEnd();
        return;
      default:
        unreachable(action);
    }
  }

  async #record(decision: Decision, end: Partial<JournalEntry> = {}): Promise<void> {
    await this.#o.journal.write({ ...this.#entry(decision), ...end });
  }

  #entry(decision: Decision): JournalEntry {
    const { migrationId, container, epoch, sourceNode: node } = this.#o;
    return {
      ...{ migrationId, role: 'destination', decision, container, epoch: epoch.toString() },
      ...{ peer: { node, address: this.#sourceAddress }, bootId: readBootId() },
    };
  }

  /** For whoever asks after this agent was started again. Where nothing was recorded there is nothing to end. */
  async #recordEnd(): Promise<void> {
    if (this.#o.journal.get(this.#o.migrationId) === undefined) return;
    if (this.#state.phase === 'succeeded') {
      const result = JSON.stringify(ResultMessage.toJSON(this.#result()));
      await this.#record('succeeded', { result });
      return;
    }
    const { code, message, remedy } = toErrorDetail(this.#state.error);
    await this.#record('abandoned', { error: { code, message, remedy } });
  }

  /** It runs: this does not end before it is done. */
  async #complete(): Promise<void> {
    await this.#until(async () => {
      await this.#work.complete();
      if (!this.#work.comesLater) await this.#record('resumed');
    });
    if (!this.#work.comesLater) this.#release();
  }

  async #fetch(): Promise<void> {
    try {
      await this.#work.fetch();
    } catch (error) {
      this.#o.logger.error('destination', { ...this.#names, error: errorText(error) });
      this.#dispatch({ kind: 'failed', error, during: 'fetch' });
      return;
    }
    await this.#completed;
    await this.#until(() => this.#recordWhole());
    this.#release();
    this.#dispatch({ kind: 'fetchDone' });
  }

  /** Nothing of it is at its source alone any more: an agent that starts again need not find the pager. */
  async #recordWhole(): Promise<void> {
    await faultPoint('destination.before.recordWhole');
    await this.#record('resumed');
    await this.#work.endPager();
    await faultPoint('destination.after.recordWhole');
  }

  /** What has to be done, and can be some time: a full disk has room again. */
  async #until(work: () => Promise<void>): Promise<void> {
    for (;;) {
      try {
        await work();
        return;
      } catch (error) {
        this.#o.logger.error('destination', { ...this.#names, error: errorText(error) });
        await pause(AGAIN_PAUSE_MS);
      }
    }
  }

  async #clean(): Promise<void> {
    try {
      await this.#work.remove();
    } catch (error) {
      await pause(AGAIN_PAUSE_MS); // it is tried again
      throw error;
    }
    this.#dispatch({ kind: 'cleanDone' });
  }

  /** From READY on nothing here may end before it is told to go. */
  #watchLoader(): void {
    if (this.#work.isAlive) return;
    this.#dispatch({
      kind: 'failed',
      error: new FerryError('restore.failed', 'The restorer ended'),
    });
  }

  async #reopen(): Promise<void> {
    if (this.#streaming) return;
    this.#streaming = true;
    const { now, patienceMs } = this.#o;
    this.#lostSince ??= now();
    if (now() - this.#lostSince > patienceMs && this.#state.silent !== true) {
      this.#streaming = false;
      const error = new FerryError(
        'migrate.unreachable',
        `The agent of ${this.#o.sourceNode} does not answer`,
      );
      this.#dispatch({ kind: 'unreachable', error });
      return;
    }
    await pause(this.#reopenPauseMs);
    this.#reopenPauseMs = Math.min(this.#reopenPauseMs * 1.5, REOPEN_PAUSE_MS_MAX);
    if (!this.#over.signal.aborted) this.#open(true);
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref();
  });
}
