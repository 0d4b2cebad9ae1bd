import { setTimeout as sleep } from 'node:timers/promises';
import { ApiError, type DrainMove, type Operation, type Problem } from '@ferry/api';
import { type DrainSnapshot, planDrain } from '../plan/drain.js';
import { memoryNeed, rankNodes } from '../plan/placement.js';
import { isFinal } from '../store/operations.js';
import { describe, preflight, reservations } from './place.js';
import { progressOf } from './run.js';
import { startMigration } from './start.js';
import {
  agentOf,
  HandOver,
  type Surroundings,
  throwIfStopping,
  type Work,
  type WorkResult,
} from './work.js';

/** Destinations asked for each container: those with the most free memory. */
const destinationsAsked = 16;
/** Containers whose nodes are asked at a time. */
const askedAtOnce = 4;
/** How long a container that another operation works on is waited for. */
const busyPatienceMs = 120_000;
const doubtPatienceMs = 60_000;
const lookAgainMs = 1000;
/** Looks for containers that came while the node was being emptied. */
const passesMost = 3;

/** Plans what a drain of `node` would do now; changes nothing. */
export async function planDrainOf(
  work: Surroundings,
  node: string,
  operation: string,
): Promise<DrainMove[]> {
  const containers = await containersOn(work, node);
  const nodes = (await work.stores.nodes.list()).map((other) => other.node);
  const reserved = await reservations(work, operation);
  const need = { memoryBytes: 0n, exclude: [node], reserved };
  const candidates = rankNodes(nodes, need).slice(0, destinationsAsked);
  const verdicts: Map<string, ReadonlyMap<string, readonly Problem[]>> = new Map();
  const queue = [...containers];
  const ask = async () => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const names = candidates.map((candidate) => candidate.node);
      verdicts.set(next.name, await verdictsOf(work, { name: next.name, node }, names));
    }
  };
  await Promise.all(Array.from({ length: askedAtOnce }, ask));
  const plan: DrainSnapshot = { node, containers, nodes, reserved, verdicts };
  return planDrain(plan).map(({ container, to, reason, remedy }) => {
    const state = to === undefined ? 'no-place' : 'planned';
    return { container, to: to ?? '', state, operation: '', reason, remedy };
  });
}

/** What would have to leave a node. From its agent: its last heartbeat may be older than the
 *  newest container. */
async function containersOn(work: Surroundings, node: string) {
  await work.stores.nodes.getUp(node);
  const { containers } = await (await agentOf(work, node)).listContainers({});
  return containers
    .filter(({ state }) => state === 'running' || state === 'starting')
    .map((container) => ({ name: container.name, memoryBytes: memoryNeed(container) }));
}

async function verdictsOf(
  work: Surroundings,
  container: { name: string; node: string },
  candidates: readonly string[],
): Promise<Map<string, readonly Problem[]>> {
  const verdicts = new Map<string, readonly Problem[]>();
  try {
    const description = await describe(work, container);
    const sourceAddress = (await work.stores.nodes.get(container.node)).node.address;
    for (const node of candidates) {
      const found = await preflight(work, node, { description, sourceAddress });
      verdicts.set(node, [...description.blockers, ...found]);
    }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    const problem = { code: 'drain.preflight', object: container.name, reason, remedy: '' };
    for (const node of candidates) verdicts.set(node, [problem]);
  }
  return verdicts;
}

