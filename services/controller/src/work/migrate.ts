import { ApiError, fromErrorDetail, type MigrationResult, type MigrationStatus } from '@ferry/api';
import { FerryError } from '@ferry/core';
import { isTransportError } from '../agents.js';
import { choose, describe, preflight, refuse } from './place.js';
import { cordoned, progressOf } from './run.js';
import type { Work, WorkResult } from './work.js';
import { agentOf, cancelled, InDoubt, pause, refresh, throwIfStopping } from './work.js';

/** What is decided before the destination is told to begin; kept in the worker's memory. */
interface Plan {
  readonly container: string;
  readonly source: string;
  readonly destination: string;
  /** The destination's, when it owns the container. */
  readonly epoch: bigint;
}

const retryPauseMs = 300;

/** Moves a container: decides where, has the destination's agent do it, and settles what became
 *  of it. */
export async function migrateContainer(work: Work): Promise<WorkResult> {
  const { containers } = work.stores;
  const known = work.memory.epoch === undefined ? undefined : planFromMemory(work);
  const plan = known ?? (await decide(work));
  const migration = new Migration(work, plan, { resumed: known !== undefined });
  const value = await migration.drive();
  const { destination: node, epoch } = plan;
  await containers.claim(plan.container, { node, epoch, spec: undefined });
  await refresh(work, node);
  const names = { container: plan.container, from: plan.source, to: node };
  return {
    $case: 'migration',
    value: { ...value, ...names, migrationId: work.operation.id, epoch },
  };
}

function planFromMemory(work: Work): Plan {
  const { operation, memory } = work;
  return {
    container: operation.container,
    source: operation.source,
    destination: operation.node,
    epoch: BigInt(memory.epoch ?? 0),
  };
}

/** Chooses the destination, or checks the one that was asked for, and writes the decision down. */
async function decide(work: Work): Promise<Plan> {
  const { containers, nodes, operations } = work.stores;
  const { id, container } = work.operation;
  const record = await containers.get(container);
  const source = (await nodes.getUp(record.node)).node;
  work.report(progressOf(work, 'preflight', `asking what ${container} needs`, 0.01));
  const description = await describe(work, record);
  refuse(description.blockers, {
    code: 'migrate.blocked',
    message: `"${container}" cannot be moved`,
  });
  const need = { description, sourceAddress: source.address };
  const destination =
    work.operation.node === ''
      ? await choose(work, {
          ...need,
          operation: id,
          memoryBytes: description.memoryBytes,
          exclude: [record.node],
        })
      : await accepted(work, { ...need, source: record.node });
  if (work.cancel.aborted) throw cancelled(work);
  const plan = { container, source: record.node, destination, epoch: record.epoch + 1n };
  await operations.update(id, (present) => ({
    ...present,
    node: destination,
    source: record.node,
  }));
  await operations.remember(id, { epoch: plan.epoch.toString() });
  return plan;
}

type Need = Parameters<typeof preflight>[2] & { readonly source: string };

async function accepted(work: Work, need: Need): Promise<string> {
  const { container, node: name } = work.operation;
  const { node } = await work.stores.nodes.getUp(name);
  if (name === need.source) {
    const remedy = 'name another node, or use --any';
    throw new FerryError('migrate.sameNode', `"${container}" already runs on ${name}`, { remedy });
  }
  if (node.cordoned) throw cordoned(name);
  const message = `Node "${name}" cannot take "${container}"`;
  refuse(await preflight(work, name, need), { code: 'migrate.preflight', message });
  return name;
}

/** One migration in the destination's hands. Joins it again after every break of the connection,
 *  and when the destination stays away asks the source, which alone decides whether it may still
 *  go through. */
class Migration {
  readonly #work: Work;
  readonly #plan: Plan;
  #begun: boolean;
  #silentSince: number | undefined;
  #cancelHeard = false;

  constructor(work: Work, plan: Plan, options: { resumed: boolean }) {
    this.#work = work;
    this.#plan = plan;
    this.#begun = options.resumed;
  }

