import {
  type DestinationMessage,
  fromErrorDetail,
  type MigrationEvent,
  type MigrationResult,
  type MigrationStatus,
  type SessionDone,
  type SourceDescription,
  type SourceMessage,
  toErrorDetail,
} from '@ferry/api';
import { errorText, FerryError, unreachable } from '@ferry/core';
import {
  type DestinationAction,
  type DestinationEvent,
  type DestinationState,
  destinationStart,
  destinationStep,
  isDestinationEnd,
} from './destination-machine.js';
import { DestinationWork } from './destination-work.js';
import { ImageReceiver, type ReceivedImage } from './image-receiver.js';
import type { Logger } from './logger.js';
import type { DestinationHost } from './offer.js';
import { Outbox } from './outbox.js';
import { ProgressReporter } from './progress.js';
import type { SourcePort } from './source-port.js';

export interface DestinationSessionOptions {
  readonly migrationId: string;
  readonly container: string;
  readonly epoch: bigint;
  readonly sourceNode: string;
  readonly node: string;
  readonly vdsoHash: bigint;
  readonly destination: DestinationHost;
  readonly connect: () => SourcePort;
  readonly timeoutMs: number;
  /** How long a lost source is sought again once it may have decided. */
  readonly patienceMs: number;
  readonly logger: Logger;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

type Message = NonNullable<DestinationMessage['message']>;
type WorkAction = Exclude<DestinationAction, 'tellAbort'>;

const REOPEN_PAUSE_MS = 200;

/** One migration, at the destination: feeds the machine with what happens, and performs its actions. */
export class DestinationSession {
  readonly #o: DestinationSessionOptions;
  readonly #work: DestinationWork;
  readonly #port: SourcePort;
  readonly #progress: ProgressReporter;
  readonly #startedAt: number;
  readonly #over = new AbortController();
  readonly #timer: NodeJS.Timeout;
  readonly ended: Promise<void>;
  #end: () => void = () => {};
  #state: DestinationState = destinationStart;
  #queue: Promise<void> = Promise.resolve();
  #outbox = new Outbox<DestinationMessage>();
  #lostSince: number | undefined;
  #described: SourceDescription | undefined;
  #receiver: ImageReceiver | undefined;
  #received: ReceivedImage | undefined;
  #done: SessionDone | undefined;
  #totalMs = 0;
  /** The last reason given for ending it. */
  #reason: unknown;

  constructor(options: DestinationSessionOptions) {
    this.#o = options;
    this.#port = options.connect();
    this.#startedAt = options.now();
    this.#progress = new ProgressReporter(options.container, options.now);
    this.#work = new DestinationWork({ ...options, port: this.#port, progress: this.#progress });
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
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

  /** Begins. `ended` resolves when it is over, whatever came of it. */
  start(): void {
    this.#progress.tell('preflight', `asking ${this.#o.sourceNode}`, 0.02);
    this.#open(false);
  }

  cancel(reason: string): void {
    const error = new FerryError('migrate.cancelled', `The migration was cancelled: ${reason}`);
    this.#dispatch({ kind: 'cancel', error });
  }

  status(): MigrationStatus {
    const { phase, error } = this.#state;
    return {
      migrationId: this.#o.migrationId,
      state: this.#stateName(),
      progress: this.#progress.last,
      result: phase === 'succeeded' ? this.#result() : undefined,
      error: error === undefined ? undefined : toErrorDetail(error),
    };
  }

  #stateName(): string {
    const { phase, error } = this.#state;
    switch (phase) {
      case 'succeeded':
        return 'succeeded';
      case 'failed':
        return codeOf(error) === 'migrate.cancelled' ? 'cancelled' : 'failed';
      case 'inDoubt':
        return 'in-doubt';
      case 'resuming':
      case 'reporting':
        return 'committed';
      default:
        return 'running';
    }
  }

  /** Progress from now on, then the result: what ReceiveMigration streams.
   *  @throws why it failed */
  async *events(signal: AbortSignal): AsyncGenerator<MigrationEvent, void, undefined> {
    for await (const value of this.#progress.watch(signal, this.ended)) {
      yield { event: { $case: 'progress', value } };
    }
    if (signal.aborted) return;
    const { phase, error } = this.#state;
    if (phase === 'succeeded') {
      yield { event: { $case: 'result', value: this.#result() } };
      return;
    }
    if (phase !== 'inDoubt') throw error;
    throw new FerryError('migrate.inDoubt', `It is not known where ${this.#o.container} may run`, {
      cause: error,
      remedy: `start the agent of ${this.#o.sourceNode} and ask again`,
    });
  }

  #result(): MigrationResult {
    const { migrationId, container, sourceNode: from, node: to, epoch } = this.#o;
    const done = this.#done;
    return {
      ...{ migrationId, container, from, to, epoch, mode: 'stop-copy' },
      downtimeMs: done?.downtimeMs ?? 0,
      totalMs: this.#totalMs,
      bytesRaw: BigInt(this.#work.counters.raw),
      bytesWire: BigInt(this.#work.counters.wire),
      parts: done?.parts ?? this.#work.parts,
      warnings: [...this.#work.warnings, ...(done?.warnings ?? [])],
    };
  }

  #dispatch(event: DestinationEvent): void {
    const { state, actions } = destinationStep(this.#state, event);
    const changed = state.phase !== this.#state.phase;
    this.#state = state;
    if ('error' in event) this.#reason = event.error;
    if (changed) this.#entered(event);
    this.#perform(actions);
    if (!changed || !isDestinationEnd(state.phase)) return;
    // What was begun is finished first.
    void this.#queue.then(() => {
      this.#outbox.close();
      this.#over.abort();
      this.#port.close();
      this.#end();
    });
  }

  #entered(event: DestinationEvent): void {
    const { migrationId, container, logger } = this.#o;
    const { phase, error } = this.#state;
    const fields = { migrationId, container, phase, event: event.kind };
    if (error === undefined) logger.info('destination', fields);
    else logger.warn('destination', { ...fields, error: errorText(error) });
    if (phase === 'cleaning') this.#work.stop(error);
    if (phase === 'asking' || phase === 'cleaning') clearTimeout(this.#timer);
    if (phase === 'succeeded') this.#totalMs = this.#o.now() - this.#startedAt;
  }

  // ---- the stream to the source -----------------------------------------------------------------------------

  #open(again: boolean): void {
    const outbox = new Outbox<DestinationMessage>();
    this.#outbox = outbox;
    const { migrationId, epoch, container, node, timeoutMs } = this.#o;
    this.#send({
      $case: 'open',
      value: { migrationId, epoch, container, destinationNode: node, timeoutMs, again },
    });
    void this.#listen(outbox);
  }

