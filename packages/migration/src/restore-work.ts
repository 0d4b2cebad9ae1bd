import type { ContainerHost, FirstPacketWatch, Neighbour, Transfer } from '@ferry/container';
import { FerryError } from '@ferry/core';
import { compileFinish } from '@ferry/dumpbin';
import { type PageChunk, type PageCounters, PageWriter, type SegmentTable } from '@ferry/pages';
import { ContainerPids } from './container-pids.js';
import type { LaterProcess } from './later-pages.js';
import { Loader, loaderCommand, type ProgramStore } from './loader.js';
import { finishOf, type Skeleton, type SkeletonPrograms, skeletonOf } from './skeleton-programs.js';

interface Options {
  readonly signal: AbortSignal;
}

/** A restorer that fails has ended within this; what is left of one that was killed may not. */
const LAST_WORDS_MS = 2000;

/** Rebuilds one container on this host, from a source or from a checkpoint. Until `go` nothing of it has run, and
 *  `remove` leaves nothing. */
export class RestoreWork {
  readonly #host: ContainerHost;
  #name: string | undefined;
  #loader: Loader | undefined;
  #skeleton: Skeleton | undefined;
  #firstPacket: FirstPacketWatch | undefined;

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

  /** Follows the changes of a writable layer that was imported before the restorer was started. */
  async importUpperChanges(chunks: AsyncIterable<Buffer>, { signal }: Options): Promise<void> {
    await this.#host.importUpperChanges(this.name, chunks, { signal });
  }

  async importLog(chunks: AsyncIterable<Buffer>): Promise<void> {
    await this.#host.importLog(this.name, chunks);
  }

  async importMounts(chunks: AsyncIterable<Buffer>, { signal }: Options): Promise<void> {
    await this.#host.importMounts(this.name, chunks, { signal });
  }

  async importMountChanges(chunks: AsyncIterable<Buffer>, { signal }: Options): Promise<void> {
    await this.#host.importMountChanges(this.name, chunks, { signal });
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

  /** Has the first packet noted that it sends once it runs: `takeFirstPacketMs`. */
  async watchFirstPacket(): Promise<void> {
    this.#firstPacket?.[Symbol.dispose]();
    this.#firstPacket = await this.#host.watchFirstPacket(this.name);
  }

  /** Removes the container again and keeps its place: for a writable layer that has changed. */
  async stopLoader(transfer: Transfer): Promise<void> {
    const { name } = this;
    this.#loader?.close();
    this.#loader = undefined;
    this.#skeleton = undefined;
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

  /** Makes processes that have the layout of an image and wait, their memory writable.
   *  @throws FerryError restore.failed, image.*, dumpbin.* */
  async makeSkeleton(image: Buffer, { signal }: Options): Promise<void> {
    const loader = this.#running();
    const { skeleton, programs } = skeletonOf(image);
    await this.#explained(async () => {
      await loader.loadSkeleton(programs);
      await loader.laidOut(signal);
    });
    this.#skeleton = skeleton;
  }

  /** Whether memory is being brought into a skeleton. */
  get hasSkeleton(): boolean {
    return this.#skeleton !== undefined;
  }

  /** What `adjust` gives the skeleton, so that it becomes what the image shows.
   *  @param later  memory that is missing from then on, until it is filled in
   *  @throws FerryError dumpbin.skeleton when it cannot */
  compileFinish(image: Buffer, later: readonly LaterProcess[] = []): SkeletonPrograms {
    if (this.#skeleton === undefined) throw new FerryError('restore.order', 'No skeleton');
    return finishOf(image, this.#skeleton, later);
  }

  /** Compiles what the skeleton shows already, for nothing but that the same is quick when it counts: what has not run for a
   *  while is no longer in the processor's caches. */
  rehearseFinish(): void {
    const skeleton = this.#skeleton;
    if (skeleton === undefined) return;
    try {
      compileFinish(skeleton.image, skeleton);
    } catch {
      // It lacks descriptors that something may refer to.
    }
  }

  /** Gives the skeleton its last programs; returns when it has the final layout. */
  async adjust(programs: SkeletonPrograms, { signal }: Options): Promise<void> {
    const loader = this.#running();
    await this.#explained(async () => {
      await loader.loadFinish(programs);
      await loader.adjusted(signal);
    });
  }

