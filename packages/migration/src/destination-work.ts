import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { ApiError, type Part, type PostCopyReport, type SourceDescription } from '@ferry/api';
import { hasUserNamespace, type Neighbour, parseTransfer, type Transfer } from '@ferry/container';
import { errorText, FerryError } from '@ferry/core';
import { hasTemporaryNames, TreeImage } from '@ferry/image';
import { canWaitForPages, holdOptimizer } from '@ferry/linux';
import type { PageCounters, SegmentTable } from '@ferry/pages';
import type { Policy } from './convergence.js';
import type { CutoverHistory } from './cutover-history.js';
import type { CutoverTurns, Turn } from './cutover-turns.js';
import { STEADY_FROM_ROUND } from './hurry.js';
import type { ReceivedImage } from './image-receiver.js';
import { IncomingFiles } from './incoming-files.js';
import { type LaterProcess, laterProcesses } from './later-pages.js';
import { compilePrograms, loaderProgram } from './loader.js';
import type { Logger } from './logger.js';
import { type DestinationHost, preflight } from './offer.js';
import { NO_PAGES, type PageStream, pullPages } from './page-stream.js';
import { PostCopy } from './post-copy.js';
import { type PreCopyOutcome, preCopy } from './pre-copy.js';
import type { ProgressReporter } from './progress.js';
import { removeRemains } from './remains.js';
import { RestoreWork } from './restore-work.js';
import type { SkeletonPrograms } from './skeleton-programs.js';
import { LAST } from './source-memory.js';
import type { SourcePort } from './source-port.js';
import type { SourceQuestions } from './source-questions.js';

/** How memory moves: `auto` is pre-copy wherever that is possible. With `post-copy` the container runs here at once and
 *  its memory follows; with `hybrid` what the rounds have not brought follows. */
export type MigrationMode = 'auto' | 'stop-copy' | 'pre-copy' | 'hybrid' | 'post-copy';

interface Parameters {
  readonly migrationId: string;
  readonly container: string;
  readonly epoch: bigint;
  readonly sourceNode: string;
  readonly node: string;
  readonly vdsoHash: bigint;
  readonly destination: DestinationHost;
  readonly mode: MigrationMode;
  readonly policy: Policy;
  readonly history: CutoverHistory;
  /** Of all migrations to this host. */
  readonly turns: CutoverTurns;
  readonly port: SourcePort;
  /** A connection of its own, with the source's agent wherever it is now. */
  readonly connectAnew: () => SourcePort;
  readonly questions: SourceQuestions;
  readonly progress: ProgressReporter;
  readonly logger: Logger;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

/** What a destination does during a migration. All of it is undone by `remove`, until `resume` was called. */
export class DestinationWork {
  readonly #p: Parameters;
  readonly #restore: RestoreWork;
  readonly #files: IncomingFiles;
  readonly #stop = new AbortController();
  readonly parts: Part[] = [];
  /** What is known only once it runs. */
  readonly lateParts: Part[] = [];
  readonly warnings: string[] = [];
  #counters: PageCounters = { raw: 0, wire: 0 };
  #outcome: PreCopyOutcome | undefined;
  #transfer: Transfer | undefined;
  #disconnected = false;
  #runs = false;
  readonly #frames: Buffer[] = [];
  #neighbours: readonly Neighbour[] = [];
  /** What is brought of the files of a container that stands. */
  #lastFiles: Promise<void> | undefined;
  /** The round that the source told when it stood. */
  #lastRound: Promise<void> | undefined;
  /** The stream of what is missing then, opened before it is known. */
  #lastPages: PageStream | undefined;
  /** Memory that comes once it runs. */
  #postCopy: PostCopy | undefined;
  /** What was asked for at the freeze. */
  #comesLater = false;
  #turn: Turn | undefined;
  #optimizerHeld: Disposable | undefined;

  constructor(parameters: Parameters) {
    this.#p = parameters;
    this.#restore = new RestoreWork(parameters.destination.host);
    const { migrationId, port, logger } = parameters;
    this.#files = new IncomingFiles({
      ...{ migrationId, port, logger, restore: this.#restore, signal: this.#stop.signal },
      warn: (text) => this.warnings.push(text),
    });
  }