  async #listen(outbox: Outbox<DestinationMessage>): Promise<void> {
    let error: unknown;
    try {
      const messages = this.#port.session(outbox, { signal: this.#over.signal });
      for await (const { message } of messages) {
        this.#lostSince = undefined;
        if (message !== undefined) this.#take(message);
      }
      error = new FerryError('migrate.lost', `The agent of ${this.#o.sourceNode} ended the stream`);
    } catch (caught) {
      error = caught;
    }
    if (this.#over.signal.aborted || this.#outbox !== outbox) return;
    // An answer that refuses is a word of the source; a broken line is none.
    if (isRefusal(error)) this.#dispatch({ kind: 'aborted', error });
    else this.#dispatch({ kind: 'lost', error });
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
      case 'frozen':
        this.#receiver = new ImageReceiver(message.value);
        this.#progress.total(Number(message.value.pagesBytes));
        this.#progress.tell('capture', 'taking the state of the processes', 0.25);
        return;
      case 'segments':
        this.#receiver?.takeSegments(message.value);
        return;
      case 'image':
        this.#receiver?.takeImage(message.value);
        return;
      case 'imageEnd':
        if (this.#receiver === undefined) throw new FerryError('migrate.order', 'No image began');
        this.#received = this.#receiver.finish(message.value.sha256);
        this.#receiver = undefined;
        this.#dispatch({ kind: 'imageReceived' });
        return;
      case 'grant':
        if (message.value.epoch === this.#o.epoch) this.#dispatch({ kind: 'granted' });
        return;
      case 'done':
        this.#done = message.value;
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

  #send(message: Message): void {
    this.#outbox.push({ message });
  }

  // ---- actions ----------------------------------------------------------------------------------------------

  #perform(actions: readonly DestinationAction[]): void {
    for (const action of actions) {
      // Told at once: the work that runs may be what it ends.
      if (action === 'tellAbort') {
        this.#send({ $case: 'abort', value: { error: toErrorDetail(this.#reason) } });
      } else this.#enqueue(action);
    }
  }

  #enqueue(action: WorkAction): void {
    this.#queue = this.#queue.then(async () => {
      try {
        await this.#act(action);
      } catch (error) {
        const { migrationId, logger } = this.#o;
        logger.warn('destination', { migrationId, action, error: errorText(error) });
        this.#dispatch({ kind: 'failed', error });
      }
    });
  }

  async #act(action: WorkAction): Promise<void> {
    switch (action) {
      case 'prepare':
        await this.#work.prepare(this.#described);
        this.#dispatch({ kind: 'prepareDone' });
        return;
      case 'askFreeze':
        this.#progress.tell('freeze', 'stopping the processes at the source', 0.2);
        this.#send({ $case: 'freeze', value: {} });
        return;
      case 'restore':
        await this.#work.restore(this.#received);
        this.#received = undefined;
        this.#dispatch({ kind: 'restoreDone' });
        return;
      case 'tellReady':
        this.#progress.tell('restore', 'asking for the right to run', 0.95);
        this.#watchLoader();
        this.#send({ $case: 'ready', value: { bytesRaw: BigInt(this.#work.counters.raw) } });
        return;
      case 'resume':
        await this.#work.resume();
        this.#dispatch({ kind: 'resumeDone' });
        return;
      case 'tellResumed':
        this.#progress.tell('resume', `runs on ${this.#o.node}`, 0.99);
        this.#send({ $case: 'resumed', value: { parts: this.#work.parts } });
        await this.#work.complete();
        return;
      case 'reopen':
        await this.#reopen();
        return;
      case 'clean':
        await this.#work.remove();
        this.#dispatch({ kind: 'cleanDone' });
        return;
      default:
        unreachable(action);
    }
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
    const { now, patienceMs } = this.#o;
    this.#lostSince ??= now();
    if (now() - this.#lostSince > patienceMs) {
      const error = new FerryError(
        'migrate.unreachable',
        `The agent of ${this.#o.sourceNode} does not answer`,
      );
      this.#dispatch({ kind: 'unreachable', error });
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, REOPEN_PAUSE_MS));
    this.#open(true);
  }
}

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | undefined)?.code;
  return typeof code === 'string' ? code : '';
}

/** An error that the source's agent itself answered with, not one of the way there. */
function isRefusal(error: unknown): boolean {
  const code = codeOf(error);
  return code !== '' && !/^(rpc|migrate\.lost)/.test(code) && code !== 'internal';
}

function errorOf(detail: Parameters<typeof fromErrorDetail>[0] | undefined): Error {
  return detail === undefined
    ? new FerryError('migrate.aborted', 'The source gave up')
    : fromErrorDetail(detail);
}
