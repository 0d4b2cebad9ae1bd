import {
  type CheckpointContainerRequest,
  type ContainerLogsRequest,
  checkContainerName,
  checkId,
  checkNodeName,
  type ListContainersRequest,
  type LogChunk,
  limits,
  type MigrateContainerRequest,
  MigrationPolicy,
  type Operation,
  type RestoreContainerRequest,
  type RunContainerRequest,
  type StopContainerRequest,
} from '@ferry/api';
import { FerryError } from '@ferry/core';
import { lockContainer, startMigration, startOperation } from '../operations/start.js';
import { agentOf, type Surroundings } from '../operations/work.js';
import { containerView } from '../plan/view.js';
import { isInDoubt } from '../store/operations.js';
import {
  checkMode,
  checkPolicy,
  checkRequestId,
  checkSealFor,
  checkSpec,
  checkWithin,
  optionalNode,
} from './validate.js';

const graceMsMax = 3_600_000;

/** ClusterService: what concerns one container. */
export function containerCalls(around: Surroundings) {
  const { containers, nodes } = around.stores;

  async function run(request: RunContainerRequest): Promise<Operation> {
    const spec = checkSpec(request.spec);
    const node = optionalNode(request.node);
    if (node !== '') await nodes.getUp(node);
    return await startOperation(around, {
      ...{ kind: 'run', container: spec.name, node, requestId: checkRequestId(request.requestId) },
      take: async (id) => {
        if (!(await containers.reserve(spec.name, id, spec))) throw nameTaken(spec.name);
      },
      giveBack: async (id) => void (await containers.remove(spec.name, id)),
    });
  }

  async function list(request: ListContainersRequest) {
    const node = optionalNode(request.node);
    if (node !== '') await nodes.get(node);
    const snapshots = new Map((await nodes.list()).map((found) => [found.node.name, found]));
    const records = await containers.list();
    const wanted = records.filter((record) => node === '' || record.node === node);
    const doubted = (await around.stores.operations.active()).filter(isInDoubt);
    const inDoubt = new Set(doubted.map(({ id }) => id));
    const views = wanted.map((record) => containerView(record, snapshots.get(record.node)));
    return {
      containers: views.map((view) =>
        inDoubt.has(view.operation) ? { ...view, state: 'in-doubt' } : view,
      ),
    };
  }

  async function stop(request: StopContainerRequest): Promise<Operation> {
    const name = checkContainerName(request.name);
    const graceMs = checkWithin(request.graceMs, { what: 'Grace time', max: graceMsMax });
    return await startOperation(around, {
      ...{ kind: 'stop', container: name, node: (await containers.get(name)).node },
      params: { graceMs: String(graceMs), keep: String(request.keep) },
      take: (id) => lockContainer(around, name, id),
      giveBack: (id) => containers.unlock(name, id),
    });
  }

  async function* logs(
    request: ContainerLogsRequest,
    context: { signal: AbortSignal },
  ): AsyncIterable<LogChunk> {
    const name = checkContainerName(request.name);
    const what = { what: 'Number of lines', max: limits.logTailLinesMax };
    checkWithin(request.options?.tailLines ?? 0, what);
    const record = await containers.get(name);
    await nodes.getUp(record.node);
    const agent = await agentOf(around, record.node);
    yield* agent.containerLogs({ name, options: request.options }, { signal: context.signal });
  }

  async function checkpoint(request: CheckpointContainerRequest): Promise<Operation> {
    const name = checkContainerName(request.name);
    const requestId = checkRequestId(request.requestId);
    return await startOperation(around, {
      ...{
        kind: 'checkpoint',
        container: name,
        node: (await containers.get(name)).node,
        requestId,
      },
      params: {
        leaveRunning: String(request.leaveRunning),
        sealFor: checkSealFor(request.sealFor).toString('hex'),
      },
      take: (id) => lockContainer(around, name, id),
      giveBack: (id) => containers.unlock(name, id),
    });
  }

  async function restore(request: RestoreContainerRequest): Promise<Operation> {
    const node = checkNodeName(request.node);
    const checkpointId = checkId(request.checkpointId, 'Checkpoint id');
    await nodes.getUp(node);
    const name = checkContainerName(request.name || (await uploadedName(checkpointId)));
    return await startOperation(around, {
      ...{ kind: 'restore', container: name, node, requestId: checkRequestId(request.requestId) },
      params: { checkpointId },
      take: async (id) => {
        if (!(await containers.reserve(name, id, undefined))) throw nameTaken(name);
      },
      giveBack: async (id) => void (await containers.remove(name, id)),
    });
  }

  async function uploadedName(checkpointId: string): Promise<string> {
    const { redis, key } = around.stores.db;
    const name = await redis.get(key('upload', checkpointId));
    if (name !== null) return name;
    throw new FerryError(
      'checkpoint.unknown',
      `There is no uploaded checkpoint "${checkpointId}"`,
      {
        remedy: 'upload it again',
      },
    );
  }

  async function migrate(request: MigrateContainerRequest): Promise<Operation> {
    const name = checkContainerName(request.name);
    const to = optionalNode(request.to);
    if (to !== '') await nodes.getUp(to);
    const mode = checkMode(request.mode);
    const requestId = checkRequestId(request.requestId);
    const policy = checkPolicy(request.policy);
    const params = policy === undefined ? {} : { params: { policy: toJson(policy) } };
    return await startMigration(around, { name, to, mode, requestId, ...params });
  }

  return { run, list, stop, logs, checkpoint, restore, migrate };
}

function toJson(policy: MigrationPolicy): string {
  return JSON.stringify(MigrationPolicy.toJSON(policy));
}

function nameTaken(name: string): FerryError {
  return new FerryError('container.taken', `There is a container "${name}" already`, {
    remedy: `choose another name, or "ferry stop ${name}" first`,
  });
}