  /** Memory received and in place. */
  get counters(): Readonly<PageCounters> {
    const { raw, wire } = this.#postCopy?.counters ?? { raw: 0, wire: 0 };
    return { raw: this.#counters.raw + raw, wire: this.#counters.wire + wire };
  }

  /** How its rounds went; undefined when all memory moved while it stood. */
  get outcome(): PreCopyOutcome | undefined {
    return this.#outcome;
  }

  /** How the memory came that followed it; undefined when none did, or it is not over. */
  get later(): PostCopyReport | undefined {
    return this.#postCopy?.report;
  }

  /** Whether the source is asked to keep memory for later. */
  get asksLater(): boolean {
    return this.#comesLater;
  }

  /** Whether it runs, or is to run, before all of its memory is here. */
  get comesLater(): boolean {
    return this.#postCopy !== undefined;
  }

  /** Of memory that comes while nothing runs. */
  get countersNow(): Readonly<PageCounters> {
    return this.#counters;
  }

  /** Whether what was restored still waits to be let go. */
  get isAlive(): boolean {
    return this.#restore.isAlive;
  }

  /** Ends the work that is under way, with `reason` for its error. */
  stop(reason: unknown): void {
    this.#stop.abort(reason);
  }

  /** Everything that can be done while the container runs at its source.
   *  @throws ApiError migrate.preflight with the findings; FerryError of what failed */
  async prepare(described: SourceDescription | undefined): Promise<void> {
    const { migrationId, destination, port, progress, node, container } = this.#p;
    const { signal } = this.#stop;
    const { description, transfer } = this.#check(described);
    const verdict = await preflight(destination, description);
    this.warnings.push(...verdict.warnings);
    const [problem] = verdict.problems;
    if (problem !== undefined) {
      const message = `${node} cannot take ${container}: ${problem.object}: ${problem.reason}`;
      const { problems } = verdict;
      const { remedy } = problem;
      throw new ApiError({ code: 'migrate.preflight', message, remedy, problems });
    }
    progress.tell('rootfs', 'fetching the root file system', 0.05);
    for (const digest of destination.host.missingLayers(transfer)) {
      const chunks = port.pullLayer(migrationId, digest, { signal });
      await destination.host.layers.importLayer(digest, chunks, { signal });
    }
    progress.tell('prepare', 'making the container', 0.12);
    signal.throwIfAborted();
    await removeRemains(destination.host, description);
    await this.#restore.reserve(transfer);
    await this.#files.copy();
    await this.#startLoader();
    await this.#files.copyMounts();
    signal.throwIfAborted();
  }

  async #startLoader(): Promise<void> {
    await this.#restore.startLoader({ signal: this.#stop.signal, program: loaderProgram() });
    await this.#restore.watchFirstPacket();
  }

