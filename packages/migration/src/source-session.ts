import { setImmediate } from 'node:timers/promises';
import {
  type DestinationMessage,
  type ErrorDetail,
  type FetchPagesRequest,
  fromErrorDetail,
  type MigrationStatus,
  type Part,
  type SourceMessage,
  toErrorDetail,
} from '@ferry/api';
import { errorText, FerryError, unreachable } from '@ferry/core';
import { holdOptimizer } from '@ferry/linux';
import { answerPages, type Credits, type OutgoingChunk, SegmentTable } from '@ferry/pages';
import { ContainerPids } from './container-pids.js';
import type { CutoverTurns, Turn } from './cutover-turns.js';
import { faultPoint } from './fault-points.js';
import { Hurry, STEADY_FROM_ROUND } from './hurry.js';
import type { Logger } from './logger.js';
import { Outbox } from './outbox.js';
import {
  isCommitted,
  isSourceEnd,
  type SourceAction,
  type SourceEvent,
  type SourceState,
  sourceRestart,
  sourceStart,
  sourceStep,
} from './source-machine.js';
import { LAST, SourceMemory } from './source-memory.js';
import { frameMessages, imageMessages, together } from './source-messages.js';
import type { FrozenImage, OwedPages, SourceWork } from './source-work.js';

export interface SourceSessionOptions {
  readonly migrationId: string;
  readonly container: string;
  readonly epoch: bigint;
  readonly node: string;
  readonly vdsoHash: bigint;
  /** For everything before COMMIT; then the container is thawed. */
  readonly timeoutMs: number;
  readonly work: SourceWork;
  /** Of all migrations from this host. */
  readonly turns: CutoverTurns;
  readonly logger: Logger;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  /** What the journal says that was decided before this agent started. */
  readonly restart?: 'committed' | 'returned';
}

type Message = NonNullable<SourceMessage['message']>;

const NOTHING_OWED: OwedPages = {
  segments: SegmentTable.from([]),
  sharedSegments: 0,
  doubtfulSegments: 0,
  followsShared: false,
  scanMs: 0,
};

