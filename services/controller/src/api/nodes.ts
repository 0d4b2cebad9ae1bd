import {
  type Container,
  type CordonNodeRequest,
  checkAddress,
  checkNodeName,
  type DrainNodeRequest,
  type DrainNodeResponse,
  type HeartbeatRequest,
  HostFacts,
  limits,
  type Operation,
  Operation as OperationMessage,
  type RegisterNodeRequest,
  type UncordonNodeRequest,
} from '@ferry/api';
import { FerryError } from '@ferry/core';
import { planDrainOf } from '../operations/drain.js';
import { startOperation } from '../operations/start.js';
import type { Surroundings } from '../operations/work.js';
import { parsePool, parseSubnet } from '../plan/addresses.js';
import { withoutPrefix } from '../plan/view.js';
import { isInDoubt } from '../store/operations.js';
import { checkMode, checkRequestId, checkWithin, refused } from './validate.js';

const drainConcurrencyDefault = 2;
/** A schedule further away than this is taken for a mistake in the unit. */
const atMsMax = 366 * 24 * 3600 * 1000;

/** ClusterService: what concerns nodes. */
export function nodeCalls(around: Surroundings) {
  const { nodes } = around.stores;

  async function list() {
    const doubted = (await around.stores.operations.active()).filter(isInDoubt);
    const idsOf = (name: string) =>
      doubted.filter(({ node, source }) => [node, source].includes(name)).map(({ id }) => id);
    const found = (await nodes.list()).map(({ node }) => node);
    return { nodes: found.map((node) => ({ ...node, inDoubt: idsOf(node.name) })) };
  }

  async function cordon(request: CordonNodeRequest) {
    return await nodes.cordon(checkNodeName(request.node), 'operator');
  }

  async function uncordon(request: UncordonNodeRequest) {
    return await nodes.cordon(checkNodeName(request.node), undefined);
  }

  async function drain(request: DrainNodeRequest): Promise<DrainNodeResponse> {
    const node = checkNodeName(request.node);
    const asked = request.concurrency || drainConcurrencyDefault;
    const max = limits.drainConcurrencyMax;
    const concurrency = checkWithin(asked, { what: 'Concurrency', max });
    const mode = checkMode(request.mode);
    const requestId = checkRequestId(request.requestId);
    const atMs = Number(request.atMs);
    await nodes.get(node);
    if (request.dryRun) return { operation: undefined, plan: await planDrainOf(around, node, '') };
    const timeoutMs = Number(request.timeoutMs);
    if (timeoutMs < 0 || timeoutMs > atMsMax) {
      throw refused('The time-out of the drain is more than a year', 'give milliseconds');
    }
    const params = { concurrency: String(concurrency), timeoutMs: String(timeoutMs) };
    if (request.cron !== '') {
      if (atMs > 0) throw refused('A drain has either a time or a cron expression', 'give one');
      const { cron, timeZone } = request;
      const operation = await schedule(around, { node, mode, params, cron, timeZone });
      return { operation, plan: [] };
    }
    if (atMs - around.stores.db.now() > atMsMax || atMs < 0) {
      throw refused('The time of the drain is more than a year away', 'give Unix milliseconds');
    }
    const at = atMs > 0 ? { atMs } : {};
    const drain = { kind: 'drain', node, mode, params, requestId };
    return { operation: await startOperation(around, { ...drain, ...at }), plan: [] };
  }

  return { list, cordon, uncordon, drain };
}

/** Records a schedule as an operation that stays "scheduled" until it is cancelled. */
async function schedule(
  around: Surroundings,
  drain: {
    readonly node: string;
    readonly mode: string;
    readonly params: Record<string, string>;
    readonly cron: string;
    readonly timeZone: string;
  },
): Promise<Operation> {
  const { operations, db } = around.stores;
  const { node, mode, cron, timeZone, params } = drain;
  if (cron.length > 200 || timeZone.length > 60)
    throw refused('The schedule is too long', 'see crontab(5)');
  const id = operations.newId();
  const operation = OperationMessage.fromPartial({
    ...{ id, kind: 'drain-schedule', state: 'scheduled', node, mode, cron },
    createdAtMs: BigInt(db.now()),
  });
  // The record first: a tick without one ends its schedule.
  await operations.create(operation, { ...params, timeZone });
  try {
    const next = await around.queue.schedule(id, cron, timeZone);
    return await operations.update(id, (present) => {
      return present.scheduledAtMs > 0n ? undefined : { ...present, scheduledAtMs: BigInt(next) };
    });
  } catch (error) {
    await operations.update(id, (present) => ({ ...present, state: 'failed' }));
    throw error;
  }
}

/** NodeService. */
export function agentCalls(around: Surroundings) {
  const { nodes, containers, handOvers, db } = around.stores;
  const { settings, logger } = around;

  async function register(request: RegisterNodeRequest) {
    const name = checkNodeName(request.name);
    const address = checkAddress(request.address);
    const facts = HostFacts.fromPartial(request.facts ?? {});
    if (facts.networkPool !== '') {
      parsePool(facts.networkPool);
      parseSubnet(facts.networkSubnet);
    }
    await tooMany(name);
    await nodes.register({ name, address, facts });
    logger.info('node registered', { node: name, address });
    const { heartbeatIntervalMs, downAfterMs } = settings;
    return { heartbeatIntervalMs, downAfterMs };
  }

  async function tooMany(name: string): Promise<void> {
    if ((await nodes.find(name)) !== undefined) return;
    if ((await db.redis.scard(db.key('nodes'))) < limits.nodes) return;
    throw new FerryError('node.limit', `There are ${limits.nodes} nodes already`);
  }

  async function heartbeat(request: HeartbeatRequest) {
    checkNodeName(request.name);
    if (request.containers.length > limits.containersPerNode) {
      throw refused(`More than ${limits.containersPerNode} containers`, 'run fewer on one node');
    }
    await nodes.heartbeat(request);
    await adopt(request.name, request.containers);
    return { handOvers: await handOvers.exchange(request.handOvers) };
  }

  /** Takes over what the node says of ownership: a later epoch wins, wherever it is reported
   *  from. */
  async function adopt(node: string, reported: readonly Container[]): Promise<void> {
    const records = await Promise.all(reported.map(({ name }) => containers.find(name)));
    const known = new Map(records.flatMap((found) => (found ? [[found.name, found]] : [])));
    for (const { name, epoch, state, spec, address } of reported) {
      const owns = state === 'running' || state === 'exited';
      const record = known.get(name);
      if (!owns || epoch === 0n || (record !== undefined && record.epoch >= epoch)) continue;
      // A run or restore under way records its end by itself, with its spec.
      if (record !== undefined && record.epoch === 0n) continue;
      if (!(await containers.claim(name, { node, epoch, spec }))) continue;
      const ip = withoutPrefix(spec?.network?.address || address);
      if (ip !== '') await containers.takeAddress(ip, name);
      if (record === undefined) logger.info('container was found', { container: name, node });
    }
  }

  return { register, heartbeat };
}