  /** @throws FerryError migrate.vdso, migrate.order, container.transfer */
  #check(described: SourceDescription | undefined) {
    const description = described?.description;
    if (described === undefined || description === undefined) {
      throw new FerryError('migrate.order', 'The source described nothing');
    }
    const transfer = parseTransfer(parseJson(described.transfer));
    this.#transfer = transfer;
    if (transfer.name !== this.#p.container) {
      throw new FerryError('migrate.order', `The source describes ${transfer.name}`);
    }
    if (described.vdsoHash !== this.#p.vdsoHash) {
      throw new FerryError(
        'migrate.vdso',
        `The kernel of ${this.#p.node} has another vDSO than that of ${this.#p.sourceNode}`,
        { remedy: 'choose a host with the same kernel build' },
      );
    }
    return { description, transfer };
  }

  /** While the container runs at its source: as much of its memory as pays. */
  async copy(): Promise<void> {
    const { mode, questions, progress, logger, now } = this.#p;
    if (mode === 'stop-copy') {
      await this.#takeTurn().within(STOP_COPY_PATIENCE_MS);
      return;
    }
    const { signal } = this.#stop;
    const cannotFollow = this.#cannotFollow();
    const mayFollow = cannotFollow === undefined;
    const policy = policyFor(mode, this.#p.policy, mayFollow);
    const { outcome, warnings } = await preCopy({
      ...{ questions, policy, logger, now, signal, restMs: this.#p.history.restMs },
      target: {
        // It maps files, which must be those of the layout.
        makeSkeleton: async (image) => {
          await this.#files.follow();
          await this.#restore.makeSkeleton(image, { signal });
        },
        writeRound: (round, segments) => this.#writeRound(round, segments),
      },
      takeTurn: () => this.#takeTurn(),
      prepare: async () => {
        await this.#files.follow();
        await this.#rehearse();
      },
      told: (rounds, prediction) => progress.rounds(rounds.length, prediction),
    });
    this.#outcome = outcome;
    this.warnings.push(...warnings);
    const wanted = mode === 'hybrid' || outcome?.decision.kind === 'post-copy';
    this.#comesLater = wanted && mayFollow && outcome !== undefined;
    const isAsked = wanted || mode === 'post-copy';
    if (isAsked && cannotFollow !== undefined) this.warnings.push(cannotFollow);
    if (outcome?.cpuShare !== undefined) {
      this.warnings.push(
        `Memory changed too fast: the container was slowed down to ${outcome.cpuShare} % of its CPU time`,
      );
    }
  }

  /** Why its memory cannot come once it runs; undefined: it can. */
  #cannotFollow(): string | undefined {
    if (!canWaitForPages()) return CANNOT_FOLLOW;
    // A userfaultfd of a process there tells nothing of what the kernel misses on its behalf (fs/userfaultfd.c:
    // userfaultfd_syscall_allowed): a read(2) into missing memory would fail.
    const isMapped = this.#transfer !== undefined && hasUserNamespace(this.#transfer.config);
    return isMapped ? CANNOT_FOLLOW_MAPPED : undefined;
  }

  async #rehearse(): Promise<void> {
    const { now } = this.#p;
    const end = now() + REHEARSALS_MS;
    for (let i = 0; i < REHEARSALS && now() < end; i++) {
      this.#restore.rehearseFinish();
      await setImmediate();
    }
  }

  #takeTurn(): Turn {
    this.#turn = this.#p.turns.take();
    return this.#turn;
  }

  /** It is not cutting over, or not any more: others may; repeatable. */
  endTurn(): void {
    this.#turn?.end();
    this.#optimizerHeld?.[Symbol.dispose]();
    this.#optimizerHeld = undefined;
  }

  async #writeRound(round: number, segments: SegmentTable): Promise<void> {
    if (round >= STEADY_FROM_ROUND) this.#optimizerHeld ??= holdOptimizer();
    this.#p.progress.announced(segments.totalBytes);
    const pages = this.#pullPages(segments, round);
    try {
      await this.#write(segments, pages, { from: 0.15, to: 0.85 });
    } finally {
      await pages.end();
    }
  }

  /** Once the source was asked to freeze: what can come while it captures the processes. */
  beginRest(): void {
    this.#beginFiles();
    if (!this.#restore.hasSkeleton || this.#comesLater) return;
    this.#lastPages = this.#openPages(LAST);
    this.#lastRound = (async () => {
      const { report, segments } = await this.#p.questions.lastRound();
      if (segments.count > 0) await this.#writeRound(report.round, segments);
    })();
    this.#lastRound.catch(() => {}); // `restore` looks at it
  }

  #beginFiles(): void {
    this.#lastFiles = this.#files.finish();
    this.#lastFiles.catch(() => {}); // `restore` looks at it
  }

  /** With the source frozen: everything but the last step. */
  async restore(received: ReceivedImage | undefined): Promise<void> {
    if (received === undefined) throw new FerryError('migrate.order', 'No image came');
    try {
      if (hasTemporaryNames(received.image)) {
        throw new FerryError('dumpbin.skeleton', 'an open file has no name of its own');
      }
      if (this.#restore.hasSkeleton) await this.#restoreRest(received);
      else await this.#restoreWhole(received);
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'dumpbin.skeleton') throw error;
      await this.#startAgain(error);
    }
  }

  /** What was prepared is good for nothing: everything moves while the source stands. */
  async #startAgain(reason: unknown): Promise<void> {
    await this.#lastFiles?.catch(() => {});
    await this.#lastRound?.catch(() => {});
    await this.#endLastPages();
    this.warnings.push(`All memory moved while it stood: ${errorText(reason)}`);
    await this.#postCopy?.abandon();
    this.#postCopy = undefined;
    const received = await this.#p.questions.whole();
    this.#outcome = undefined;
    this.#counters = { raw: 0, wire: 0 };
    this.#p.progress.startAgain();
    this.#p.progress.announced(received.segments.totalBytes);
    if (this.#transfer !== undefined) await this.#restore.stopLoader(this.#transfer);
    await this.#files.copyAgain();
    await this.#startLoader();
    this.#beginFiles();
    await this.#restoreWhole(received);
  }

  /** Brings the skeleton what changed since the last round, and has it restore the rest. */
  async #restoreRest({ image, segments, later }: ReceivedImage): Promise<void> {
    const { signal } = this.#stop;
    const pages = this.#lastPages ?? this.#pullPages(segments);
    this.#lastPages = undefined;
    try {
      let programs: SkeletonPrograms | undefined;
      const follows = this.#whatFollows(image, later);
      await this.#timed('compile', async () => {
        programs = this.#restore.compileFinish(image, follows);
      });
      await this.#timed('files', () => this.#filesThere());
      await this.#timed('last round', async () => this.#lastRound);
      await this.#timed('layout', () => this.#restore.adjust(programs!, { signal }));
      await this.#timed('last pages', () => this.#write(segments, pages, { from: 0.85, to: 0.9 }));
      if (follows.length > 0) await this.#timed('pager', () => this.#begin(follows, programs!));
      await this.#timed('restore', () => this.#restore.finish({ signal }));
    } finally {
      await pages.end();
    }
  }

  /** Memory that comes later, by process.
   *  @throws FerryError migrate.order when that was not asked for, or cannot be */
  #whatFollows(image: Buffer, table: SegmentTable): LaterProcess[] {
    if (table.count === 0) return [];
    const found = this.#comesLater ? laterProcesses(TreeImage.decode(image), table) : undefined;
    if (found !== undefined) return found;
    throw new FerryError('migrate.order', 'The source keeps memory back that must be here first');
  }

  async #begin(follows: readonly LaterProcess[], programs: SkeletonPrograms): Promise<void> {
    this.#postCopy = this.#newPostCopy();
    await this.#postCopy.begin(follows, programs.userfaults ?? new Map());
  }

  #newPostCopy(): PostCopy {
    const { migrationId, container, destination, connectAnew: connect, logger, now } = this.#p;
    const folder = join(destination.runDir, 'pagers');
    const { host } = destination;
    const { bytesPerSecond } = this.#p.policy;
    return new PostCopy({
      ...{ migrationId, container, host, folder, connect, bytesPerSecond, logger, now },
    });
  }

  /** Whether an agent before this one has left the container with memory to come; takes that over. */
  async adoptPager(): Promise<boolean> {
    const postCopy = this.#newPostCopy();
    if (!(await postCopy.adopt())) return false;
    this.#postCopy = postCopy;
    return true;
  }

  /** Whether such an agent may have. */
  get hasPager(): boolean {
    return this.#newPostCopy().isLikely;
  }

  /** Once it is written down that all memory is here. */
  async endPager(): Promise<void> {
    await this.#postCopy?.end();
  }

  /** Once it runs: waits until all of its memory is here.
   *  @throws FerryError pages.pagerGone */
  async fetch(): Promise<void> {
    const { progress, node } = this.#p;
    progress.tell('post-copy', `runs on ${node}, fetching memory`, 0.97);
    await this.#postCopy?.finish(({ pagesLeft, faults, longestStallMs }) => {
      const left = `${Math.ceil(pagesLeft / 256)} MiB to come`;
      const waits = `${faults} waits, the longest ${Math.round(longestStallMs)} ms`;
      progress.tell('post-copy', `runs on ${node}: ${left}; ${waits}`, 0.97);
    });
  }

  /** Memory is on its way while the rest is done. */
  async #restoreWhole({ image, segments }: ReceivedImage): Promise<void> {
    const { signal } = this.#stop;
    const pages = this.#pullPages(segments);
    try {
      await this.#timed('files', () => this.#filesThere());
      await this.#timed('layout', () => this.#restore.layOut(compilePrograms(image), { signal }));
      await this.#timed('pages', () => this.#write(segments, pages, { from: 0.3, to: 0.9 }));
      await this.#timed('restore', () => this.#restore.finish({ signal }));
    } finally {
      await pages.end();
    }
  }

  /** Files may be open: they must be there before anything is restored. */
  async #filesThere(): Promise<void> {
    if (this.#lastFiles === undefined) throw new FerryError('migrate.order', 'No files came');
    await this.#lastFiles;
  }

  /** Lets it run, and connects it.
   *  @throws when nothing of it has run, and nothing will. A network that cannot be connected is tried again later */
  async resume(): Promise<void> {
    await this.#timed('resume', async () => {
      // Connected first: each restored socket says a word to its peer when it leaves repair mode, which starts both
      // sides again.
      await this.#connect();
      try {
        await this.#restore.go();
      } catch (error) {
        await this.#restore.disconnect();
        throw error;
      }
    });
    this.#runs = true;
    this.#postCopy?.runs();
    this.takeFrames([]);
  }

  async #connect(): Promise<void> {
    this.#disconnected = false;
    if (!this.#restore.isAlive) return;
    await this.#restore.connect(this.#neighbours).catch((error: unknown) => {
      this.#disconnected = true;
      this.#p.logger.warn('not connected yet', { error: errorText(error) });
    });
  }

  /** Whom the container knew in its network. */
  takeNeighbours(neighbours: readonly Neighbour[]): void {
    this.#neighbours = neighbours;
  }

  /** Frames that came for the container while it was under way; it gets them once it runs. */
  takeFrames(frames: readonly Buffer[]): void {
    this.#frames.push(...frames);
    if (this.#runs) this.#restore.deliver(this.#frames.splice(0));
  }

  /** Afterwards: the container is this host's, as if it had been made here. Repeatable. */
  async complete(): Promise<void> {
    if (this.#disconnected) await this.#restore.connect();
    this.#disconnected = false;
    await this.#restore.complete({ epoch: Number(this.#p.epoch) });
    const afterMs = this.#restore.takeFirstPacketMs();
    if (afterMs !== undefined) this.lateParts.push({ name: 'first packet', ms: afterMs });
  }

  /** Takes over what an agent before this one has made. */
  adopt(): void {
    this.#restore.adopt(this.#p.container);
    this.#disconnected = true;
  }

  /** Leaves nothing; repeatable. */
  async remove(): Promise<void> {
    await this.#lastFiles?.catch(() => {});
    await this.#lastRound?.catch(() => {});
    await this.#endLastPages();
    await this.#restore.remove();
    // Of an agent before this one, which had not come to let the container go.
    if (this.#postCopy === undefined && this.hasPager) await this.adoptPager();
    await this.#postCopy?.abandon();
  }

  async #endLastPages(): Promise<void> {
    await this.#lastPages?.end();
    this.#lastPages = undefined;
  }

  #pullPages(segments: SegmentTable, round = LAST): PageStream {
    return segments.count === 0 ? NO_PAGES : this.#openPages(round);
  }

  #openPages(round: number): PageStream {
    const { port, migrationId, policy, now } = this.#p;
    // Nothing is held back while the container stands.
    const bytesPerSecond = round === LAST ? 0 : policy.bytesPerSecond;
    const { signal } = this.#stop;
    return pullPages(port, { migrationId, round, bytesPerSecond, signal, now });
  }

  async #write(
    segments: SegmentTable,
    { chunks, grant, close }: PageStream,
    share: { from: number; to: number },
  ): Promise<void> {
    if (segments.count === 0) return;
    const moved = this.#p.progress.stream(share);
    const { raw, wire } = await this.#restore.write(segments, chunks, {
      signal: this.#stop.signal,
      written: (bytes, counters) => {
        if (counters.raw < segments.totalBytes) grant(bytes);
        else close();
        moved(counters);
      },
    });
    this.#counters = { raw: this.#counters.raw + raw, wire: this.#counters.wire + wire };
  }

  async #timed(name: string, work: () => Promise<void>): Promise<void> {
    const before = this.#p.now();
    await work();
    this.parts.push({ name, ms: this.#p.now() - before });
  }
}

/** Others that are being moved take no longer, or none of them is waited for. */
const STOP_COPY_PATIENCE_MS = 5000;

/** Of making the programs that a container stands for. */
const REHEARSALS = 4;
const REHEARSALS_MS = 20;

const CANNOT_FOLLOW =
  'This host cannot run a container whose memory is missing: all of it moved before';
const CANNOT_FOLLOW_MAPPED =
  'A container in a user namespace cannot run while memory of it is missing: all of it moved before';

/** What the rounds go by. A container whose memory cannot follow it stands for what is left. */
function policyFor(mode: MigrationMode, policy: Policy, mayFollow: boolean): Policy {
  if (mode === 'post-copy' && mayFollow) return { ...policy, maxRounds: 0 };
  const onNoConvergence = mode === 'hybrid' ? 'post-copy' : policy.onNoConvergence;
  const way = onNoConvergence === 'post-copy' && !mayFollow ? 'stop-copy' : onNoConvergence;
  return { ...policy, onNoConvergence: way };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new FerryError('container.transfer', 'The description of the container is not JSON', {
      cause,
    });
  }
}
