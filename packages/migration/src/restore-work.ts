import type { ContainerHost, Transfer } from '@ferry/container';
import { FerryError } from '@ferry/core';
import { type PageChunk, type PageCounters, PageWriter, type SegmentTable } from '@ferry/pages';
import { ContainerPids } from './container-pids.js';
import { Loader, loaderCommand, type ProgramStore } from './loader.js';

interface Options {
  readonly signal: AbortSignal;
}

/** Rebuilds one container on this host, from a source or from a checkpoint. Until `go` nothing of it has run, and
 *  `remove` leaves nothing. */
export class RestoreWork {
  readonly #host: ContainerHost;
  #name: string | undefined;
  #loader: Loader | undefined;

  constructor(host: ContainerHost) {
    this.#host = host;
  }

  /** Keeps a place for it. Its layers are here. */
  async reserve(transfer: Transfer, name?: string): Promise<void> {
    const { record } = await this.#host.reserve(transfer, { name });
    this.#name = record.name;
  }

  get name(): string {
    if (this.#name === undefined) throw new FerryError('restore.order', 'No place was reserved');
    return this.#name;
  }

  async importUpper(chunks: AsyncIterable<Buffer>, { signal }: Options): Promise<void> {
    await this.#host.importUpper(this.name, chunks, { signal });
  }

  async importLog(chunks: AsyncIterable<Buffer>): Promise<void> {
    await this.#host.importLog(this.name, chunks);
  }

  async importMounts(chunks: AsyncIterable<Buffer>, { signal }: Options): Promise<void> {
    await this.#host.importMounts(this.name, chunks, { signal });
  }

  /** Creates the container with the restorer for its first process. */
  async startLoader({ signal, program }: Options & { program: Buffer }): Promise<void> {
    const loader = Loader.create(program);
    this.#loader = loader;
    const { fds } = loader;
    await this.#host.createForRestore(this.name, { ...loaderCommand, fds, signal });
    loader.closeChildEnds();
    await this.#host.start(this.name, { signal });
  }

  /** Removes the container again and keeps its place: for a writable layer that has changed. */
  async stopLoader(transfer: Transfer): Promise<void> {
    const { name } = this;
    this.#loader?.close();
    this.#loader = undefined;
    await this.#host.remove(name);
    await this.reserve(transfer, name);
  }

  /** Gives the restorer its program; returns when the processes have their memory.
   *  @throws FerryError restore.failed */
  async layOut(programs: ProgramStore, { signal }: Options): Promise<void> {
    const loader = this.#running();
    await this.#explained(async () => {
      await loader.load(programs);
      await loader.laidOut(signal);
    });
  }

  /** Writes the memory, and lets the restorer do the rest; returns when all is restored but nothing runs.
   *  @param written  told the bytes of each chunk once it is in place */
  async fill(
    segments: SegmentTable,
    chunks: AsyncIterable<PageChunk>,
    options: Options & { written?: (wireBytes: number, counters: PageCounters) => void },
  ): Promise<PageCounters> {
    const pids = new ContainerPids(await this.#host.pids(this.name));
    const writer: PageWriter = new PageWriter(
      segments,
      (pid) => pids.hostPid(pid),
      (bytes) => options.written?.(bytes, writer.counters),
    );
    try {
      for await (const chunk of chunks) await writer.write(chunk);
      await writer.finish();
    } finally {
      await writer.settle();
    }
    const loader = this.#running();
    await this.#explained(async () => {
      await loader.pagesWritten();
      await loader.ready(options.signal);
    });
    return writer.counters;
  }

  /** Lets it run, and connects it. Only with the right to (a grant, or a checkpoint that nobody else runs). */
  async go(): Promise<void> {
    const loader = this.#running();
    await this.#explained(() => loader.go());
    loader.close();
    await this.#host.unlock(this.name);
  }

  /** Once it runs: the runtime knows it as its own. */
  async complete(options: { epoch: number }): Promise<void> {
    await this.#host.completeRestore(this.name, options);
  }

  /** Whether the restored processes still wait to be let go. */
  get isAlive(): boolean {
    return this.#loader !== undefined && !this.#loader.hasEnded;
  }

  /** Leaves nothing; repeatable. */
  async remove(): Promise<void> {
    this.#loader?.close();
    if (this.#name !== undefined) await this.#host.remove(this.#name);
  }

  #running(): Loader {
    if (this.#loader === undefined)
      throw new FerryError('restore.order', 'No restorer was started');
    return this.#loader;
  }

  /** Adds the restorer's own words, which it writes to the container's log, to an error that it ended. */
  async #explained(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'restore.failed') throw error;
      const text = await this.#lastWords();
      if (text === undefined) throw error;
      throw new FerryError('restore.failed', text, {
        cause: error,
        remedy: 'nothing was changed at the source; "ferry check" tells what this host lacks',
      });
    }
  }

  async #lastWords(): Promise<string | undefined> {
    await this.#host.waitExit(this.name).catch(() => undefined);
    let words: string | undefined;
    for await (const { line } of this.#host.readLog(this.name, { tail: 20 })) {
      if (line.startsWith('ferry: ')) words = line.slice('ferry: '.length);
    }
    return words;
  }
}
