import type { ContainerDescription } from '@ferry/api';
import { FerryError } from '@ferry/core';
import { SegmentTable } from '@ferry/pages';
import { describeRunning, type SourceHost } from './describe.js';
import type { Journal } from './journal.js';
import type { Tracer } from './tracer.js';
import { startTracer } from './tracer-start.js';
import { folderState } from './upper-state.js';

/** The frozen container's processes. */
export interface FrozenImage {
  readonly image: Buffer;
  readonly segments: SegmentTable;
  readonly freezeMs: number;
  readonly captureMs: number;
}

interface Parameters {
  readonly source: SourceHost;
  readonly journal: Journal;
  readonly migrationId: string;
  readonly container: string;
  readonly epoch: bigint;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

/** What a source does to one container during its migration (or checkpoint). Each step may be undone by `thaw` until
 *  `commit` has returned. */
export class SourceWork {
  readonly #p: Parameters;
  #tracer: Tracer | undefined;
  #locked = false;
  #frozenAt: number | undefined;
  #copiedUpper: string | undefined;

  constructor(parameters: Parameters) {
    this.#p = parameters;
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
    return { description, transfer };
  }

  /** Stops every thread, cuts the network, and captures. */
  async freeze(): Promise<FrozenImage> {
    const { source, container, now } = this.#p;
    const tracer = this.#running();
    this.#frozenAt = now();
    this.#locked = true;
    await Promise.all([tracer.ask({ method: 'freeze' }), source.host.lock(container)]);
    const stoppedAt = now();
    const { image, segments } = await tracer.ask({ method: 'capture' });
    return {
      image: Buffer.from(image),
      segments: SegmentTable.decode(Buffer.from(segments)),
      freezeMs: stoppedAt - this.#frozenAt,
      captureMs: now() - stoppedAt,
    };
  }

  /** The writable layer's archive, remembering what it was copied from. Of a container that runs it fails when a file
   *  changes under it. */
  async *exportUpper(signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
    const { source, container } = this.#p;
    this.#copiedUpper = undefined;
    const { digest } = await folderState(source.host.upperPath(container));
    yield* source.host.exportUpper(container, { signal });
    this.#copiedUpper = digest;
  }

  /** With the container frozen: whether the writable layer is what `exportUpper` last gave. */
  async isUpperCopied(): Promise<boolean> {
    const { source, container } = this.#p;
    const state = await folderState(source.host.upperPath(container));
    return state.digest === this.#copiedUpper;
  }

  /** Makes the decision durable. From its return on the copy here may never run again: the cgroup freezer holds it even
   *  when agent and tracer are killed.
   *  @throws when the decision was not made: the container may be thawed */
  async commit(): Promise<void> {
    const { source, container, journal, migrationId, epoch } = this.#p;
    const tracer = this.#running();
    await source.host.freeze(container);
    try {
      // Had the tracer died before the freezer held, the container would have run meanwhile.
      await tracer.ask({ method: 'ping' });
      const entry = { migrationId, container, epoch: epoch.toString() };
      await journal.write({ ...entry, decision: 'committed' });
    } catch (error) {
      await source.host.thaw(container);
      throw error;
    }
    // A tracer that does not hear it lets go when the agent dies; the freezer holds the container all the same.
    await tracer.ask({ method: 'commit' }).catch(() => {});
  }

  /** Removes the copy here, without a word to its peers. */
  async destroy(): Promise<void> {
    const { source, container, journal, migrationId } = this.#p;
    const tracer = this.#tracer;
    if (tracer !== undefined && !tracer.hasEnded) {
      // Should it fail, removing the container kills what is left: the cgroup freezer holds it until then.
      await tracer.ask({ method: 'kill' }).catch(() => {});
      await tracer.close();
    }
    await source.host.remove(container);
    await journal.forget(migrationId);
  }

  /** As if nothing had been. Tries everything, whatever fails; repeatable.
   *  @throws the first failure */
  async thaw(): Promise<void> {
    const { source, container } = this.#p;
    const failures: unknown[] = [];
    const attempt = async (step: () => Promise<unknown>) => {
      try {
        await step();
      } catch (error) {
        failures.push(error);
      }
    };
    const tracer = this.#tracer;
    if (tracer !== undefined && !tracer.hasEnded) {
      await attempt(() => tracer.ask({ method: 'thaw' }));
    }
    if (this.#locked) await attempt(() => source.host.unlock(container));
    if (tracer !== undefined) await attempt(() => tracer.close());
    if (failures.length > 0) throw failures[0];
  }

  #running(): Tracer {
    if (this.#tracer !== undefined && !this.#tracer.hasEnded) return this.#tracer;
    throw new FerryError('tracer.ended', 'The tracer has ended', {
      remedy: 'look at the log of the agent; the container runs on',
    });
  }
}
