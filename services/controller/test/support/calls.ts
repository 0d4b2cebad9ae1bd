import { strict as assert } from 'node:assert';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type ClusterClient,
  type Container,
  ContainerSpec,
  DrainNodeRequest,
  type DrainResult,
  type Operation,
  type OperationEvent,
  RunContainerRequest,
} from '@ferry/api';

/** Everything that WatchOperation says, and the last record. */
export async function watch(client: ClusterClient, id: string) {
  const events: OperationEvent[] = [];
  let operation: Operation | undefined;
  for await (const event of client.watchOperation({ id }, { deadlineMs: 15_000 })) {
    events.push(event);
    operation = event.operation ?? operation;
  }
  assert.ok(operation !== undefined);
  return { events, operation };
}

/** Waits for the end of an operation, which must be a success. */
export async function succeeded(client: ClusterClient, begun: Operation): Promise<Operation> {
  const { operation } = await watch(client, begun.id);
  assert.equal(operation.state, 'succeeded', JSON.stringify(operation.error));
  return operation;
}

/** Waits for the end of an operation, which must not be a success. */
export async function unsuccessful(client: ClusterClient, begun: Operation) {
  const { operation } = await watch(client, begun.id);
  assert.ok(operation.error !== undefined, `it ${operation.state}`);
  return { ...operation, error: operation.error };
}

export function runRequest(name: string, node: string, fields: Partial<ContainerSpec> = {}) {
  const spec = ContainerSpec.fromPartial({ name, rootfs: '/srv/x', args: ['/bin/x'], ...fields });
  return RunContainerRequest.fromPartial({ spec, node });
}

/** What a drain has come to. */
export function drainResult({ result }: Operation): DrainResult {
  assert.ok(result?.$case === 'drain');
  return result.value;
}

export function drainRequest(node: string, fields: Partial<DrainNodeRequest> = {}) {
  return DrainNodeRequest.fromPartial({ node, ...fields });
}

export function migrateRequest(name: string, to: string) {
  return { name, to, mode: '', requestId: '', policy: undefined };
}

export async function containerNamed(client: ClusterClient, name: string): Promise<Container> {
  const { containers } = await client.listContainers({ node: '' });
  const found = containers.find((container) => container.name === name);
  assert.ok(found !== undefined, `no container ${name}`);
  return found;
}

/** Waits until `look` gives something. */
export async function until<T>(
  what: string,
  look: () => Promise<T | undefined> | T | undefined,
  timeoutMs = 8000,
): Promise<T> {
  for (let end = Date.now() + timeoutMs; Date.now() < end; ) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    await sleep(25);
  }
  throw new Error(`Waited in vain for ${what}`);
}
