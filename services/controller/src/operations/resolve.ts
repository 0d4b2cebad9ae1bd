import type { MigrationStatus, Operation } from '@ferry/api';
import { errorText, FerryError } from '@ferry/core';
import { isFinal } from '../store/operations.js';
import { agentOf, type Surroundings } from './work.js';

/** How long the fenced node is asked: it is not expected to answer. */
const askFencedMs = 3000;
const askAgainMs = 200;
const resolveDeadlineMs = 30_000;

/** What the fenced node says, when it can be asked. */
interface Answer {
  readonly status: MigrationStatus;
  /** A container of that name runs there. */
  readonly runs: boolean;
}

/** Ends the doubt of a migration by an operator's word that one of its nodes is fenced: the other one runs the container.
 *  Whatever can still be asked is asked first.
 *  @throws FerryError resolve.kind, resolve.settled, resolve.nodes, resolve.contradicted; what the agent refuses with */
export async function resolveMigration(
  around: Surroundings,
  request: { readonly id: string; readonly runOn: string; readonly fenced: string },
): Promise<Operation> {
  const { operations } = around.stores;
  const operation = await operations.get(request.id);
  const epoch = await checked(around, operation, request);
  const answer = await ask(around, operation, request.fenced);
  if (answer !== undefined) await contradict(around, { operation, answer, ...request });
  const agent = await agentOf(around, request.runOn);
  const decision = { migrationId: operation.id, decision: 'run-here' };
  const status = await agent.resolveMigration(decision, { deadlineMs: resolveDeadlineMs });
  around.logger.warn('an operator resolved a migration', { ...request, fenced: request.fenced });
  return await finish(around, { operation, epoch, runOn: request.runOn, status });
}

/** @returns the epoch that the destination was to own */
async function checked(
  around: Surroundings,
  operation: Operation,
  { runOn, fenced }: { runOn: string; fenced: string },
): Promise<bigint> {
  const { id, kind, state, source, node, container } = operation;
  if (kind !== 'migrate') {
    throw new FerryError('resolve.kind', `Operation ${id} is a ${kind}, not a migration`);
  }
  if (isFinal(operation)) {
    throw new FerryError('resolve.settled', `Operation ${id} is settled: it ${state}`, {
      remedy: `see "ferry op show ${id}"`,
    });
  }
  const pair = [source, node].sort().join();
  if (source === '' || [runOn, fenced].sort().join() !== pair) {
    throw new FerryError(
      'resolve.nodes',
      `The nodes of operation ${id} are ${source} and ${node}`,
      {
        remedy: 'name one of them to run the container, and the other one as fenced',
      },
    );
  }
  if (state !== 'in-doubt') {
    throw new FerryError('resolve.settled', `Operation ${id} is not in doubt: it is ${state}`, {
      remedy: 'wait: it settles by itself, or comes into doubt',
    });
  }
  const epoch = BigInt((await around.stores.operations.memory(id)).epoch ?? 0);
  const record = await around.stores.containers.find(container);
  if (record !== undefined && record.epoch >= epoch && record.node !== runOn) {
    throw contradicted(`"${container}" belongs to ${record.node} since, at epoch ${record.epoch}`);
  }
  return epoch;
}

/** Asked again and again for a while: the connection to a node that has just come back may still be waiting to be made. */
async function ask(
  around: Surroundings,
  operation: Operation,
  node: string,
): Promise<Answer | undefined> {
  const until = performance.now() + askFencedMs;
  for (;;) {
    const answer = await askOnce(around, operation, node);
    if (answer !== undefined || performance.now() > until) return answer;
    await new Promise((resolve) => setTimeout(resolve, askAgainMs));
  }
}

async function askOnce(
  around: Surroundings,
  { id, container }: Operation,
  node: string,
): Promise<Answer | undefined> {
  try {
    const agent = await agentOf(around, node);
    const settings = { deadlineMs: askFencedMs };
    const status = await agent.queryMigration({ migrationId: id }, settings);
    const { containers } = await agent.listContainers({}, settings);
    const runs = containers.some(({ name, state }) => name === container && state === 'running');
    return { status, runs };
  } catch (error) {
    around.logger.info('the fenced node does not answer', { node, error: errorText(error) });
    return undefined;
  }
}

async function contradict(
  around: Surroundings,
  asked: { operation: Operation; answer: Answer; runOn: string; fenced: string },
): Promise<void> {
  const { operation, answer, fenced } = asked;
  const { copy } = answer.status;
  if (answer.runs || copy === 'runs') {
    throw contradicted(`${fenced} answers, and "${operation.container}" runs there`);
  }
  if (copy !== 'ready') return;
  // It could still be granted: it is made to give its copy up first.
  const agent = await agentOf(around, fenced);
  const decision = { migrationId: operation.id, decision: 'give-up' };
  await agent.resolveMigration(decision, { deadlineMs: resolveDeadlineMs });
}

function contradicted(text: string): FerryError {
  return new FerryError('resolve.contradicted', text, {
    remedy: 'nothing was changed; look again which node is to be fenced',
  });
}

async function finish(
  around: Surroundings,
  done: { operation: Operation; epoch: bigint; runOn: string; status: MigrationStatus },
): Promise<Operation> {
  const { operation, epoch, runOn, status } = done;
  const { operations, containers, db } = around.stores;
  const toDestination = runOn === operation.node;
  // The source comes back with the epoch after the one that it had granted.
  const owner = { node: runOn, epoch: toDestination ? epoch : epoch + 1n, spec: undefined };
  await containers.claim(operation.container, owner);
  const finishedAtMs = BigInt(db.now());
  const ended = await operations.update(operation.id, (present) => {
    if (isFinal(present)) return undefined;
    if (!toDestination || status.result === undefined) {
      const error = {
        code: 'migrate.resolved',
        message: `An operator decided that ${runOn} runs "${operation.container}"`,
        remedy: '',
        problems: [],
      };
      const state = toDestination ? 'succeeded' : 'failed';
      return { ...present, state, error, finishedAtMs };
    }
    const value = { ...status.result, from: operation.source, to: operation.node };
    const result = { $case: 'migration' as const, value };
    return { ...present, state: 'succeeded', result, error: undefined, finishedAtMs };
  });
  await containers.unlock(operation.container, operation.id);
  return ended;
}
