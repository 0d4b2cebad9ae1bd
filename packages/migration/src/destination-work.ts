import { ApiError, type Part, type SourceDescription } from '@ferry/api';
import { parseTransfer, type Transfer } from '@ferry/container';
import { errorText, FerryError } from '@ferry/core';
import { type PageChunk, type PageCounters, pageLimits, type SegmentTable } from '@ferry/pages';
import type { ReceivedImage } from './image-receiver.js';
import { compilePrograms, loaderProgram } from './loader.js';
import type { Logger } from './logger.js';
import { type DestinationHost, preflight } from './offer.js';
import { Outbox } from './outbox.js';
import type { ProgressReporter } from './progress.js';
import { RestoreWork } from './restore-work.js';
import type { SourcePort } from './source-port.js';

interface Parameters {
  readonly migrationId: string;
  readonly container: string;
  readonly epoch: bigint;
  readonly sourceNode: string;
  readonly node: string;
  readonly vdsoHash: bigint;
  readonly destination: DestinationHost;
  readonly port: SourcePort;
  readonly progress: ProgressReporter;
  readonly logger: Logger;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

/** What a destination does during a migration. All of it is undone by `remove`, until `resume` was called. */
export class DestinationWork {
  readonly #p: Parameters;
  readonly #restore: RestoreWork;
  readonly #stop = new AbortController();
  readonly parts: Part[] = [];
  readonly warnings: string[] = [];
  #counters: PageCounters = { raw: 0, wire: 0 };
  #transfer: Transfer | undefined;
  #logBytes = 0;

  constructor(parameters: Parameters) {
    this.#p = parameters;
    this.#restore = new RestoreWork(parameters.destination.host);
  }

  /** Memory received and in place. */
  get counters(): Readonly<PageCounters> {
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
    await this.#restore.reserve(transfer);
    await this.#copyUpper();
    await this.#copyLog();
    await this.#restore.startLoader({ signal, program: loaderProgram() });
    signal.throwIfAborted();
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

  /** With the source frozen: everything but the last step. Memory is on its way while the rest is done. */
  async restore(received: ReceivedImage | undefined): Promise<void> {
    if (received === undefined) throw new FerryError('migrate.order', 'No image came');
    const { image, segments } = received;
    const { signal } = this.#stop;
    const pages = this.#pullPages(segments);
    try {
      await this.#timed('files', async () => {
        await this.#copyChangedUpper();
        // Files of theirs may be open: they must be there before anything is restored.
        await this.#restore.importMounts(this.#pull('mounts'), { signal });
      });
      const layout = this.#timed('layout', () =>
        this.#restore.layOut(compilePrograms(image), { signal }),
      );
      await allDone([layout, this.#copyLog()]);
      await this.#timed('pages', () => this.#fill(segments, pages));
    } finally {
      await pages.end();
    }
  }

  /** Lets it run. */
  async resume(): Promise<void> {
    await this.#timed('resume', () => this.#restore.go());
  }

  /** Afterwards: the container is this host's, as if it had been made here. */
  async complete(): Promise<void> {
    await this.#restore.complete({ epoch: Number(this.#p.epoch) });
  }

  /** Leaves nothing; repeatable. */
  async remove(): Promise<void> {
    await this.#restore.remove();
  }

  #pull(kind: 'upper' | 'upper-changed' | 'mounts'): AsyncIterable<Buffer> {
    const { port, migrationId } = this.#p;
    return port.pullState(migrationId, { kind }, { signal: this.#stop.signal });
  }

  /** While the container runs: files may change under the copy, which then fails. It is made again once all stands. */
  async #copyUpper(): Promise<void> {
    const { signal } = this.#stop;
    try {
      await this.#restore.importUpper(this.#pull('upper'), { signal });
    } catch (error) {
      signal.throwIfAborted();
      this.#p.logger.debug('the writable layer is copied later', { error: errorText(error) });
    }
  }

  /** A writable layer that was changed since it was copied is copied again, below a new mount: an overlay's layers must
   *  not be changed while it is mounted (Documentation/filesystems/overlayfs.rst). */
  async #copyChangedUpper(): Promise<void> {
    const { signal } = this.#stop;
    const changed = await unlessEmpty(this.#pull('upper-changed'));
    if (changed === undefined || this.#transfer === undefined) return;
    this.warnings.push(
      'Files were written while the writable layer was copied: copied while frozen',
    );
    await this.#restore.stopLoader(this.#transfer);
    await this.#restore.importUpper(changed, { signal });
    this.#logBytes = 0;
    await this.#restore.startLoader({ signal, program: loaderProgram() });
  }

  /** The log from where the last copy ended. */
  async #copyLog(): Promise<void> {
    const { port, migrationId } = this.#p;
    const what = { kind: 'log' as const, from: this.#logBytes };
    const chunks = port.pullState(migrationId, what, { signal: this.#stop.signal });
    await this.#restore.importLog(this.#counted(chunks));
  }

  async *#counted(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of chunks) {
      this.#logBytes += chunk.length;
      yield chunk;
    }
  }

  /** Opens the stream of pages: from here on the source reads, and sends as far as the window goes. */
  #pullPages(segments: SegmentTable): PageStream {
    const { port, migrationId } = this.#p;
    const credits = new Outbox<number>();
    credits.push(pageLimits.windowBytes);
    // Closed with the last page: the source ends the stream only then. A credit that crosses its end on the way would
    // break the call (gRPC: "write after end").
    if (segments.totalBytes === 0) credits.close();
    const over = new AbortController();
    const signal = AbortSignal.any([this.#stop.signal, over.signal]);
    const iterator = port.pullPages(migrationId, credits, { signal })[Symbol.asyncIterator]();
    const first = iterator.next();
    first.catch(() => {}); // looked at by whoever reads the chunks
    const chunks = (async function* () {
      for (let next = await first; !next.done; next = await iterator.next()) yield next.value;
    })();
    const end = async () => {
      credits.close();
      over.abort();
      await iterator.return?.();
    };
    return { chunks, credits, end };
  }

  async #fill(segments: SegmentTable, { chunks, credits }: PageStream): Promise<void> {
    const { progress } = this.#p;
    this.#counters = await this.#restore.fill(segments, chunks, {
      signal: this.#stop.signal,
      written: (bytes, counters) => {
        if (counters.raw < segments.totalBytes) credits.push(bytes);
        else credits.close();
        progress.pages(counters, { from: 0.3, to: 0.9 });
      },
    });
  }

  async #timed(name: string, work: () => Promise<void>): Promise<void> {
    const before = this.#p.now();
    await work();
    this.parts.push({ name, ms: this.#p.now() - before });
  }
}

interface PageStream {
  readonly chunks: AsyncIterable<PageChunk>;
  readonly credits: Outbox<number>;
  /** Repeatable. */
  end(): Promise<void>;
}

/** Waits for all, then throws the first failure: none goes on behind the back of what cleans up. */
async function allDone(works: readonly Promise<void>[]): Promise<void> {
  const ends = await Promise.allSettled(works);
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
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

/** The same stream, or undefined when it has nothing. */
async function unlessEmpty(
  chunks: AsyncIterable<Buffer>,
): Promise<AsyncIterable<Buffer> | undefined> {
  const iterator = chunks[Symbol.asyncIterator]();
  const first = await iterator.next();
  if (first.done) return undefined;
  return (async function* () {
    yield first.value;
    for (let next = await iterator.next(); !next.done; next = await iterator.next()) {
      yield next.value;
    }
  })();
}
