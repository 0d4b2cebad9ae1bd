import { type AgentClient, connectAgent, type Security } from '@ferry/api';
import { FerryError } from '@ferry/core';

/** Control connections to agents, one per node and address, kept open. */
export class Agents {
  readonly security: Security;
  readonly #clients = new Map<string, AgentClient>();

  constructor(security: Security) {
    this.security = security;
  }

  at({ name: node, address }: { readonly name: string; readonly address: string }): AgentClient {
    const key = `${node} ${address}`;
    const known = this.#clients.get(key);
    if (known !== undefined) return known;
    const client = connectAgent(address, { kind: 'control', node, security: this.security });
    this.#clients.set(key, client);
    return client;
  }

  close(): void {
    for (const client of this.#clients.values()) client.close();
    this.#clients.clear();
  }
}

/** Failures of the transport. An agent that shuts down ends its calls with "cancelled"; whoever
 *  cancelled a call himself must look at that first. */
const transportCodes = new Set(['rpc.unavailable', 'rpc.deadline', 'rpc.failed', 'rpc.cancelled']);

/** True when the transport failed, so that nobody knows what the agent did. */
export function isTransportError(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' && transportCodes.has(code);
}

/** The error for users when an agent could not be reached. */
export function outOfReach(node: string, cause: unknown): FerryError {
  return new FerryError('node.unavailable', `The agent of node "${node}" does not answer`, {
    cause,
    remedy: `check that the agent runs on ${node} and that its port is reachable from the controller`,
  });
}
