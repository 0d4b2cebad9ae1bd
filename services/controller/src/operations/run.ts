import { Container, ContainerDescription, type ContainerSpec } from '@ferry/api';
import { FerryError, InvariantError } from '@ferry/core';
import { freeAddresses, parsePool, parseSubnet } from '../plan/addresses.js';
import { withoutPrefix } from '../plan/view.js';
import { choose, preflight, refuse } from './place.js';
import { cancelled, perform, refresh, type Work, type WorkResult } from './work.js';

const runDeadlineMs = 300_000;

/** Places and starts a new container; its name is reserved. On failure the name is free again. */
export async function runContainer(work: Work): Promise<WorkResult> {
  const { containers, operations } = work.stores;
  const name = work.operation.container;
  try {
    const record = await containers.get(name);
    if (record.spec === undefined) throw new InvariantError(`No spec for ${name}`);
    const begun = work.memory.epoch !== undefined;
    const node = begun ? work.operation.node : await place(work, record.spec);
    const spec = await withAddress(work, node, record.spec);
    const epoch = begun ? BigInt(work.memory.epoch ?? 0) : await containers.nextEpoch(name);
    await operations.remember(work.operation.id, { epoch: epoch.toString() });
    if (work.cancel.aborted && !begun) throw cancelled(work);
    const started = await start(work, { node, spec, epoch });
    await containers.claim(name, { node, epoch, spec });
    await refresh(work, node);
    const address = withoutPrefix(started.address || (spec.network?.address ?? ''));
    return { $case: 'started', value: { ...started, address, node, epoch } };
  } catch (error) {
    if (!work.stop.aborted) await containers.remove(name, work.operation.id);
    throw error;
  }
}

async function start(
  work: Work,
  container: { node: string; spec: ContainerSpec; epoch: bigint },
): Promise<Container> {
  const { node, spec, epoch } = container;
  const operationId = work.operation.id;
  work.report(progressOf(work, 'start', `starting ${spec.name} on ${node}`, 0.3));
  return await perform(work, {
    node,
    call: (agent, settings) =>
      agent.runContainer({ operationId, spec, epoch }, { ...settings, deadlineMs: runDeadlineMs }),
    cancel: (agent) => agent.cancelWork({ operationId, reason: 'cancelled by a user' }),
  });
}

async function place(work: Work, spec: ContainerSpec): Promise<string> {
  const { operation } = work;
  work.report(progressOf(work, 'preflight', 'choosing a node', 0.1));
  const container = Container.fromPartial({ name: spec.name, spec });
  const description = ContainerDescription.fromPartial({ container });
  if (operation.node === '') {
    const memoryBytes = spec.memoryLimitBytes;
    const need = { description, memoryBytes, exclude: [], sourceAddress: '' };
    const node = await choose(work, { ...need, operation: operation.id });
    await work.stores.operations.update(operation.id, (present) => ({ ...present, node }));
    return node;
  }
  const { node } = await work.stores.nodes.getUp(operation.node);
  if (node.cordoned) throw cordoned(node.name);
  refuse(await preflight(work, node.name, { description, sourceAddress: '' }), {
    code: 'run.preflight',
    message: `Node "${node.name}" cannot run "${spec.name}"`,
  });
  return node.name;
}

export function cordoned(node: string): FerryError {
  return new FerryError('node.cordoned', `Node "${node}" takes no new containers: it is cordoned`, {
    remedy: `choose another node, or "ferry node uncordon ${node}"`,
  });
}

/** Gives the container an address of the node's pool that no other container of the cluster has. */
async function withAddress(work: Work, node: string, spec: ContainerSpec): Promise<ContainerSpec> {
  const { containers, nodes } = work.stores;
  const { facts } = (await nodes.get(node)).node;
  const given = spec.network?.address ?? '';
  if (given !== '') {
    const address = given.split('/')[0] ?? '';
    if (await containers.takeAddress(address, spec.name)) return spec;
    throw new FerryError('address.taken', `Address ${address} belongs to another container`, {
      remedy: 'choose another one, or leave the choice to Ferry',
    });
  }
  if (facts === undefined || facts.networkPool === '') return spec;
  const { prefixLength } = parseSubnet(facts.networkSubnet);
  const taken = await containers.takenAddresses();
  // A repeated run keeps the address it took before.
  const kept = [...taken].find(([, holder]) => holder === spec.name)?.[0];
  const free = freeAddresses(parsePool(facts.networkPool), new Set(taken.keys()));
  for (const address of kept === undefined ? free : [kept]) {
    if (!(await containers.takeAddress(address, spec.name))) continue;
    const gateway = spec.network?.gateway || facts.networkGateway;
    const mac = spec.network?.mac ?? '';
    return { ...spec, network: { address: `${address}/${prefixLength}`, gateway, mac } };
  }
  throw new FerryError('address.none', `No address is free in ${facts.networkPool} of ${node}`, {
    remedy: 'stop a container, or give the agents a larger range',
  });
}

export function progressOf(work: Work, phase: string, message: string, fraction: number) {
  return {
    ...emptyProgress,
    phase,
    message,
    fraction,
    container: work.operation.container,
    elapsedMs: work.stores.db.now() - Number(work.operation.startedAtMs),
  };
}

const emptyProgress = {
  bytesRawDone: 0n,
  bytesRawTotal: 0n,
  bytesWireDone: 0n,
  bytesWireTotal: 0n,
  bytesRawPerSecond: 0,
  round: 0,
  dirtyBytesPerSecond: 0,
  predictedDowntimeMs: 0,
};
