import { createHash } from 'node:crypto';
import {
  type DestinationMessage,
  type ErrorDetail,
  fromErrorDetail,
  limits,
  type MigrationStatus,
  type Part,
  type SourceMessage,
  toErrorDetail,
} from '@ferry/api';
import { errorText, FerryError, unreachable } from '@ferry/core';
import { type Credits, type OutgoingChunk, PageReader } from '@ferry/pages';
import type { Logger } from './logger.js';
import { Outbox } from './outbox.js';
import {
  isCommitted,
  isSourceEnd,
  type SourceAction,
  type SourceEvent,
  type SourceState,
  sourceStart,
  sourceStep,
} from './source-machine.js';
import type { FrozenImage, SourceWork } from './source-work.js';

export interface SourceSessionOptions {
  readonly migrationId: string;
  readonly container: string;
  readonly epoch: bigint;
  readonly node: string;
  readonly vdsoHash: bigint;
  /** For everything before COMMIT; then the container is thawed. */
  readonly timeoutMs: number;
  readonly work: SourceWork;
  readonly logger: Logger;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  /** The journal says that it was committed before this agent started. */
  readonly committed?: boolean;
}

type Message = NonNullable<SourceMessage['message']>;

/** One migration, at the source: feeds the machine with what happens, and performs its actions. */
export class SourceSession {
  readonly #o: SourceSessionOptions;
  readonly #parts: Part[] = [];
  /** Fires when work before COMMIT is to stop. */
  readonly #stop = new AbortController();
  readonly #timer: NodeJS.Timeout;
  readonly ended: Promise<void>;
  /** Resolves once it is committed or aborted. */
  readonly decided: Promise<void>;
  #state: SourceState;
  #begun: boolean;
  #outbox: Outbox<SourceMessage> | undefined;
  #queue: Promise<void> = Promise.resolve();
  #frozen: FrozenImage | undefined;
  #reader: PageReader | undefined;
  #downtimeMs = 0;
  #end: () => void = () => {};
  #decide: () => void = () => {};