const AGAIN_PAUSE_MS = 1000;
/** Its turn is not waited for any longer: what its destination has of its memory gets old. */
const TURN_PATIENCE_MS = 200;
const NOTHING = Buffer.alloc(0);
/** How often late frames are looked for, between Grant and Resumed. */
const PASS_FRAMES_MS = 2;

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
  /** Resolves once every thread is stopped and the network is cut: what is read of its files from then on is final. */
  readonly standing: Promise<void>;
  /** Resolves once it was told what of the memory of the container that stands is to be fetched. */
  readonly #lastTold: Promise<void>;
  #state: SourceState;
  #begun: boolean;
  readonly #hurry = new Hurry();
  #optimizerHeld: Disposable | undefined;
  #outbox: Outbox<SourceMessage> | undefined;
  #queue: Promise<void> = Promise.resolve();
  readonly #memory = new SourceMemory();
  /** That the container was last asked to be left with. */
  #cpuPercent = 100;
  /** Memory that may come later was asked to be told apart. */
  #later = false;
  #downtimeMs = 0;
  #capturedAt = 0;
  /** From the captured state to a destination that has restored it. */
  #readyAfterMs = 0;
  #grantedAt: number | undefined;
  #endedAt: number | undefined;
  #passing: NodeJS.Timeout | undefined;
  #turn: Turn | undefined;
  #end: () => void = () => {};
  #decide: () => void = () => {};
  #stand: () => void = () => {};
  #toldLast: () => void = () => {};
  /** Those pages were asked for before they were told. */
  #lastAwaited = false;

  constructor(options: SourceSessionOptions) {
    this.#o = options;
    const { restart } = options;
    this.#begun = restart !== undefined;
    const { state, actions } = restart === undefined ? sourceStart : sourceRestart(restart);
    this.#state = state;
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.decided = new Promise((resolve) => {
      this.#decide = resolve;
    });
    this.standing = new Promise((resolve) => {
      this.#stand = resolve;
    });
    this.#lastTold = new Promise((resolve) => {
      this.#toldLast = resolve;
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
    if (!this.#begun) return;
    clearTimeout(this.#timer);
    this.#decide();
    this.#perform(actions);
  }

  get container(): string {
    return this.#o.container;
  }

  get epoch(): bigint {
    return this.#o.epoch;
  }

  get migrationId(): string {
    return this.#o.migrationId;
  }

  get state(): SourceState {
    return this.#state;
  }

  /** Infinity while it goes on. */
  get endedMsAgo(): number {
    return this.#endedAt === undefined ? Number.POSITIVE_INFINITY : this.#o.now() - this.#endedAt;
  }

  get hasEnded(): boolean {
    return isSourceEnd(this.#state.phase);
  }

  /** Its container stands, and each millisecond counts. */
  get isCuttingOver(): boolean {
    const { phase, connected } = this.#state;
    return connected && ['freezing', 'frozen', 'committing', 'committed'].includes(phase);
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

  /** What the destination has told somebody else, who passes it on; or the operator, who has fenced it. */
  peerSays(word: 'resumed' | 'abandoned', error?: unknown): void {
    if (word === 'resumed') this.dispatch({ kind: 'resumed' });
    else this.dispatch({ kind: 'abandoned', error: error ?? givenBack() });
  }

  status(): MigrationStatus {
    const { phase, error } = this.#state;
    return {
      migrationId: this.#o.migrationId,
      state: this.#stateName(),
      progress: undefined,
      result: undefined,
      error: error === undefined ? undefined : toErrorDetail(error),
      role: 'source',
      copy: phase === 'done' ? 'none' : isCommitted(phase) ? 'frozen' : 'runs',
    };
  }

  #stateName(): string {
    const { phase, error } = this.#state;
    if (phase === 'done') return 'succeeded';
    if (isCommitted(phase)) return 'committed';
    if (!isSourceEnd(phase)) return 'running';
    return errorCode(error) === 'migrate.cancelled' ? 'cancelled' : 'failed';
  }

  /** The pages of a round (LAST: of the frozen container, from before it is, so that the stream is there when they are), as
   *  chunks, no more of them under way than `credits` allow.
   *  @throws FerryError migrate.order when there is no such round now, or a second time */
  async *pages(credits: Credits, round = LAST): AsyncGenerator<OutgoingChunk, void, undefined> {
    const early = round === LAST && ['copying', 'freezing'].includes(this.#state.phase);
    if (early) {
      await this.#lastPages();
      if (!this.#memory.has(LAST)) return;
    }
    const { phase } = this.#state;
    const phases = round === LAST ? ['frozen'] : ['copying', 'freezing', 'frozen'];
    if (!this.#memory.has(round) || !phases.includes(phase)) {
      throw new FerryError('migrate.order', 'The memory of this container cannot be read now');
    }
    const courtesy = round === 1 ? await this.#o.work.courtesy() : undefined;
    yield* this.#memory.chunks(round, { credits, signal: this.stopped, courtesy });
  }

  async #lastPages(): Promise<void> {
    if (this.#lastAwaited) {
      throw new FerryError('migrate.order', 'The last pages of this container were asked for');
    }
    this.#lastAwaited = true;
    await Promise.race([this.#lastTold, this.decided]);
    this.stopped.throwIfAborted();
  }

  /** Memory of the frozen container, as asked for: what a destination fetches that runs it already, or is about to.
   *  @throws FerryError migrate.order when the container may run here, restore.noProcess, pages.invalid */
  async *fetched(
    requests: AsyncIterable<FetchPagesRequest>,
  ): AsyncGenerator<OutgoingChunk, void, undefined> {
    const { phase } = this.#state;
    if (!['frozen', 'committing', 'committed', 'serving'].includes(phase)) {
      throw new FerryError('migrate.order', `No memory is given while it is ${phase}`);
    }
    const pids = new ContainerPids(this.#o.work.hostPids());
    const { stopped } = this;
    const chunks = answerPages(
      (async function* () {
        for await (const { pid, address, pages } of requests) {
          stopped.throwIfAborted();
          yield { hostPid: pids.hostPid(pid), address: Number(address), pages };
        }
      })(),
    );
    for await (const chunk of chunks) {
      await faultPoint('source.before.givePages');
      yield chunk;
      await faultPoint('source.after.givePages');
    }
  }

  dispatch(event: SourceEvent): void {
    const { state, actions } = sourceStep(this.#state, event);
    const changed = state.phase !== this.#state.phase;
    this.#state = state;
    this.#hurry.while(this.isCuttingOver);
    if (!this.isCuttingOver) this.#turn?.end();
    if (changed) this.#log(event);
    if (state.phase === 'aborting') this.#stop.abort(state.error);
    if (isCommitted(state.phase) || state.phase === 'aborting') clearTimeout(this.#timer);
    this.#perform(actions);
    if (isCommitted(state.phase) || isSourceEnd(state.phase)) this.#decide();
    if (!isSourceEnd(state.phase)) return;
    this.#optimizerHeld?.[Symbol.dispose]();
    clearInterval(this.#passing);
    this.#endedAt ??= this.#o.now();
    this.#end();
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
      case 'track':
        this.dispatch({ kind: 'trackAsked' });
        return;
      case 'round':
        this.dispatch({ kind: 'roundAsked' });
        return;
      case 'throttle':
        this.#cpuPercent = message.value.cpuPercent;
        this.dispatch({ kind: 'throttleAsked' });
        return;
      case 'freeze':
        this.#later = message.value.later;
        this.dispatch({ kind: 'freezeAsked' });
        return;
      case 'whole':
        this.dispatch({ kind: 'wholeAsked' });
        return;
      case 'ready':
        this.#ready(Number(message.value.bytesRaw));
        return;
      case 'running':
        this.#runs(message.value.parts);
        this.dispatch({ kind: 'running' });
        return;
      case 'resumed':
        this.#runs(message.value.parts);
        this.dispatch({ kind: 'resumed' });
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
      case 'abandoned': {
        const detail: ErrorDetail | undefined = message.value.error;
        const error = detail === undefined ? givenBack() : fromErrorDetail(detail);
        this.dispatch({ kind: 'abandoned', error });
        return;
      }
      default:
        unreachable(message);
    }
  }

  /** A destination that has less than all of the memory must not run it. */
  #ready(bytesRaw: number): void {
    this.#readyAfterMs = this.#o.now() - this.#capturedAt;
    const expected = this.#memory.bytesTold;
    if (bytesRaw === expected) {
      this.dispatch({ kind: 'ready' });
      return;
    }
    const text = `The destination has ${bytesRaw} bytes of memory, of ${expected}`;
    this.dispatch({ kind: 'failed', error: new FerryError('migrate.incomplete', text) });
  }

  /** The first that is heard of it ends the downtime. */
  #runs(parts: readonly Part[]): void {
    const { frozenAt } = this.#o.work;
    if (this.#state.phase === 'committed' && frozenAt !== undefined) {
      const now = this.#o.now();
      this.#downtimeMs = now - frozenAt;
      // The way of the grant there and of the answer back, and its record on the disk there.
      const resumeMs = parts.find(({ name }) => name === 'resume')?.ms ?? 0;
      const grantMs = now - (this.#grantedAt ?? now) - resumeMs;
      const others = parts.reduce((sum, { ms }) => sum + ms, -resumeMs);
      const imageMs = Math.max(0, this.#readyAfterMs - others);
      this.#parts.push({ name: 'image', ms: imageMs }, ...parts, { name: 'grant', ms: grantMs });
    }
  }

  // ---- actions ----------------------------------------------------------------------------------------------

  /** One after the other: what undoes waits for what it undoes to have stopped. */
  #perform(actions: readonly SourceAction[]): void {
    for (const action of actions) {
      this.#queue = this.#queue.then(async () => {
        try {
          await faultPoint(`source.before.${action}`);
          await this.#act(action);
          await faultPoint(`source.after.${action}`);
        } catch (error) {
          this.#o.logger.warn('source', { action, error: errorText(error) });
          const { phase } = this.#state;
          if (isCommitted(phase) || phase === 'reviving') await pause(AGAIN_PAUSE_MS);
          this.dispatch({ kind: 'failed', error, during: action });
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
      case 'track':
        await this.#track();
        return;
      case 'round':
        await this.#round();
        return;
      case 'throttle':
        await work.throttle(this.#cpuPercent);
        return;
      case 'freeze':
        await this.#freeze();
        return;
      case 'whole':
        await this.#whole();
        return;
      case 'commit':
        await this.#timed('commit', () => work.commit());
        this.dispatch({ kind: 'commitDone' });
        return;
      case 'grant':
        this.#passFrames();
        this.#grantedAt ??= this.#o.now();
        this.#send({ $case: 'grant', value: { epoch: this.#o.epoch } });
        this.#passing ??= setInterval(() => this.#passFrames(), PASS_FRAMES_MS).unref();
        return;
      case 'recordReturn':
        await work.recordReturn();
        this.dispatch({ kind: 'returnDone' });
        return;
      case 'destroy':
        clearInterval(this.#passing);
        this.#passFrames();
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

  async #track(): Promise<void> {
    this.stopped.throwIfAborted();
    const { image, stopMs, warnings } = await this.#o.work.track();
    const tracked = image !== undefined;
    const bytes = image ?? NOTHING;
    if (tracked) this.#parts.push({ name: 'layout stop', ms: stopMs });
    const imageBytes = BigInt(bytes.length);
    const value = { tracked, stopMs, imageBytes, warnings: [...warnings] };
    this.#tell({ $case: 'layout', value }, NOTHING, bytes);
  }

  async #round(): Promise<void> {
    this.stopped.throwIfAborted();
    await this.#tellRound(await this.#o.work.round());
  }

  async #tellRound(owed: OwedPages): Promise<void> {
    const { scanMs } = owed;
    const stands = this.#state.phase === 'freezing';
    const { round, segments } = await this.#memory.nextRound(owed, { stands });
    if (round >= STEADY_FROM_ROUND) this.#optimizerHeld ??= holdOptimizer();
    const counts = { owed: owed.segments.totalPages, pages: segments.totalPages };
    this.#o.logger.debug('unchanged pages', { round, ...counts });
    const list = segments.encode();
    const pagesBytes = BigInt(segments.totalBytes);
    const value = { round, scanMs, segmentsBytes: BigInt(list.length), pagesBytes };
    this.#tell({ $case: 'round', value }, list, NOTHING);
  }

  async #freeze(): Promise<void> {
    const { work, turns } = this.#o;
    this.#turn = turns.take();
    await this.#turn.within(TURN_PATIENCE_MS);
    this.stopped.throwIfAborted();
    let freezeMs = 0;
    let toldNothing: Promise<void> | undefined;
    // What was written last is on its way while the processes are captured, unless that is as good as nothing: then it comes
    // with the rest.
    const tells = this.#memory.rounds > 0 && !this.#later;
    const little = tells && this.#memory.owesLittle;
    const frozen = await work.freezeAndCapture({
      later: this.#later,
      stands: (ms) => {
        freezeMs = ms;
        this.#stand();
        if (little) toldNothing = this.#tellRound(NOTHING_OWED);
      },
      looked: tells && !little ? (owed) => this.#tellRound(owed) : undefined,
    });
    await toldNothing;
    const { captureMs } = frozen;
    this.#parts.push({ name: 'freeze', ms: freezeMs }, { name: 'capture', ms: captureMs });
    this.dispatch({ kind: 'freezeDone' });
    this.#tellFrozen(frozen, freezeMs);
    await setImmediate(); // first it leaves
    await this.#prepareCommit();
  }

  async #whole(): Promise<void> {
    this.stopped.throwIfAborted();
    this.#memory.startAgain();
    const frozen = await this.#o.work.captureWhole();
    this.#parts.push({ name: 'capture again', ms: frozen.captureMs });
    this.#tellFrozen(frozen, 0);
    await this.#prepareCommit();
  }

  /** While the destination restores. What cannot be done now is tried again when it is due, and fails then. */
  async #prepareCommit(): Promise<void> {
    if (this.stopped.aborted) return;
    await this.#o.work.prepareCommit().catch((error: unknown) => {
      this.#o.logger.debug('commit is not prepared', { error: errorText(error) });
    });
  }

  #tellFrozen(frozen: FrozenImage, freezeMs: number): void {
    this.#capturedAt = this.#o.now();
    const { image, segments, laterSegments, captureMs } = frozen;
    const [now] = segments.split(segments.count - laterSegments);
    this.#memory.tell(LAST, now);
    this.#toldLast();
    const list = segments.encode();
    const value = {
      freezeMs,
      captureMs,
      imageBytes: BigInt(image.length),
      segmentsBytes: BigInt(list.length),
      pagesBytes: BigInt(now.totalBytes),
      laterSegments,
      neighbours: [...this.#o.work.neighbours],
    };
    this.#tell({ $case: 'frozen', value }, list, image);
  }

  /** A report, and what belongs to it. */
  #tell(report: Message, segments: Buffer, image: Buffer): void {
    const messages = [report, ...imageMessages(segments, image)];
    for (const each of together(messages, segments.length + image.length)) this.#send(each);
  }

  /** What neighbours sent for the container since its network was cut, and until they have heard where it is now. */
  #passFrames(): void {
    if (!this.#state.connected) return;
    for (const message of frameMessages(this.#o.work.takeFrames())) this.#send(message);
  }

  #tellDone(): void {
    const { raw, wire } = this.#memory.counters;
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

  async #timed(name: string, work: () => Promise<void>): Promise<void> {
    const before = this.#o.now();
    await work();
    this.#parts.push({ name, ms: this.#o.now() - before });
  }

  #send(message: Message): void {
    this.#outbox?.push({ message });
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref();
  });
}

function replaced(): FerryError {
  return new FerryError('migrate.lost', 'The destination opened another stream');
}

function givenBack(): FerryError {
  return new FerryError('migrate.abandoned', 'The destination gave the container back', {
    remedy: 'it runs on at its source; look at the log of the destination and try again',
  });
}

function errorCode(error: unknown): unknown {
  return (error as { code?: unknown } | undefined)?.code;
}
