import { type ConnectOptions, connect, type ServiceClient } from './client.js';
import { AgentServiceService } from './generated/ferry/cluster/v1/agent.js';
import { ClusterServiceService } from './generated/ferry/cluster/v1/cluster.js';
import { MigrationSourceService } from './generated/ferry/cluster/v1/migration_source.js';
import { NodeServiceService } from './generated/ferry/cluster/v1/node.js';

export type AgentClient = ServiceClient<typeof AgentServiceService>;
export type ClusterClient = ServiceClient<typeof ClusterServiceService>;
export type NodeClient = ServiceClient<typeof NodeServiceService>;
export type SourceClient = ServiceClient<typeof MigrationSourceService>;

/** For a connection to an agent: its node, where that is known. */
export type AgentOptions = ConnectOptions & { readonly node?: string | undefined };

/** What the controller calls on an agent. */
export function connectAgent(address: string, options: AgentOptions = {}): AgentClient {
  const expected = { role: 'agent', name: options.node } as const;
  return connect(AgentServiceService, address, { ...options, expected });
}

/** What users call. */
export function connectCluster(address: string, options: ConnectOptions = {}): ClusterClient {
  return connect(ClusterServiceService, address, { ...options, expected: { role: 'controller' } });
}

/** What agents call on the controller. */
export function connectNodeService(address: string, options: ConnectOptions = {}): NodeClient {
  return connect(NodeServiceService, address, { ...options, expected: { role: 'controller' } });
}

/** What a destination's agent calls on the source's. */
export function connectMigrationSource(address: string, options: AgentOptions = {}): SourceClient {
  const expected = { role: 'agent', name: options.node } as const;
  return connect(MigrationSourceService, address, { ...options, expected });
}