  /** Writes pages into processes that wait for them.
   *  @param written  told the bytes of each chunk once it is in place */
  async write(
    segments: SegmentTable,
    chunks: AsyncIterable<PageChunk>,
    options: Options & { written?: (wireBytes: number, counters: PageCounters) => void },
  ): Promise<PageCounters> {
    const pids = new ContainerPids(this.#host.pids(this.name));
    const writer: PageWriter = new PageWriter(
      segments,
      (pid) => pids.hostPid(pid),
      (bytes) => options.written?.(bytes, writer.counters),
    );
    const iterator = chunks[Symbol.asyncIterator]();
    try {
      for (;;) {
        const next = await Promise.race([iterator.next(), writer.failed]);
        if (next.done) break;
        await writer.write(next.value);
        // That the stream ends, too, is a word there and back.
        if (writer.hasAll) break;
      }
      await writer.finish();
    } finally {
      // After a failure its next chunk may still be awaited.
      void iterator.return?.().catch(() => {});
      await writer.settle();
    }
    return writer.counters;
  }

  /** Once all memory is written, the restorer does the rest; returns when all is restored but nothing runs. */
  async finish({ signal }: Options): Promise<void> {
    const loader = this.#running();
    await this.#explained(async () => {
      await loader.pagesWritten();
      await loader.ready(signal);
    });
  }

  /** Lets it run. Only with the right to (a grant, or a checkpoint that nobody else runs). What runs may have ended again.
   *  @throws FerryError restore.failed, restore.stuck: nothing of it has run, and nothing will */
  async go(): Promise<void> {
    const loader = this.#running();
    this.#firstPacket?.start();
    const stuck = await this.#explained(() => loader.go()).catch(async (error: unknown) => {
      if ((error as { code?: unknown }).code !== 'restore.stuck') throw error;
      await this.#host.killAll(this.name);
      return error;
    });
    const { ran } = loader;
    loader.close();
    if (ran) return;
    if (stuck !== undefined) throw stuck;
    const error = new FerryError('restore.failed', 'The restorer ended before anything ran', {
      remedy: 'see whether memory ran out; the container still runs at its source',
    });
    await this.#explained(() => Promise.reject(error));
  }

  /** How long after `go` the first packet of its own left it, ms; undefined when none has so far. The watch ends. */
  takeFirstPacketMs(): number | undefined {
    const afterMs = this.#firstPacket?.afterMs;
    this.#firstPacket?.[Symbol.dispose]();
    this.#firstPacket = undefined;
    return afterMs;
  }

  /** Connects it to the network.
   *  @param neighbours  whom it knew there */
  async connect(neighbours: readonly Neighbour[] = []): Promise<void> {
    try {
      this.#host.addNeighbours(this.name, neighbours);
    } catch {
      // It asks for them itself.
    }
    await this.#host.unlock(this.name);
  }

  /** Takes it off the network again: nothing of it has run. */
  async disconnect(): Promise<void> {
    await this.#host.lock(this.name);
  }

  /** Gives it frames that were kept for it at its source. */
  deliver(frames: readonly Buffer[]): void {
    this.#host.deliverFrames(this.name, frames);
  }

  /** Takes over what an agent before this one has made under that name. */
  adopt(name: string): void {
    this.#name = name;
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
    this.#firstPacket?.[Symbol.dispose]();
    this.#firstPacket = undefined;
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
    const signal = AbortSignal.timeout(LAST_WORDS_MS);
    await this.#host.waitExit(this.name, { signal }).catch(() => undefined);
    let words: string | undefined;
    for await (const { line } of this.#host.readLog(this.name, { tail: 20 })) {
      if (line.startsWith('ferry: ')) words = line.slice('ferry: '.length);
    }
    return words;
  }
}
