export * from './channel.js';
export * from './client.js';
export * from './clients.js';
export * from './error-detail.js';
export * from './generated/ferry/cluster/v1/agent.js';
export * from './generated/ferry/cluster/v1/cluster.js';
export * from './generated/ferry/cluster/v1/common.js';
// Named first, so that the same helper names in the other generated files do not clash.
export {
  type DeepPartial,
  type MessageFns,
  protobufFileName,
  protobufPackage,
} from './generated/ferry/cluster/v1/common.js';
export * from './generated/ferry/cluster/v1/migration_source.js';
export * from './generated/ferry/cluster/v1/node.js';
export * from './json.js';
export * from './limits.js';
export * from './security/index.js';
export * from './server.js';
