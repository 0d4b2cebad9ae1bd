import type { ContainerDescription } from '@ferry/api';
import {
  bothMapped,
  type CpuQuota,
  leavingOut,
  type Mapped,
  type MountRounds,
  type Neighbour,
  SentBlocks,
  type TreeState,
  treeChanges,
  treeState,
} from '@ferry/container';
import { FerryError } from '@ferry/core';
import { collectYoung } from '@ferry/linux';
import { SegmentTable } from '@ferry/pages';
import { Courtesy, lossBetween, type ProcessorUse, processorUse } from './courtesy.js';
import { describeRunning, type SourceHost } from './describe.js';
import { readBootId } from './host-facts.js';
import type { Journal, JournalEntry } from './journal.js';
import type { Tracer } from './tracer.js';
import type { TracerCapture, TracerLayout } from './tracer-protocol.js';
import { startTracer } from './tracer-start.js';

/** The frozen container's processes. */
export interface FrozenImage {
  readonly image: Buffer;
  readonly segments: SegmentTable;
  /** So many segments at the end are fetched once the container runs elsewhere. */
  readonly laterSegments: number;
  readonly captureMs: number;
}

/** What skeletons lack. */
export interface OwedPages {
  /** First shared memory that was written, then private memory, last shared memory that may have been. */
  readonly segments: SegmentTable;
  readonly sharedSegments: number;
  readonly doubtfulSegments: number;
  /** There is shared memory: in the next look all of it may be doubtful. */
  readonly followsShared: boolean;
  readonly scanMs: number;
}

interface Parameters {
  readonly source: SourceHost;
  readonly journal: Journal;
  readonly migrationId: string;
  readonly container: string;
  readonly epoch: bigint;
  /** The destination. */
  readonly peer?: JournalEntry['peer'];
  /** The journal says that it came back before this agent started. */
  readonly returned?: boolean;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

/** What has come of a container's writable layer. */
interface CopiedUpper {
  readonly state: TreeState;
  readonly sent: SentBlocks;
  /** Files that were mapped for writing when it was looked at. */
  readonly mapped: Mapped;
}

/** What a source does to one container during its migration (or checkpoint). Each step may be undone by `thaw` until
 *  `commit` has returned. */
export class SourceWork {
  readonly #p: Parameters;
  #tracer: Tracer | undefined;
  #locked = false;
  /** By the cgroup freezer. */
  #held = false;
  /** All of `commit` but the decision is done. */
  #commitPrepared = false;
  #returned = false;
  #frozenAt: number | undefined;
  #neighbours: Neighbour[] = [];
  #copiedUpper: CopiedUpper | undefined;
  #mounts: MountRounds | undefined;
  #quota: CpuQuota | undefined;
  /** Since writes are noted: the container's CPU time then, in microseconds, and when that was. */
  #usage: { readonly us: number; readonly at: number } | undefined;
  /** What it had of the processors before anything was copied. */
  #useBefore: ProcessorUse | undefined;
  /** Processors' worth of time that it used before it was slowed down. */
  #cpus = 0;

  constructor(parameters: Parameters) {
    this.#p = parameters;
    this.#returned = parameters.returned === true;
  }

  /** Whom the container knew in its network just before it was frozen. */
  get neighbours(): readonly Neighbour[] {
    return this.#neighbours;
  }

  /** When the first thread was stopped. */
  get frozenAt(): number | undefined {
    return this.#frozenAt;
  }

  /** Resolves when the tracer has ended, which it does not do unasked. Never, before it was started. */
  tracerEnded(): Promise<string> {
    return this.#tracer?.ended ?? new Promise(() => {});
  }