  /** @throws InDoubt, HandOver, or why it failed (the container then runs at the source) */
  async drive(): Promise<MigrationResult> {
    const ended = new AbortController();
    const onCancel = () => void this.#passCancelOn(ended.signal);
    if (this.#work.cancel.aborted) onCancel();
    else this.#work.cancel.addEventListener('abort', onCancel, { signal: ended.signal });
    try {
      for (;;) {
        throwIfStopping(this.#work);
        const result = await this.#tryOnce();
        if (result !== undefined) return result;
        await pause(this.#work, retryPauseMs);
      }
    } finally {
      ended.abort();
    }
  }

  /** @returns undefined when the connection broke and it should be tried again */
  async #tryOnce(): Promise<MigrationResult | undefined> {
    try {
      if (this.#begun) {
        const agent = await agentOf(this.#work, this.#plan.destination);
        const status = await agent.queryMigration({ migrationId: this.#work.operation.id });
        const settled = this.#settle(status, this.#plan.destination);
        if (settled !== undefined) return settled;
      }
      this.#begun = true;
      return await this.#receive();
    } catch (error) {
      throwIfStopping(this.#work);
      if (!isTransportError(error)) throw error;
      await this.#destinationSilent(error);
      return undefined;
    }
  }

  async #receive(): Promise<MigrationResult | undefined> {
    const { stores, operation, stop } = this.#work;
    const { container, source, destination, epoch } = this.#plan;
    const sourceAddress = (await stores.nodes.get(source)).node.address;
    const agent = await agentOf(this.#work, destination);
    const request = {
      migrationId: operation.id,
      epoch,
      container,
      sourceNode: source,
      sourceAddress,
      mode: operation.mode === '' ? 'auto' : operation.mode,
      timeoutMs: 0,
      destinationNode: destination,
    };
    for await (const { event } of agent.receiveMigration(request, { signal: stop })) {
      this.#silentSince = undefined;
      if (event?.$case === 'progress') this.#work.report({ ...event.value, container });
      if (event?.$case === 'result') return event.value;
    }
    return undefined;
  }

  /** What a status means. @returns undefined: begin or join */
  #settle(status: MigrationStatus, node: string): MigrationResult | undefined {
    const error = status.error === undefined ? undefined : fromErrorDetail(status.error);
    switch (status.state) {
      case 'succeeded':
        if (status.result !== undefined) return status.result;
        throw new InDoubt('migrate.inDoubt', `${node} reports success without a result`);
      case 'failed':
        throw error ?? new ApiError({ code: 'migrate.failed', message: 'The migration failed' });
      case 'cancelled':
        throw error ?? cancelled(this.#work);
      case 'in-doubt':
        throw inDoubt(this.#plan, error);
      case 'unknown':
        if (this.#work.cancel.aborted) throw cancelled(this.#work);
        if (this.#work.operation.state === 'in-doubt') throw neverBegan(this.#plan);
        return undefined;
      default:
        return undefined; // running, committed
    }
  }

  /** Waits while the destination may come back; after that the source is asked to end it. */
  async #destinationSilent(cause: unknown): Promise<void> {
    const now = this.#work.stores.db.now();
    this.#silentSince ??= now;
    if (now - this.#silentSince < this.#work.settings.agentSilenceMs) return;
    const { source, destination, container } = this.#plan;
    const reason = `the agent of ${destination} does not answer`;
    const migrationId = this.#work.operation.id;
    let status: MigrationStatus;
    try {
      status = await (await agentOf(this.#work, source)).cancelMigration({ migrationId, reason });
    } catch (error) {
      throw inDoubt(this.#plan, error);
    }
    if (status.state !== 'cancelled' && status.state !== 'failed') throw inDoubt(this.#plan, cause);
    throw new FerryError('migrate.destinationLost', `The agent of ${destination} went away`, {
      cause,
      remedy: `"${container}" still runs on ${source}; move it to another node`,
    });
  }

  /** Repeats the request until somebody has heard it. Never rejects. */
  async #passCancelOn(ended: AbortSignal): Promise<void> {
    const migrationId = this.#work.operation.id;
    while (!ended.aborted && !this.#cancelHeard && !this.#work.stop.aborted) {
      try {
        const agent = await agentOf(this.#work, this.#plan.destination);
        await agent.cancelMigration({ migrationId, reason: 'cancelled by a user' });
        this.#cancelHeard = true;
      } catch (error) {
        this.#work.logger.debug('cancellation was not heard', {
          migrationId,
          error: String(error),
        });
        await pause(this.#work, retryPauseMs).catch(() => {});
      }
    }
  }
}

function inDoubt(plan: Plan, cause: unknown): InDoubt {
  const { container, source, destination } = plan;
  const message = `Nobody can tell yet whether "${container}" runs on ${source} or ${destination}`;
  const remedy = `start the agents of ${source} and ${destination}; it settles by itself then`;
  return new InDoubt('migrate.inDoubt', message, { cause, remedy });
}

function neverBegan(plan: Plan): FerryError {
  const message = `The agent of ${plan.destination} never heard of the migration`;
  const remedy = `"${plan.container}" still runs on ${plan.source}; migrate it again`;
  return new FerryError('migrate.neverBegan', message, { remedy });
}
