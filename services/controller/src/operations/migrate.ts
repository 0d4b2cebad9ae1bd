import {
  ApiError,
  fromErrorDetail,
  MigrationPolicy,
  type MigrationResult,
  MigrationResult as MigrationResultMessage,
  type MigrationStatus,
  signTicket,
  toErrorDetail,
} from '@ferry/api';
import { FerryError, unreachable } from '@ferry/core';
import {
  type ControllerAction,
  type ControllerEvent,
  type ControllerState,
  controllerStart,
  controllerStep,
  isAgentWord,
} from '@ferry/migration/controller-machine';
import { isTransportError } from '../agents.js';
import { isRedisLost } from '../store/db.js';
import type { Route } from '../store/slots.js';
import { choose, describe, preflight, refuse } from './place.js';
import { cordoned, progressOf } from './run.js';
import { endTurn, takeTurn } from './turn.js';
import type { Work, WorkResult } from './work.js';
import { agentOf, cancelled, HandOver, InDoubt, pause, refresh, throwIfStopping } from './work.js';

/** What is decided before the destination is told to begin; kept in the worker's memory. */
interface Plan {
  readonly container: string;
  readonly source: string;
  readonly destination: string;
  /** The destination's, when it owns the container. */
  readonly epoch: bigint;
}

const retryPauseMs = 300;

/** A plan that nobody has begun. */
interface Decision {
  readonly plan: Plan;
  readonly need: Need;
  readonly route: Route;
}

/** Moves a container: decides where, waits for its turn, has the destination's agent do it, and settles what became
 *  of it. */
export async function migrateContainer(work: Work): Promise<WorkResult> {
  const { containers } = work.stores;
  const known = work.memory.epoch === undefined ? undefined : planFromMemory(work);
  const { plan, value } = known === undefined ? await anew(work) : await goneOnWith(work, known);
  const { destination: node, epoch } = plan;
  await containers.claim(plan.container, { node, epoch, spec: undefined });
  await refresh(work, node);
  const names = { container: plan.container, from: plan.source, to: node };
  return {
    $case: 'migration',
    value: { ...value, ...names, migrationId: work.operation.id, epoch },
  };
}

async function anew(work: Work) {
  const { plan, need, route } = await decide(work);
  const waited = await takeTurn(work, route);
  return await inTurn(work, plan, async () => {
    await begin(work, plan, waited ? need : undefined);
    return await new Migration(work, plan, { resumed: false }).drive();
  });
}

async function goneOnWith(work: Work, plan: Plan) {
  return await inTurn(work, plan, () => new Migration(work, plan, { resumed: true }).drive());
}

