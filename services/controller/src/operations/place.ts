import { setTimeout as sleep } from 'node:timers/promises';
import { ApiError, type ContainerDescription, type Problem } from '@ferry/api';
import { isTransportError } from '../agents.js';
import { type Candidate, memoryNeed, rankNodes, reservedByNode } from '../plan/placement.js';
import { agentOf, type Surroundings } from './work.js';

const describeDeadlineMs = 30_000;
const preflightDeadlineMs = 30_000;
const connectPatienceMs = 3000;

/** What the node that owns a container says it needs elsewhere. */
export async function describe(
  work: Surroundings,
  container: { name: string; node: string },
): Promise<ContainerDescription> {
  return await patiently(work, async () => {
    const agent = await agentOf(work, container.node);
    const settings = { deadlineMs: describeDeadlineMs };
    return await agent.describeContainer({ name: container.name }, settings);
  });
}

/** What stands against a container on `node`; an agent that does not answer is a problem too. */
export async function preflight(
  work: Surroundings,
  node: string,
  request: { description: ContainerDescription; sourceAddress: string },
): Promise<readonly Problem[]> {
  try {
    return await patiently(work, async () => {
      const agent = await agentOf(work, node);
      const answer = await agent.preflight(request, { deadlineMs: preflightDeadlineMs });
      return answer.problems;
    });
  } catch (error) {
    if (!isTransportError(error)) throw error;
    const remedy = 'check that its agent runs';
    return [
      { code: 'node.unavailable', object: node, reason: 'Its agent does not answer', remedy },
    ];
  }
}

/** Asks again while an agent cannot be connected to: it may just have come back, and connections
 *  to it wait a while before they are tried again. */
async function patiently<T>(work: Surroundings, ask: () => Promise<T>): Promise<T> {
  const { now } = work.stores.db;
  const giveUpAt = now() + connectPatienceMs;
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      const refusedNow = (error as { code?: unknown }).code === 'rpc.unavailable';
      if (!refusedNow || now() > giveUpAt || work.closing.aborted) throw error;
    }
    await sleep(200);
  }
}

/** @throws ApiError `CODE` with the problems, when there are any */
export function refuse(
  problems: readonly Problem[],
  refusal: { code: string; message: string; remedy?: string },
): void {
  if (problems.length === 0) return;
  const remedy = refusal.remedy ?? (problems.length === 1 ? problems[0]?.remedy : undefined) ?? '';
  throw new ApiError({ ...refusal, remedy, problems: [...problems] });
}

/** Memory that moves and starts under way will take, by node. @param except  an operation not to
 *  count */
export async function reservations(
  work: Surroundings,
  except: string,
): Promise<Map<string, bigint>> {
  const snapshots = await work.stores.nodes.list();
  const memory = new Map<string, bigint>();
  for (const { containers } of snapshots) {
    for (const container of containers) memory.set(container.name, memoryNeed(container));
  }
  const active = (await work.stores.operations.active()).filter(({ id }) => id !== except);
  return reservedByNode(active, (name) => memory.get(name) ?? 0n);
}

/** The node with the most free memory to which nothing stands in the way.
 *  @throws ApiError placement.none, with what each node said */
export async function choose(
  work: Surroundings,
  need: {
    readonly operation: string;
    readonly description: ContainerDescription;
    readonly memoryBytes: bigint;
    readonly exclude: readonly string[];
    readonly sourceAddress: string;
  },
): Promise<string> {
  const nodes = (await work.stores.nodes.list()).map(({ node }) => node);
  const reserved = await reservations(work, need.operation);
  const ranked = rankNodes(nodes, { ...need, reserved });
  const problems: Problem[] = [];
  for (const candidate of ranked) {
    const found = await preflight(work, candidate.node, need);
    if (found.length === 0) return candidate.node;
    for (const problem of found) {
      const object =
        problem.object === '' ? candidate.node : `${candidate.node}: ${problem.object}`;
      problems.push({ ...problem, object });
    }
  }
  throw noPlace(nodes.length, ranked, problems);
}

function noPlace(nodes: number, ranked: readonly Candidate[], problems: Problem[]): ApiError {
  const message =
    ranked.length === 0
      ? `None of the ${nodes} nodes takes containers and has enough free memory`
      : `None of the ${ranked.length} nodes with enough free memory accepts it`;
  const remedy = 'see "ferry node ls"; free memory, uncordon or add a node';
  return new ApiError({ code: 'placement.none', message, remedy, problems });
}