/** Cordons the node, then moves its containers, `concurrency` at a time. */
export async function drainNode(work: Work): Promise<WorkResult> {
  const { operations, nodes } = work.stores;
  const { id, node } = work.operation;
  const cordonReason = (await nodes.get(node)).node.cordonReason;
  if (cordonReason === '') await nodes.cordon(node, `drain ${id}`);
  let moves =
    work.operation.result?.$case === 'drain' ? work.operation.result.value.moves : undefined;
  if (moves === undefined) {
    work.report(progressOf(work, 'preflight', `planning where the containers of ${node} go`, 0));
    moves = await planDrainOf(work, node, id);
    await keep(work, moves);
  }
  const drain = new Drain(work, moves);
  for (let pass = 1; ; pass += 1) {
    await drain.run();
    // A container whose start was under way when the node was cordoned is there only now.
    const late =
      pass === passesMost || work.cancel.aborted ? [] : await newcomers(work, drain.moves);
    if (late.length === 0) break;
    drain.moves = [...drain.moves, ...late];
    await keep(work, drain.moves);
  }
  const value = summary(drain.moves);
  await operations.update(id, (present) => ({ ...present, result: { $case: 'drain', value } }));
  const stuck = drain.moves.filter(({ state }) => !['moved', 'gone'].includes(state));
  if (stuck.length === 0) return { $case: 'drain', value };
  if (work.cancel.aborted) {
    const message = `Cancelled: ${value.moved} moved, ${stuck.length} stay on ${node}`;
    const remedy = `"ferry node uncordon ${node}" lets it take containers again`;
    throw new ApiError({ code: 'operation.cancelled', message, remedy });
  }
  const problems = stuck.map(({ container, reason, remedy, state }) => {
    return { code: `drain.${state}`, object: container, reason, remedy };
  });
  const message = `${stuck.length} of ${drain.moves.length} containers stay on ${node}`;
  const remedy = 'remove what stands in the way and drain again; it goes on with what is left';
  throw new ApiError({ code: 'drain.incomplete', message, remedy, problems });
}

async function newcomers(work: Work, moves: readonly DrainMove[]): Promise<DrainMove[]> {
  const known = new Set(moves.map(({ container }) => container));
  const { node, id } = work.operation;
  // A node that is shut down as soon as it is empty is no failure.
  const plan = await planDrainOf(work, node, id).catch((error: unknown) => {
    work.logger.info('node was not looked at again', { node, error: String(error) });
    return [];
  });
  return plan.filter(({ container }) => !known.has(container));
}

/** Writes the moves into the record, so that a successor goes on with them. */
async function keep(work: Work, moves: DrainMove[]): Promise<void> {
  const children = moves.map(({ operation }) => operation).filter((child) => child !== '');
  await work.stores.operations.update(work.operation.id, (present) => {
    if (isFinal(present)) return undefined;
    return { ...present, children, result: { $case: 'drain', value: summary(moves) } };
  });
}

export function summary(moves: DrainMove[]) {
  const count = (...states: string[]) => moves.filter(({ state }) => states.includes(state)).length;
  return { moves, moved: count('moved'), failed: count('failed', 'no-place') };
}

/** The moves of one drain, as many at a time as it may. The record of the drain holds where each
 *  of them stands. */
class Drain {
  readonly #work: Work;
  readonly #concurrency: number;
  readonly #since: number;
  moves: DrainMove[];
  #wake: () => void = () => {};
  /** When a migration was first seen in doubt. */
  readonly #doubts = new Map<string, number>();

  constructor(work: Work, moves: DrainMove[]) {
    this.#work = work;
    this.#concurrency = Number(work.params.concurrency ?? 2);
    this.#since = work.stores.db.now();
    this.moves = moves;
  }