  constructor(options: SourceSessionOptions) {
    this.#o = options;
    this.#begun = options.committed === true;
    this.#state = this.#begun ? { phase: 'committed', connected: false } : sourceStart.state;
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.decided = new Promise((resolve) => {
      this.#decide = resolve;
    });
    this.#timer = setTimeout(() => {
      const error = new FerryError(
        'migrate.deadline',
        'The migration took too long before COMMIT',
        {
          remedy: 'the container runs on; look at what the destination was waiting for',
        },
      );
      this.dispatch({ kind: 'timeout', error });
    }, options.timeoutMs);
    if (this.#begun) clearTimeout(this.#timer);
  }

  get container(): string {
    return this.#o.container;
  }

  get epoch(): bigint {
    return this.#o.epoch;
  }

  get state(): SourceState {
    return this.#state;
  }

  get work(): SourceWork {
    return this.#o.work;
  }

  /** Fires when work before COMMIT is to stop. */
  get stopped(): AbortSignal {
    return this.#stop.signal;
  }

  /** Talks with a destination, until either side ends it: the handler of the Session call. The first time it begins the
   *  work; later it goes on where the machine is. */
  async *talk(messages: AsyncIterable<DestinationMessage>): AsyncGenerator<SourceMessage> {
    const outbox = new Outbox<SourceMessage>();
    const first = !this.#begun;
    this.#begun = true;
    if (!first && this.#state.connected) {
      this.dispatch({ kind: 'lost', error: replaced() });
    }
    this.#outbox?.close();
    this.#outbox = outbox;
    if (first) this.#perform(sourceStart.actions);
    else this.dispatch({ kind: 'reopened' });
    void this.#listen(messages, outbox);
    try {
      yield* outbox;
    } finally {
      this.#lost(outbox, new FerryError('migrate.lost', 'The destination has gone'));
    }
  }

  /** The operator's wish to end it. */
  cancel(reason: string): void {
    const error = new FerryError('migrate.cancelled', `The migration was cancelled: ${reason}`);
    this.dispatch({ kind: 'cancel', error });
  }

  status(): MigrationStatus {
    const { phase, error } = this.#state;
    const state = isCommitted(phase)
      ? phase === 'done'
        ? 'succeeded'
        : 'committed'
      : phase === 'aborted'
        ? errorCode(error) === 'migrate.cancelled'
          ? 'cancelled'
          : 'failed'
        : 'running';
    return {
      migrationId: this.#o.migrationId,
      state,
      progress: undefined,
      result: undefined,
      error: error === undefined ? undefined : toErrorDetail(error),
    };
  }

  /** The frozen memory, as chunks, no more of them under way than `credits` allow.
   *  @throws FerryError migrate.order while the container is not frozen, or a second time */
  async *pages(credits: Credits): AsyncGenerator<OutgoingChunk, void, undefined> {
    if (
      this.#state.phase !== 'frozen' ||
      this.#frozen === undefined ||
      this.#reader !== undefined
    ) {
      throw new FerryError('migrate.order', 'The memory of this container cannot be read now');
    }
    this.#reader = new PageReader(this.#frozen.segments);
    for await (const chunk of this.#reader.chunks(this.stopped)) {
      try {
        await credits.take(chunk.length, this.stopped);
      } catch (error) {
        chunk.release();
        throw error;
      }
      yield chunk;
    }
  }

  dispatch(event: SourceEvent): void {
    const { state, actions } = sourceStep(this.#state, event);
    const changed = state.phase !== this.#state.phase;
    this.#state = state;
    if (changed) this.#log(event);
    if (state.phase === 'aborting') this.#stop.abort(state.error);
    if (state.phase === 'aborting' || isCommitted(state.phase)) clearTimeout(this.#timer);
    this.#perform(actions);
    if (isCommitted(state.phase) || isSourceEnd(state.phase)) this.#decide();
    if (isSourceEnd(state.phase)) this.#end();
  }

  #log(event: SourceEvent): void {
    const { migrationId, container, logger } = this.#o;
    const fields = { migrationId, container, phase: this.#state.phase, event: event.kind };
    if (this.#state.phase !== 'aborting') logger.info('source', fields);
    else logger.warn('source', { ...fields, error: errorText(this.#state.error) });
  }

  // ---- the destination's messages ---------------------------------------------------------------------------

  async #listen(messages: AsyncIterable<DestinationMessage>, outbox: Outbox<SourceMessage>) {
    try {
      for await (const { message } of messages) {
        if (this.#outbox !== outbox) return;
        if (message !== undefined) this.#take(message);
      }
      this.#lost(outbox, new FerryError('migrate.lost', 'The destination has gone'));
    } catch (error) {
      this.#lost(outbox, error);
    }
  }

  #lost(outbox: Outbox<SourceMessage>, error: unknown): void {
    if (this.#outbox !== outbox) return;
    outbox.close();
    if (this.#state.connected) this.dispatch({ kind: 'lost', error });
  }

  #take(message: NonNullable<DestinationMessage['message']>): void {
    switch (message.$case) {
      case 'open':
        return;
      case 'freeze':
        this.dispatch({ kind: 'freezeAsked' });
        return;
      case 'ready':
        this.#ready(Number(message.value.bytesRaw));
        return;
      case 'resumed':
        this.#resumed(message.value.parts);
        return;
      case 'abort': {
        const detail: ErrorDetail | undefined = message.value.error;
        const error =
          detail === undefined
            ? new FerryError('migrate.aborted', 'The destination gave up')
            : fromErrorDetail(detail);
        this.dispatch({ kind: 'abortAsked', error });
        return;
      }
      default:
        unreachable(message);
    }
  }

  /** A destination that has less than all of the memory must not run it. */
  #ready(bytesRaw: number): void {
    const expected = this.#frozen?.segments.totalBytes;
    if (bytesRaw === expected) {
      this.dispatch({ kind: 'ready' });
      return;
    }
    const text = `The destination has ${bytesRaw} bytes of memory, of ${expected}`;
    this.dispatch({ kind: 'failed', error: new FerryError('migrate.incomplete', text) });
  }

  #resumed(parts: readonly Part[]): void {
    const { frozenAt } = this.#o.work;
    if (this.#state.phase === 'committed' && frozenAt !== undefined) {
      this.#downtimeMs = this.#o.now() - frozenAt;
      this.#parts.push(...parts);
    }
    this.dispatch({ kind: 'resumed' });
  }

  // ---- actions ----------------------------------------------------------------------------------------------

  /** One after the other: what undoes waits for what it undoes to have stopped. */
  #perform(actions: readonly SourceAction[]): void {
    for (const action of actions) {
      this.#queue = this.#queue.then(async () => {
        try {
          await this.#act(action);
        } catch (error) {
          this.#o.logger.warn('source', { action, error: errorText(error) });
          this.dispatch({ kind: 'failed', error });
        }
      });
    }
  }

  async #act(action: SourceAction): Promise<void> {
    const { work } = this.#o;
    switch (action) {
      case 'describe':
        await this.#describe();
        return;
      case 'freeze':
        await this.#freeze();
        return;
      case 'commit':
        await work.commit();
        this.dispatch({ kind: 'commitDone' });
        return;
      case 'grant':
        this.#send({ $case: 'grant', value: { epoch: this.#o.epoch } });
        return;
      case 'destroy':
        await work.destroy();
        this.dispatch({ kind: 'destroyDone' });
        return;
      case 'tellDone':
        this.#tellDone();
        return;
      case 'thaw':
        await work.thaw();
        this.dispatch({ kind: 'thawDone' });
        return;
      case 'tellAbort':
        this.#send({ $case: 'abort', value: { error: toErrorDetail(this.#state.error) } });
        this.#outbox?.close();
        return;
      default:
        unreachable(action);
    }
  }

  async #describe(): Promise<void> {
    const { work, node, vdsoHash } = this.#o;
    const { description, transfer } = await work.describe();
    void work.tracerEnded().then((how) => {
      if (isCommitted(this.#state.phase) || this.#state.phase === 'aborting') return;
      const error = new FerryError('tracer.ended', `The tracer ended (${how})`);
      this.dispatch({ kind: 'failed', error });
    });
    const value = { description, transfer, sourceNode: node, vdsoHash };
    this.#send({ $case: 'described', value });
    this.dispatch({ kind: 'describeDone' });
  }

  async #freeze(): Promise<void> {
    this.stopped.throwIfAborted();
    const frozen = await this.#o.work.freeze();
    this.#frozen = frozen;
    const { image, segments, freezeMs, captureMs } = frozen;
    this.#parts.push({ name: 'freeze', ms: freezeMs }, { name: 'capture', ms: captureMs });
    this.dispatch({ kind: 'freezeDone' });
    const list = segments.encode();
    this.#send({
      $case: 'frozen',
      value: {
        freezeMs,
        captureMs,
        imageBytes: BigInt(image.length),
        segmentsBytes: BigInt(list.length),
        pagesBytes: BigInt(segments.totalBytes),
      },
    });
    for (const value of pieces(list)) this.#send({ $case: 'segments', value });
    for (const value of pieces(image)) this.#send({ $case: 'image', value });
    const sha256 = createHash('sha256').update(list).update(image).digest();
    this.#send({ $case: 'imageEnd', value: { sha256 } });
  }

  #tellDone(): void {
    const { raw, wire } = this.#reader?.counters ?? { raw: 0, wire: 0 };
    const value = {
      downtimeMs: this.#downtimeMs,
      bytesRaw: BigInt(raw),
      bytesWire: BigInt(wire),
      parts: this.#parts,
      warnings: [],
    };
    this.#send({ $case: 'done', value });
    this.#outbox?.close();
  }

  #send(message: Message): void {
    this.#outbox?.push({ message });
  }
}

function replaced(): FerryError {
  return new FerryError('migrate.lost', 'The destination opened another stream');
}

function errorCode(error: unknown): unknown {
  return (error as { code?: unknown } | undefined)?.code;
}

function* pieces(bytes: Buffer) {
  for (let at = 0; at < bytes.length; at += limits.chunkBytes) {
    const sizeBytes = at === 0 ? BigInt(bytes.length) : 0n;
    yield { offset: BigInt(at), data: bytes.subarray(at, at + limits.chunkBytes), sizeBytes };
  }
}