/** Keeps its places on both hosts until it has ended, or is in doubt; whoever takes it over has them still. */
async function inTurn(work: Work, plan: Plan, drive: () => Promise<MigrationResult>) {
  let isOver = true;
  try {
    return { plan, value: await drive() };
  } catch (error) {
    isOver = !(error instanceof HandOver || isRedisLost(error));
    throw error;
  } finally {
    if (isOver) await endTurn(work, work.operation.id, plan);
  }
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

/** Chooses the destination, or checks the one that was asked for. */
async function decide(work: Work): Promise<Decision> {
  const { containers, nodes } = work.stores;
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
      : await accepted(work, need, record.node);
  const { maxOutgoing, maxIncoming } = await boundsOf(work, record.node, destination);
  return {
    plan: { container, source: record.node, destination, epoch: record.epoch + 1n },
    need,
    route: { source: record.node, destination, maxOutgoing, maxIncoming },
  };
}

/** Writes the plan down: whoever takes the operation over goes on with it.
 *  @param need  asked about once more: the plan may be old */
async function begin(work: Work, plan: Plan, need: Need | undefined): Promise<void> {
  const { operations } = work.stores;
  const { container, source, destination: node } = plan;
  if (need !== undefined) {
    const message = `Node "${node}" can no longer take "${container}"`;
    refuse(await preflight(work, node, need), { code: 'migrate.preflight', message });
  }
  if (work.cancel.aborted) throw cancelled(work);
  await operations.update(work.operation.id, (present) => ({ ...present, node, source }));
  await operations.remember(work.operation.id, { epoch: plan.epoch.toString() });
}

/** As their agents have said. */
async function boundsOf(work: Work, source: string, destination: string) {
  const { nodes } = work.stores;
  const from = (await nodes.get(source)).node.facts;
  const to = (await nodes.get(destination)).node.facts;
  return { maxOutgoing: from?.maxOutgoing ?? 0, maxIncoming: to?.maxIncoming ?? 0 };
}

type Need = Parameters<typeof preflight>[2];

async function accepted(work: Work, need: Need, source: string): Promise<string> {
  const { container, node: name } = work.operation;
  const { node } = await work.stores.nodes.getUp(name);
  if (name === source) {
    const remedy = 'name another node, or use --any';
    throw new FerryError('migrate.sameNode', `"${container}" already runs on ${name}`, { remedy });
  }
  if (node.cordoned) throw cordoned(name);
  const message = `Node "${name}" cannot take "${container}"`;
  refuse(await preflight(work, name, need), { code: 'migrate.preflight', message });
  return name;
}

/** One migration in the destination's hands: performs what the controller's machine says. */
class Migration {
  readonly #work: Work;
  readonly #plan: Plan;
  #state: ControllerState;
  readonly #todo: ControllerAction[];
  #begun: boolean;
  #silentSince: number | undefined;
  #cancelHeard = false;
  #calledOff = false;
  #result: MigrationResult | undefined;

  constructor(work: Work, plan: Plan, options: { resumed: boolean }) {
    this.#work = work;
    this.#plan = plan;
    this.#begun = options.resumed;
    const doubted = work.operation.state === 'in-doubt';
    const { state, actions } = controllerStart({ begun: options.resumed, doubted });
    this.#state = state;
    this.#todo = [...actions];
  }

  /** @throws InDoubt, HandOver, or why it failed (the container then runs at the source) */
  async drive(): Promise<MigrationResult> {
    const ended = new AbortController();
    const onCancel = () => void this.#passCancelOn(ended.signal);
    if (this.#work.cancel.aborted) onCancel();
    else this.#work.cancel.addEventListener('abort', onCancel, { signal: ended.signal });
    try {
      for (let action = this.#todo.shift(); action !== undefined; action = this.#todo.shift()) {
        throwIfStopping(this.#work);
        const event = await this.#perform(action);
        throwIfStopping(this.#work);
        if (event === undefined) continue;
        const { state, actions } = controllerStep(this.#state, event);
        this.#state = state;
        this.#todo.push(...actions);
      }
    } finally {
      ended.abort();
    }
    return this.#outcome();
  }

  async #perform(action: ControllerAction): Promise<ControllerEvent | undefined> {
    const migrationId = this.#work.operation.id;
    const { source, destination } = this.#plan;
    switch (action) {
      case 'pause':
        await pause(this.#work, retryPauseMs);
        return undefined;
      case 'receive':
        if (!this.#begun && this.#work.cancel.aborted) throw cancelled(this.#work);
        this.#begun = true;
        return await this.#asked('destination', () => this.#received());
      case 'askDestination':
        return await this.#asked('destination', () => this.#destinationSays());
      case 'askSource':
        return await this.#asked('source', async () => {
          const agent = await agentOf(this.#work, source);
          return await agent.queryMigration({ migrationId }, askSettings);
        });
      case 'callOff':
        return await this.#asked('source', async () => {
          this.#calledOff = true;
          const agent = await agentOf(this.#work, source);
          const reason = `the agent of ${destination} does not answer`;
          const said = await agent.cancelMigration({ migrationId, reason });
          if (said.state !== 'cancelled') return said;
          // A host that was started anew may have forgotten that it handed the container over: then nobody can tell
          // before the destination is asked.
          const { containers } = await agent.listContainers({});
          const isThere = containers.some(({ name }) => name === this.#plan.container);
          return isThere ? said : { ...said, state: 'in-doubt' };
        });
      default:
        return unreachable(action);
    }
  }

  /** What came of a call. A broken connection is silence, everything else an answer. */
  async #asked(
    side: 'source' | 'destination',
    ask: () => Promise<Said | undefined>,
  ): Promise<ControllerEvent> {
    const kind = side === 'source' ? 'sourceSays' : 'destinationSays';
    try {
      const said = await ask();
      if (side === 'destination') this.#silentSince = undefined;
      // The stream ended without an outcome, or with a word of a later version: it is asked again.
      if (said === undefined || !isAgentWord(said.state)) return silence(false, undefined);
      if (said.result !== undefined) this.#result = said.result;
      const error = said.error === undefined ? undefined : fromErrorDetail(said.error);
      return { kind, word: said.state, error };
    } catch (error) {
      throwIfStopping(this.#work);
      if (!isTransportError(error)) {
        return { kind, word: codeOf(error) === 'migrate.inDoubt' ? 'in-doubt' : 'failed', error };
      }
      return side === 'source' ? { kind: 'sourceSilent', error } : this.#silent(error);
    }
  }

  #silent(error: unknown): ControllerEvent {
    const now = this.#work.stores.db.now();
    this.#silentSince ??= now;
    return silence(now - this.#silentSince >= this.#work.settings.agentSilenceMs, error);
  }

  /** Why it failed says nothing about how far it had come. */
  async #received(): Promise<Said | undefined> {
    try {
      return await this.#receive();
    } catch (error) {
      throwIfStopping(this.#work);
      if (isTransportError(error) || codeOf(error) === 'migrate.inDoubt') throw error;
      const { state } = await this.#destinationSays();
      // It has not even taken it, or has forgotten it since.
      const word = state === 'failed' || state === 'cancelled' ? state : 'refused';
      return { state: word, error: toErrorDetail(error) };
    }
  }

  async #destinationSays(): Promise<Said> {
    const agent = await agentOf(this.#work, this.#plan.destination);
    const migrationId = this.#work.operation.id;
    const status = await agent.queryMigration({ migrationId }, askSettings);
    // Cancelled before it had heard of it, and so by what it knows now.
    const unheard = status.state === 'cancelled' && status.role !== 'destination';
    return unheard ? { ...status, state: 'refused' } : status;
  }

  async #receive(): Promise<Said | undefined> {
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
      policy: policyOf(this.#work.params),
      timeoutMs: 0,
      destinationNode: destination,
      ticket: this.#ticket(),
    };
    for await (const { event } of agent.receiveMigration(request, { signal: stop })) {
      this.#silentSince = undefined;
      if (event?.$case === 'progress') this.#work.report({ ...event.value, container });
      if (event?.$case === 'result') return { state: 'succeeded', result: event.value };
    }
    return undefined;
  }

  /** A new one for each attempt: either side takes a ticket once. */
  #ticket(): Buffer {
    const { agents, operation, stores } = this.#work;
    const { container, source: sourceNode, destination: destinationNode, epoch } = this.#plan;
    const journey = { migrationId: operation.id, container, sourceNode, destinationNode, epoch };
    const { tls } = agents.security;
    // Without certificates agents have no way to check one.
    return tls === undefined ? Buffer.alloc(0) : signTicket(tls.current, journey, stores.db.now());
  }

  #outcome(): MigrationResult {
    const { phase, error } = this.#state;
    if (phase === 'succeeded') return this.#result ?? withoutFigures(this.#work, this.#plan);
    if (phase !== 'failed') throw inDoubt(this.#work, this.#plan, error);
    if (this.#calledOff) throw destinationLost(this.#plan, error);
    if (this.#state.doubted && error === undefined) throw neverBegan(this.#plan);
    if (error === undefined && this.#work.cancel.aborted) throw cancelled(this.#work);
    throw error ?? new ApiError({ code: 'migrate.failed', message: 'The migration failed' });
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

/** As `api/containers.ts` put it there; a drain's migrations have none. */
function policyOf({ policy }: Work['params']): MigrationPolicy | undefined {
  return policy === undefined ? undefined : MigrationPolicy.fromJSON(JSON.parse(policy));
}

/** What an agent says; the parts of MigrationStatus that count here. */
type Said = Pick<MigrationStatus, 'state'> & Partial<Pick<MigrationStatus, 'result' | 'error'>>;

const askSettings = { deadlineMs: 5000 };

function silence(long: boolean, error: unknown): ControllerEvent {
  return { kind: 'destinationSilent', long, error };
}

function codeOf(error: unknown): unknown {
  return (error as { code?: unknown } | undefined)?.code;
}

/** It went through, and whoever had its figures has been started again since. */
function withoutFigures(work: Work, { container, source, destination, epoch }: Plan) {
  return MigrationResultMessage.fromPartial({
    ...{ migrationId: work.operation.id, container, from: source, to: destination, epoch },
    ...{ mode: 'stop-copy', warnings: ['The figures of this migration were lost'] },
  });
}

function destinationLost(plan: Plan, cause: unknown): FerryError {
  return new FerryError('migrate.destinationLost', `The agent of ${plan.destination} went away`, {
    cause,
    remedy: `"${plan.container}" still runs on ${plan.source}; move it to another node`,
  });
}

function inDoubt(work: Work, plan: Plan, cause: unknown): InDoubt {
  const { container, source, destination } = plan;
  const message = `Nobody can tell yet whether "${container}" runs on ${source} or ${destination}`;
  const verb = `ferry resolve ${work.operation.id} --run-on NODE --i-have-fenced OTHER`;
  const remedy = `start the agents of ${source} and ${destination}: it settles by itself then; where one of them is gone for good: "${verb}"`;
  return new InDoubt('migrate.inDoubt', message, { cause, remedy });
}

function neverBegan(plan: Plan): FerryError {
  const message = `The agent of ${plan.destination} never heard of the migration`;
  const remedy = `"${plan.container}" still runs on ${plan.source}; migrate it again`;
  return new FerryError('migrate.neverBegan', message, { remedy });
}
