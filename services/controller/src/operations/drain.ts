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

/** Plans what a drain of `node` would do now; changes nothing.
 *  @param failed  where each container could not go: nowhere it is tried again */
export async function planDrainOf(
  work: Surroundings,
  node: string,
  operation: string,
  failed: ReadonlyMap<string, ReadonlySet<string>> = new Map(),
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
      const not = failed.get(next.name);
      const names = candidates.map((candidate) => candidate.node).filter((name) => !not?.has(name));
      verdicts.set(next.name, await verdictsOf(work, { name: next.name, node }, names));
    }
  };
  await Promise.all(Array.from({ length: askedAtOnce }, ask));
  const plan: DrainSnapshot = { node, containers, nodes, reserved, verdicts };
  return planDrain(plan).map(({ container, to, reason, remedy }) => {
    const state = to === undefined ? 'no-place' : 'planned';
    return { container, to: to ?? '', state, operation: '', reason, remedy, tries: 0 };
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
  }
  const drain = new Drain(work, moves);
  await drain.keep();
  for (let pass = 1; ; pass += 1) {
    await drain.run();
    const isLast = pass === passesMost || work.cancel.aborted || drain.isLate;
    if (isLast || !drain.take(await nextMoves(work, drain.failed))) break;
    await drain.keep();
  }
  const value = drain.summary();
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

/** Where what is still there would go now. */
async function nextMoves(work: Work, failed: Drain['failed']): Promise<DrainMove[]> {
  const { node, id } = work.operation;
  // A node that is shut down as soon as it is empty is no failure.
  return await planDrainOf(work, node, id, failed).catch((error: unknown) => {
    work.logger.info('node was not looked at again', { node, error: String(error) });
    return [];
  });
}

/** How far the moves are.
 *  @param times  Unix milliseconds: when the drain gives up (0: never), and when it ends as it looks now (0: unknown) */
export function summary(moves: DrainMove[], times: { givesUpAt: number; endsAt: number }) {
  const count = (...states: string[]) => moves.filter(({ state }) => states.includes(state)).length;
  return {
    moves,
    moved: count('moved'),
    failed: count('failed', 'no-place', 'late'),
    givesUpAtMs: BigInt(Math.round(times.givesUpAt)),
    endsAtMs: BigInt(Math.round(times.endsAt)),
  };
}

/** The moves of one drain, as many at a time as it may. The record of the drain holds where each
 *  of them stands. */
class Drain {
  readonly #work: Work;
  readonly #concurrency: number;
  readonly #since: number;
  /** Unix milliseconds; 0: never. */
  readonly #givesUpAt: number;
  /** Moves that had ended when this worker took the drain over: they do not tell how fast it goes. */
  readonly #endedBefore: number;
  moves: DrainMove[];
  /** Where each container could not go. */
  readonly failed = new Map<string, Set<string>>();
  #wake: () => void = () => {};
  /** When a migration was first seen in doubt. */
  readonly #doubts = new Map<string, number>();

  constructor(work: Work, moves: DrainMove[]) {
    this.#work = work;
    this.#concurrency = Number(work.params.concurrency ?? 2);
    this.#since = work.stores.db.now();
    this.moves = moves;
    const timeoutMs = Number(work.params.timeoutMs ?? 0);
    this.#givesUpAt = timeoutMs === 0 ? 0 : Number(work.operation.startedAtMs) + timeoutMs;
    this.#endedBefore = this.#ended();
  }

  /** Its time is over. */
  get isLate(): boolean {
    return this.#givesUpAt > 0 && this.#work.stores.db.now() >= this.#givesUpAt;
  }

  summary() {
    return summary(this.moves, { givesUpAt: this.#givesUpAt, endsAt: this.#endsAt() });
  }

  /** Adds what has changed since the plan was made: containers whose start was under way when the node was cordoned, and
   *  other destinations for those that could not go where they should.
   *  @returns whether there is anything to do */
  take(plan: readonly DrainMove[]): boolean {
    const before = this.moves;
    for (const next of plan) {
      const known = this.moves.find(({ container }) => container === next.container);
      if (known === undefined) this.moves = [...this.moves, next];
      else if (known.state === 'failed' && next.to !== '') {
        const reason = `${known.to}: ${known.reason}`;
        const again = { ...known, to: next.to, state: 'planned', operation: '', reason };
        this.moves = this.moves.map((move) => (move === known ? again : move));
      }
    }
    return this.moves !== before;
  }

  /** Writes the moves into the record, so that a successor goes on with them. */
  async keep(): Promise<void> {
    const children = this.moves.map(({ operation }) => operation).filter((child) => child !== '');
    const value = this.summary();
    await this.#work.stores.operations.update(this.#work.operation.id, (present) => {
      if (isFinal(present)) return undefined;
      return { ...present, children, result: { $case: 'drain', value } };
    });
  }

  #ended(): number {
    return this.moves.filter(({ state }) => !['planned', 'running'].includes(state)).length;
  }

  /** When it ends if it goes on as it went. 0: nobody can tell. */
  #endsAt(): number {
    const ended = this.#ended() - this.#endedBefore;
    const left = this.moves.length - this.#ended();
    if (ended <= 0 || left === 0) return 0;
    const now = this.#work.stores.db.now();
    return now + ((now - this.#since) / ended) * left;
  }

  async run(): Promise<void> {
    const stops = new Map<string, () => void>();
    this.#work.cancel.addEventListener('abort', () => this.#wake());
    try {
      for (;;) {
        throwIfStopping(this.#work);
        await this.#settleRunning();
        if (this.#work.cancel.aborted) await this.#endAll('cancelled', '');
        else if (this.isLate) await this.#endAll('late', this.#lateText());
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
      const reason = state === 'late' ? this.#lateText() : (child?.error?.message ?? '');
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
    if (child.state !== 'cancelled') return 'failed';
    return this.isLate && !this.#work.cancel.aborted ? 'late' : 'cancelled';
  }

  #lateText(): string {
    return `It was not moved by ${timeText(this.#givesUpAt)}, when this drain was to give up`;
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
    const number = this.moves.indexOf(move) + 1;
    const id = `${operation.id}-${number}${move.tries === 0 ? '' : `-${move.tries + 1}`}`;
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
      await this.#change({ ...move, state: 'running', operation: id, tries: move.tries + 1 });
    } catch (error) {
      const busy = (error as { code?: unknown }).code === 'container.busy';
      const reason = error instanceof Error ? error.message : String(error);
      const until = this.#since + busyPatienceMs;
      const waitsUntil = this.#givesUpAt === 0 ? until : Math.min(until, this.#givesUpAt);
      if (busy && this.#work.stores.db.now() < until) {
        const waits = `${reason}; waited for until ${timeText(waitsUntil)}`;
        return await this.#change({ ...move, reason: waits });
      }
      await this.#change({ ...move, state: 'failed', reason });
    }
  }

  /** What is not begun stays; what is under way is called off, unless it is decided already. */
  async #endAll(state: 'cancelled' | 'late', reason: string): Promise<void> {
    for (const move of this.moves) {
      if (move.state === 'planned') await this.#change({ ...move, state, reason });
      if (move.state !== 'running') continue;
      await this.#work.stores.operations.update(move.operation, (child) =>
        child.cancelRequested ? undefined : { ...child, cancelRequested: true },
      );
      await this.#work.stores.notices.publish('cancel', move.operation);
    }
  }

  async #change(move: DrainMove): Promise<void> {
    const { container, to } = move;
    if (move.state === 'failed') {
      this.failed.set(container, new Set([...(this.failed.get(container) ?? []), to]));
    }
    const old = this.moves.find((present) => present.container === container);
    if (old?.state === move.state && old.reason === move.reason) return;
    this.moves = this.moves.map((present) => (present === old ? move : present));
    await this.keep();
  }

  #report(): void {
    const done = this.#ended();
    const running = this.moves.filter(({ state }) => state === 'running');
    const moving = running.map(({ container, to }) => `${container} to ${to}`).join(', ');
    const endsAt = this.#endsAt();
    const message = [
      `${done} of ${this.moves.length} done`,
      ...(moving === '' ? [] : [`moving ${moving}`]),
      ...(endsAt === 0 ? [] : [`ends about ${timeText(endsAt)}`]),
      ...(this.#givesUpAt === 0 ? [] : [`gives up at ${timeText(this.#givesUpAt)}`]),
    ].join('; ');
    const fraction = this.moves.length === 0 ? 1 : done / this.moves.length;
    this.#work.report(progressOf(this.#work, 'drain', message, fraction));
  }
}

function timeText(unixMs: number): string {
  return new Date(unixMs).toISOString().replace(/\.[0-9]+Z$/, 'Z');
}
