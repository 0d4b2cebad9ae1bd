import type { ContainerDescription } from '@ferry/api';
import type { ContainerHost, ContainerStatus } from '@ferry/container';

/** What a host that was started anew still has of a container that has long moved on, and now comes (back) to it: the same
 *  container, an earlier epoch, and nothing that runs. */
export function isRemains(present: ContainerStatus, { container }: ContainerDescription): boolean {
  const { record, state, pid } = present;
  if (container === undefined || record.name !== container.name) return false;
  const isSame = BigInt(Date.parse(record.createdAt)) === container.createdAtMs;
  const isOver = record.phase === 'running' && pid === undefined && state !== 'running';
  return isSame && isOver && BigInt(record.epoch) < container.epoch;
}

/** Makes room for it. */
export async function removeRemains(
  host: ContainerHost,
  description: ContainerDescription,
): Promise<void> {
  for (const present of await host.list()) {
    if (isRemains(present, description)) await host.remove(present.record.name);
  }
}
