import { Container, ContainerSpec } from '@ferry/api';
import type { ContainerRecord } from '../store/containers.js';
import type { NodeSnapshot } from '../store/nodes.js';

/** A container as users see it: the controller's record, and what the node that owns it last
 *  reported. */
export function containerView(record: ContainerRecord, node: NodeSnapshot | undefined): Container {
  const reported = node?.containers.find(({ name }) => name === record.name);
  const base = reported ?? Container.create();
  return {
    ...base,
    name: record.name,
    node: record.node,
    state: stateOf(record, { node, reported }),
    epoch: record.epoch,
    spec: reported?.spec ?? record.spec,
    address: withoutPrefix(base.address || (record.spec?.network?.address ?? '')),
    createdAtMs: base.createdAtMs > 0n ? base.createdAtMs : BigInt(record.createdAtMs),
    operation: record.operation,
  };
}

function stateOf(
  record: ContainerRecord,
  seen: { node: NodeSnapshot | undefined; reported: Container | undefined },
): string {
  if (record.epoch === 0n) return 'starting';
  if (seen.node === undefined || seen.node.node.state === 'down') return 'unknown';
  if (seen.reported !== undefined) return seen.reported.state;
  // Its node told of it by the end of an operation, and has sent no heartbeat since.
  const newer = record.updatedAtMs > Number(seen.node.node.lastHeartbeatAtMs);
  return newer ? 'running' : 'unknown';
}

/** `10.77.0.5/16` → `10.77.0.5`. */
export function withoutPrefix(address: string): string {
  return address.split('/')[0] ?? '';
}

/** What a new container is described as before it exists, for a destination's preflight. */
export function specOf(container: Container): ContainerSpec {
  return container.spec ?? ContainerSpec.fromPartial({ name: container.name });
}
