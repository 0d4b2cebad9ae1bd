import type { ChannelKind } from './channel.js';
import { connect, type ServiceClient } from './client.js';
import { AgentServiceService } from './generated/ferry/cluster/v1/agent.js';
import { ClusterServiceService } from './generated/ferry/cluster/v1/cluster.js';
import { MigrationSourceService } from './generated/ferry/cluster/v1/migration_source.js';
import { NodeServiceService } from './generated/ferry/cluster/v1/node.js';

export type AgentClient = ServiceClient<typeof AgentServiceService>;
export type ClusterClient = ServiceClient<typeof ClusterServiceService>;
export type NodeClient = ServiceClient<typeof NodeServiceService>;
export type SourceClient = ServiceClient<typeof MigrationSourceService>;

interface ConnectOptions {
  readonly kind?: ChannelKind;
}

/** What the controller calls on an agent. */
export function connectAgent(address: string, options: ConnectOptions = {}): AgentClient {
  return connect(AgentServiceService, address, options);
}

/** What users call. */
export function connectCluster(address: string, options: ConnectOptions = {}): ClusterClient {
  return connect(ClusterServiceService, address, options);
}

/** What agents call on the controller. */
export function connectNodeService(address: string): NodeClient {
  return connect(NodeServiceService, address);
}

/** What a destination's agent calls on the source's. */
export function connectMigrationSource(
  address: string,
  options: ConnectOptions = {},
): SourceClient {
  return connect(MigrationSourceService, address, options);
}
