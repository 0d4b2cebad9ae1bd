import { setTimeout as sleep } from 'node:timers/promises';
import { type Container, connectNodeService, type HostFacts, type NodeClient } from '@ferry/api';
import { errorText } from '@ferry/core';
import { type Logger, readResources } from '@ferry/migration';

export interface RegistrationOptions {
  readonly controller: string;
  readonly name: string;
  /** Where this agent is reached. */
  readonly address: string;
  readonly facts: HostFacts;
  readonly stateDir: string;
  readonly containers: () => Promise<Container[]>;
  readonly logger: Logger;
}

const RETRY_MS = 1000;

/** Tells the controller that this node is there and what it holds, until `signal` fires. Goes on through any failure:
 *  containers do not need the controller. */
export async function keepRegistered(
  options: RegistrationOptions,
  signal: AbortSignal,
): Promise<void> {
  const client = connectNodeService(options.controller);
  let told = '';
  try {
    while (!signal.aborted) {
      try {
        await register(client, options, signal);
        told = '';
      } catch (error) {
        if (signal.aborted) return;
        const text = errorText(error);
        if (text !== told) options.logger.warn('the controller is not reached', { error: text });
        told = text;
      }
      await sleep(RETRY_MS, undefined, { signal }).catch(() => {});
    }
  } finally {
    client.close();
  }
}

/** Registers, then sends heartbeats until one fails. */
async function register(
  client: NodeClient,
  options: RegistrationOptions,
  signal: AbortSignal,
): Promise<void> {
  const { name, address, facts, logger, controller } = options;
  const { heartbeatIntervalMs } = await client.registerNode({ name, address, facts }, { signal });
  logger.info('registered', { controller });
  const pauseMs = Math.max(heartbeatIntervalMs, 100);
  while (!signal.aborted) {
    const containers = await options.containers();
    const resources = readResources(options.stateDir);
    await client.heartbeat({ name, address, resources, containers }, { signal });
    await sleep(pauseMs, undefined, { signal });
  }
}
