import { setTimeout as sleep } from 'node:timers/promises';
import {
  type Container,
  connectNodeService,
  type HostFacts,
  type NodeClient,
  type Security,
} from '@ferry/api';
import { errorText } from '@ferry/core';
import { type Logger, readResources } from '@ferry/migration';
import type { Migrations } from './migrations.js';

export interface RegistrationOptions {
  readonly controller: string;
  readonly name: string;
  /** Where this agent is reached. */
  readonly address: string;
  readonly facts: HostFacts;
  readonly stateDir: string;
  readonly containers: () => Promise<Container[]>;
  readonly security: Security;
  readonly migrations: Pick<Migrations, 'handOvers' | 'heard' | 'changed' | 'isCuttingOver'>;
  readonly logger: Logger;
}

const RETRY_MS = 1000;
const ASKING_PAUSE_MS = 500;
/** A heartbeat waits for a cutover to be over, up to half a second. */
const CUTOVER_PAUSE_MS = 50;
const CUTOVER_LOOKS = 10;

/** Tells the controller that this node is there and what it holds, until `signal` fires. Goes on through any failure:
 *  containers do not need the controller. */
export async function keepRegistered(
  options: RegistrationOptions,
  signal: AbortSignal,
): Promise<void> {
  const client = connectNodeService(options.controller, { security: options.security });
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
    // Looking at all containers takes a good deal of CPU time.
    for (let i = 0; i < CUTOVER_LOOKS && options.migrations.isCuttingOver(); i++) {
      await sleep(CUTOVER_PAUSE_MS, undefined, { signal });
    }
    const containers = await options.containers();
    const resources = readResources(options.stateDir);
    const changed = options.migrations.changed();
    const handOvers = options.migrations.handOvers();
    const beat = { name, address, resources, containers, handOvers };
    const answer = await client.heartbeat(beat, { signal });
    options.migrations.heard(answer.handOvers);
    // While something is asked for, more often: the answer may be what a frozen container waits for.
    const open = handOvers.some(({ state }) => state !== 'returned');
    const asking = open ? Math.min(pauseMs, ASKING_PAUSE_MS) : pauseMs;
    await Promise.race([sleep(asking, undefined, { signal }), changed]);
  }
}