  async run(): Promise<void> {
    const stops = new Map<string, () => void>();
    this.#work.cancel.addEventListener('abort', () => this.#wake());
    try {
      for (;;) {
        throwIfStopping(this.#work);
        await this.#settleRunning();
        if (this.#work.cancel.aborted) await this.#cancelAll();
        else await this.#startMore();
        for (const { operation, state } of this.moves) {
          if (state !== 'running' || stops.has(operation)) continue;
          const wake = () => this.#wake();
          stops.set(operation, this.#work.stores.notices.listen('event', operation, wake));
        }
        this.#report();
        if (this.moves.every(({ state }) => state !== 'planned' && state !== 'running')) return;
        await this.#wait();
      }
    } finally {
      for (const stop of stops.values()) stop();
    }
  }

  async #wait(): Promise<void> {
    const woken = new AbortController();
    this.#wake = () => woken.abort();
    const signal = AbortSignal.any([woken.signal, this.#work.stop]);
    await sleep(lookAgainMs, undefined, { signal }).catch(() => {});
    if (this.#work.stop.aborted) throw new HandOver();
  }

  /** Takes over what the migrations under way have come to. */
  async #settleRunning(): Promise<void> {
    for (const move of this.moves.filter(({ state }) => state === 'running')) {
      const child = await this.#work.stores.operations.find(move.operation);
      if (child !== undefined && !isFinal(child) && !this.#doubtedTooLong(child)) continue;
      const state = child === undefined ? 'failed' : this.#stateOf(child);
      const reason = child?.error?.message ?? '';
      await this.#change({ ...move, state, reason, remedy: child?.error?.remedy ?? '' });
    }
  }

  /** A migration in doubt may stay so until an operator mends a host; the drain says so rather
   *  than wait. */
  #doubtedTooLong(child: Operation): boolean {
    if (child.state !== 'in-doubt') return false;
    const now = this.#work.stores.db.now();
    const since = this.#doubts.get(child.id) ?? now;
    this.#doubts.set(child.id, since);
    return now - since > doubtPatienceMs;
  }

  #stateOf(child: Operation): string {
    if (child.state === 'succeeded') return 'moved';
    return child.state === 'cancelled' ? 'cancelled' : 'failed';
  }

  async #startMore(): Promise<void> {
    for (const move of this.moves.filter(({ state }) => state === 'planned')) {
      const running = this.moves.filter(({ state }) => state === 'running').length;
      if (running >= this.#concurrency) return;
      await this.#start(move);
    }
  }

  async #start(move: DrainMove): Promise<void> {
    const { operation } = this.#work;
    // Its id follows from the drain's: begun twice, it is the same migration.
    const id = `${operation.id}-${this.moves.indexOf(move) + 1}`;
    const record = await this.#work.stores.containers.find(move.container);
    if (record === undefined || record.node !== operation.node) {
      // It ended or moved since the plan was made; our own migration of it may have done so.
      const own = await this.#work.stores.operations.find(id);
      if (own === undefined) return await this.#change({ ...move, state: 'gone' });
    }
    try {
      await startMigration(this.#work, {
        ...{ id, name: move.container, to: move.to, mode: operation.mode },
        parent: operation.id,
      });
      await this.#change({ ...move, state: 'running', operation: id });
    } catch (error) {
      const busy = (error as { code?: unknown }).code === 'container.busy';
      if (busy && this.#work.stores.db.now() - this.#since < busyPatienceMs) return;
      const reason = error instanceof Error ? error.message : String(error);
      await this.#change({ ...move, state: 'failed', reason });
    }
  }

  async #cancelAll(): Promise<void> {
    for (const move of this.moves) {
      if (move.state === 'planned') await this.#change({ ...move, state: 'cancelled' });
      if (move.state !== 'running') continue;
      await this.#work.stores.operations.update(move.operation, (child) =>
        child.cancelRequested ? undefined : { ...child, cancelRequested: true },
      );
      await this.#work.stores.notices.publish('cancel', move.operation);
    }
  }

  async #change(move: DrainMove): Promise<void> {
    this.moves = this.moves.map((old) => (old.container === move.container ? move : old));
    await keep(this.#work, this.moves);
  }

  #report(): void {
    const done = this.moves.filter(({ state }) => !['planned', 'running'].includes(state)).length;
    const running = this.moves.filter(({ state }) => state === 'running');
    const moving = running.map(({ container, to }) => `${container} to ${to}`).join(', ');
    const message = `${done} of ${this.moves.length} done${moving === '' ? '' : `; moving ${moving}`}`;
    const fraction = this.moves.length === 0 ? 1 : done / this.moves.length;
    this.#work.report(progressOf(this.#work, 'drain', message, fraction));
  }
}