  /** Starts the tracer and looks at the container, which runs on.
   *  @throws FerryError migrate.epoch, container.state */
  async describe(): Promise<{ description: ContainerDescription; transfer: string }> {
    const { source, container, epoch } = this.#p;
    const status = await source.host.get(container);
    const { record } = status;
    if (record.phase !== 'running' || status.state !== 'running') {
      throw new FerryError('container.state', `Container ${container} does not run here`, {
        remedy: 'see "ferry ps" for its state',
      });
    }
    if (BigInt(record.epoch) + 1n !== epoch) {
      throw new FerryError(
        'migrate.epoch',
        `Container ${container} is at epoch ${record.epoch} here, asked to hand over ${epoch}`,
        { remedy: 'it has moved meanwhile: ask again' },
      );
    }
    this.#tracer = await startTracer(source, container);
    const description = await describeRunning(source, status, this.#tracer);
    const transfer = JSON.stringify(await source.host.describe(container));
    this.#useBefore = processorUse(this.hostPids());
    return { description, transfer };
  }

  /** Has writes to memory noted from here on, the processes standing for some milliseconds. */
  async track(): Promise<TracerLayout> {
    const { source, container, now } = this.#p;
    const layout = await this.#running().ask({ method: 'track' });
    this.#quota = source.host.cpuQuota(container);
    this.#usage = { us: await this.#quota.usageUs().catch(() => 0), at: now() };
    return layout;
  }

  /** For the first round, which is as long as all others together: later ones must be short, or they do not converge. */
  async courtesy(): Promise<Courtesy> {
    const pids = this.hostPids();
    const use = (): ProcessorUse => processorUse(pids);
    const before = this.#useBefore;
    const usualLoss = before === undefined ? 0 : lossBetween(before, use());
    return new Courtesy({ use, usualLoss, now: this.#p.now });
  }

  /** Leaves the container with so many hundredths of the CPU time that it used before.
   *  @throws FerryError container.cpuQuota */
  async throttle(percent: number): Promise<void> {
    const quota = this.#quota;
    if (quota === undefined || this.#usage === undefined) return;
    if (quota.before.length === 0) {
      const { us, at } = this.#usage;
      const spent = (await quota.usageUs()) - us;
      this.#cpus = Math.max(0.05, spent / 1000 / Math.max(1, this.#p.now() - at));
      await quota.remember();
      // Should this process die, the tracer puts it back.
      await this.#running().ask({ method: 'putBack', files: quota.before });
    }
    await quota.limit((this.#cpus * Math.min(100, Math.max(1, percent))) / 100);
  }

  /** What was written since the last round; in the first, everything. */
  async round(): Promise<OwedPages> {
    const round = await this.#running().ask({ method: 'round' });
    return { ...round, segments: SegmentTable.decode(Buffer.from(round.segments)) };
  }

  /** Stops every thread, cuts the network, and captures the processes, and what no round has brought of their memory. Nothing
   *  of it may run elsewhere before `check`, which COMMIT waits for.
   *  @param options.later  what may be fetched later is told apart
   *  @param options.stands  told after how many milliseconds that was so
   *  @param options.looked  where it is given, what was written since the last round is taken for itself, before the rest */
  async freezeAndCapture(options: {
    readonly later: boolean;
    readonly stands: (ms: number) => void;
    readonly looked?: ((owed: OwedPages) => Promise<void>) | undefined;
  }): Promise<FrozenImage> {
    const { source, container, now } = this.#p;
    const tracer = this.#running();
    await Promise.all([tracer.ask({ method: 'makeReady' }), source.host.keepFrames(container)]);
    this.#neighbours = this.#knownNeighbours();
    collectYoung();
    // A thread that has used up its quota would stop only when it gets a new one.
    await this.#quota?.restore();
    const frozenAt = now();
    this.#frozenAt = frozenAt;
    this.#locked = true;
    const { later, stands, looked } = options;
    // The tracer need not wait for a word from here between them: while the network is cut it looks at memory and processes.
    const stopped = tracer.ask({ method: 'freeze' });
    const owed = looked === undefined ? undefined : this.round();
    const number = tracer.newCut();
    const image = tracer.ask({ method: 'capture', later, cut: number });
    let standsAt = frozenAt;
    const cut = async () => {
      let done = false;
      try {
        // One after the other: what a program still says before it is stopped must get out.
        await stopped;
        await source.host.lock(container);
        done = true;
      } finally {
        tracer.networkIsCut({ cut: number, done });
      }
      standsAt = now();
      stands(standsAt - frozenAt);
    };
    const tellOwed = async () => {
      if (owed !== undefined) await looked?.(await owed);
    };
    const [captured] = await Promise.all([image, cut(), tellOwed()]);
    return frozenImage(captured, now() - standsAt);
  }

  #knownNeighbours(): Neighbour[] {
    try {
      return this.#p.source.host.neighbours(this.#p.container);
    } catch {
      return []; // it will ask for them again
    }
  }

  /** What is left to be looked at of what was captured.
   *  @throws FerryError capture.blocked when the container has something that would be gone */
  async check(): Promise<void> {
    await this.#running().ask({ method: 'check' });
  }

  /** With the container frozen: all of it again, whatever the rounds brought. */
  async captureWhole(): Promise<FrozenImage> {
    // Processes take steps of their own for it, with every thread held by the tracer.
    this.#commitPrepared = false;
    if (this.#held) await this.#p.source.host.thaw(this.#p.container);
    this.#held = false;
    const before = this.#p.now();
    const captured = await this.#running().ask({ method: 'captureWhole' });
    return frozenImage(captured, this.#p.now() - before);
  }

  /** Processes of the container, running or frozen. */
  hostPids(): number[] {
    return this.#p.source.host.pids(this.#p.container);
  }

  /** Frames for the container that came since its network was cut, or since the last call. */
  takeFrames(): Buffer[] {
    return this.#p.source.host.takeFrames(this.#p.container);
  }

  /** The writable layer's archive. Of a container that runs it is what `exportUpperChanges` starts from. */
  async *exportUpper(signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
    const { source, container } = this.#p;
    this.#copiedUpper = undefined;
    const sent = new SentBlocks();
    const before = source.host.mappedInUpper(container);
    const state = await treeState(source.host.upperPath(container));
    const out: string[] = [];
    const leftOut = (path: string) => out.push(path);
    yield* source.host.exportUpper(container, { signal, sent, leftOut, looked: state });
    const mapped = bothMapped(before, source.host.mappedInUpper(container));
    this.#copiedUpper = { state: leavingOut(state, out), sent, mapped };
  }

  /** What has changed of it since the last export.
   *  @throws FerryError migrate.order when there was none */
  async *exportUpperChanges(signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
    const { source, container } = this.#p;
    const before = this.#copiedUpper;
    if (before === undefined) {
      throw new FerryError('migrate.order', 'The writable layer was not copied yet');
    }
    // Should it fail now, nobody knows what has come.
    this.#copiedUpper = undefined;
    const { sent } = before;
    const nowMapped = source.host.mappedInUpper(container);
    const mapped = bothMapped(before.mapped, nowMapped);
    const now = await treeState(source.host.upperPath(container));
    sent.keepOnly(now);
    const doubtful = (inode: bigint) => mapped === 'any' || mapped.has(inode);
    const changes = treeChanges(before.state, now, { doubtful });
    const out: string[] = [];
    const leftOut = (path: string) => out.push(path);
    const options = { signal, sent, leftOut, looked: now };
    yield* source.host.exportUpperChanges(container, changes, options);
    const since = source.host.mappedInUpper(container);
    this.#copiedUpper = { state: leavingOut(now, out), sent, mapped: bothMapped(nowMapped, since) };
  }

  /** The tmpfs mounts of a container that runs: what `exportMountChanges` starts from.
   *  @throws FerryError container.mounts when changes of them cannot be followed */
  async *exportMounts(signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
    const { source, container } = this.#p;
    const mounts = await source.host.mountRounds(container);
    signal.throwIfAborted();
    this.#endMounts();
    this.#mounts = mounts;
    yield* mounts.copy(signal);
  }

  /** What has changed of them since the last export.
   *  @param look  `standing`: the last one
   *  @throws FerryError migrate.order when there was none, container.mounts */
  async *exportMountChanges(
    look: 'running' | 'standing',
    signal: AbortSignal,
  ): AsyncGenerator<Buffer, void, undefined> {
    signal.throwIfAborted();
    if (this.#mounts === undefined) {
      throw new FerryError('migrate.order', 'The tmpfs mounts were not copied yet');
    }
    yield* this.#mounts.changes(look, signal);
    if (look === 'standing') this.#endMounts();
  }

  #endMounts(): void {
    this.#mounts?.[Symbol.dispose]();
    this.#mounts = undefined;
  }

  /** Does what can be undone of `commit`, while the destination restores.
   *  @throws FerryError capture.blocked when the container has something that would be gone */
  async prepareCommit(): Promise<void> {
    const { source, container, journal, migrationId } = this.#p;
    this.#held = true;
    const prepared = journal.prepare(this.#entry('committed'));
    prepared.catch(() => {}); // looked at below
    await source.host.freeze(container);
    await this.check();
    // Before the entry, so that no moment is left in which a tracer that loses its agent must guess: the entry decides.
    // Had the tracer died before the freezer held, the container would have run meanwhile.
    await this.#running().ask({ method: 'commit', entry: journal.path(migrationId) });
    await prepared;
    this.#commitPrepared = true;
  }

  /** Makes the decision durable. From its return on the copy here may never run again: the cgroup freezer holds it even
   *  when agent and tracer are killed.
   *  @throws when the decision was not made: the container may be thawed */
  async commit(): Promise<void> {
    if (!this.#commitPrepared) await this.prepareCommit();
    await this.#p.journal.write(this.#entry('committed'));
  }

  /** Makes it durable that the container is this host's again: the destination never ran it, and never will. */
  async recordReturn(): Promise<void> {
    await this.#p.journal.write(this.#entry('returned'));
    this.#returned = true;
  }

  #entry(decision: JournalEntry['decision']): JournalEntry {
    const { migrationId, container, epoch, peer } = this.#p;
    return {
      ...{ migrationId, role: 'source', decision, container, epoch: epoch.toString() },
      ...{ bootId: readBootId(), ...(peer === undefined ? {} : { peer }) },
    };
  }

  /** Removes the copy here, without a word to its peers. */
  async destroy(): Promise<void> {
    this.#endMounts();
    const { source, container, journal, migrationId } = this.#p;
    const tracer = this.#tracer;
    if (tracer !== undefined && !tracer.hasEnded) {
      // Should it fail, removing the container kills what is left: the cgroup freezer holds it until then.
      const killed = await tracer.ask({ method: 'kill' }).then(
        () => true,
        () => false,
      );
      await (killed ? source.tracers.giveBack(tracer) : tracer.close());
    }
    await source.host.remove(container);
    if (journal.get(migrationId) !== undefined) await journal.write(this.#entry('destroyed'));
  }

  /** As if nothing had been; after `recordReturn` with the epoch that follows the granted one. Tries everything, whatever
   *  fails; repeatable.
   *  @throws the first failure */
  async thaw(): Promise<void> {
    this.#endMounts();
    if (this.#returned && (await this.#hasGoneOn())) return await this.#recordReclaimed();
    const { source, container, epoch } = this.#p;
    const failures: unknown[] = [];
    const attempt = async (step: () => Promise<unknown>) => {
      try {
        await step();
      } catch (error) {
        failures.push(error);
      }
    };
    if (this.#returned) {
      // The epoch first: nobody may see it run under the one that was granted.
      await attempt(() => source.host.completeRestore(container, { epoch: Number(epoch) + 1 }));
    }
    // Before the tracer: it lets the processes take steps of their own.
    if (this.#held || this.#returned) await attempt(() => source.host.thaw(container));
    const tracer = this.#tracer;
    if (tracer !== undefined && !tracer.hasEnded) {
      await attempt(() => tracer.ask({ method: 'thaw' }));
    }
    const quota = this.#quota;
    if (quota !== undefined) await attempt(() => quota.restore());
    if (this.#locked || this.#returned) await attempt(() => source.host.unlock(container));
    if (tracer !== undefined) {
      await attempt(() => (failures.length > 0 ? tracer.close() : source.tracers.giveBack(tracer)));
    }
    if (failures.length > 0) throw failures[0];
    this.#locked = this.#held = false;
    if (this.#returned) await this.#recordReclaimed();
    else await this.#recordAborted();
  }

  /** Whoever is told so may rely on it: an agent that starts again does not begin the same migration anew. Nobody is told by
   *  way of others what could not be written down. */
  async #recordAborted(): Promise<void> {
    const { journal, migrationId } = this.#p;
    if (journal.get(migrationId) !== undefined) return;
    await journal.write(this.#entry('aborted')).catch(() => {});
  }

  /** Whether the container has been handed over again since it was returned, or is gone: then nothing of it is this
   *  migration's to thaw. */
  async #hasGoneOn(): Promise<boolean> {
    const { source, container, epoch } = this.#p;
    const found = await source.host.find(container);
    // Its processes went with the host, when that was started anew.
    if (found?.pid === undefined) return true;
    return BigInt(found.record.epoch) > epoch + 1n;
  }

  /** Nothing is left to be done, by any agent that finds the entry. */
  async #recordReclaimed(): Promise<void> {
    await this.#p.journal.write(this.#entry('reclaimed'));
  }

  #running(): Tracer {
    if (this.#tracer !== undefined && !this.#tracer.hasEnded) return this.#tracer;
    throw new FerryError('tracer.ended', 'The tracer has ended', {
      remedy: 'look at the log of the agent; the container runs on',
    });
  }
}

function frozenImage(captured: TracerCapture, captureMs: number): FrozenImage {
  const { image, segments, laterSegments } = captured;
  return {
    ...{ laterSegments, captureMs, image: Buffer.from(image) },
    segments: SegmentTable.decode(Buffer.from(segments)),
  };
}
