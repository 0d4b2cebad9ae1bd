import { setTimeout as sleep } from 'node:timers/promises';
import type { AgentClient, CallSettings, Operation, Progress } from '@ferry/api';
import { FerryError } from '@ferry/core';
import { type Agents, isTransportError, outOfReach } from '../agents.js';
import type { Logger } from '../logger.js';
import type { WorkQueue } from '../queue/queue.js';
import type { Settings } from '../settings.js';
import type { Stores } from '../store/stores.js';

/** What all work needs; lives as long as the controller. */
export interface Surroundings {
  readonly stores: Stores;
  readonly agents: Agents;
  readonly queue: WorkQueue;
  readonly settings: Settings;
  readonly logger: Logger;
  /** Fires when this controller begins to shut down. */
  readonly closing: AbortSignal;
}

/** One operation in a worker's hands. */
export interface Work extends Surroundings {
  readonly operation: Operation;
  readonly params: Readonly<Record<string, string>>;
  /** Noted by a worker that died before it ended; {} at the first attempt. */
  readonly memory: Readonly<Record<string, string>>;
  /** Fires when the user asked to cancel. */
  readonly cancel: AbortSignal;
  /** Fires when this controller shuts down: leave everything as it is and throw HandOver. */
  readonly stop: AbortSignal;
  report(progress: Progress): void;
}

/** What an operation ends with when it succeeds. */
export type WorkResult = Operation['result'];

/** Thrown by work that `stop` interrupted: another controller goes on with it. */
export class HandOver extends Error {}

/** Thrown when nobody can say yet what became of the work; it is looked at again later. */
export class InDoubt extends FerryError {}

const retryPauseMs = 300;

export function throwIfStopping(work: Work): void {
  if (work.stop.aborted) throw new HandOver();
}

export async function pause(work: Work, ms: number): Promise<void> {
  await sleep(ms, undefined, { signal: work.stop }).catch(() => {});
  throwIfStopping(work);
}

export function cancelled(work: Work): FerryError {
  const what = work.operation.kind;
  return new FerryError(
    'operation.cancelled',
    `The ${what} was cancelled before it changed anything`,
  );
}

/** Work of an agent that takes its time. */
export interface AgentTask<T> {
  readonly node: string;
  /** Starts the work or joins it; `alive` is to be called with every sign of life. */
  readonly call: (agent: AgentClient, settings: CallSettings, alive: () => void) => Promise<T>;
  /** Asks the agent to end it; the call then fails, or ends as if not asked. */
  readonly cancel: (agent: AgentClient) => Promise<unknown>;
}

/** Has an agent do something to its end: joins it again whenever the connection breaks, passes a
 *  cancellation on.
 *  @throws FerryError node.unavailable when the agent is out of reach for too long; HandOver;
 *      the agent's error */
export async function perform<T>(work: Work, task: AgentTask<T>): Promise<T> {
  const ended = new AbortController();
  if (work.cancel.aborted) void passOn(work, task, ended.signal);
  else work.cancel.addEventListener('abort', () => void passOn(work, task, ended.signal));
  let silentSince: number | undefined;
  const alive = () => {
    silentSince = undefined;
  };
  try {
    for (;;) {
      throwIfStopping(work);
      try {
        return await task.call(await agentOf(work, task.node), { signal: work.stop }, alive);
      } catch (error) {
        throwIfStopping(work);
        if (!isTransportError(error)) throw error;
        const now = work.stores.db.now();
        silentSince ??= now;
        if (now - silentSince > work.settings.agentSilenceMs) throw outOfReach(task.node, error);
      }
      await pause(work, retryPauseMs);
    }
  } finally {
    ended.abort();
  }
}

/** Repeats the cancellation until the agent has heard it or the work has ended. Never rejects. */
async function passOn<T>(work: Work, task: AgentTask<T>, ended: AbortSignal): Promise<void> {
  while (!ended.aborted && !work.stop.aborted) {
    try {
      await task.cancel(await agentOf(work, task.node));
      return;
    } catch (error) {
      work.logger.debug('cancellation was not heard', { node: task.node, error: String(error) });
      await sleep(retryPauseMs, undefined, { signal: ended }).catch(() => {});
    }
  }
}

export async function agentOf(work: Surroundings, node: string): Promise<AgentClient> {
  return work.agents.at((await work.stores.nodes.get(node)).node);
}

const refreshDeadlineMs = 2000;

/** Asks a node what it holds now, so that a list right after an operation shows what came of it.
 *  Never rejects: the next heartbeat says it too. */
export async function refresh(work: Surroundings, node: string): Promise<void> {
  try {
    const agent = await agentOf(work, node);
    const { containers } = await agent.listContainers({}, { deadlineMs: refreshDeadlineMs });
    await work.stores.nodes.setContainers(node, containers);
  } catch (error) {
    work.logger.debug('node was not asked again', { node, error: String(error) });
  }
}
