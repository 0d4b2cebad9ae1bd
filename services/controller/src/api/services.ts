import type { ClusterServiceServer, NodeServiceServer } from '@ferry/api';
import type { Surroundings } from '../operations/work.js';
import { checkpointCalls } from './checkpoints.js';
import { containerCalls } from './containers.js';
import { clientStream, serverStream, unary } from './handlers.js';
import { agentCalls, nodeCalls } from './nodes.js';
import { operationCalls } from './operations.js';

/** What users call. */
export function clusterService(around: Surroundings): ClusterServiceServer {
  const containers = containerCalls(around);
  const checkpoints = checkpointCalls(around);
  const nodes = nodeCalls(around);
  const operations = operationCalls(around);
  return {
    runContainer: unary(containers.run),
    listContainers: unary(containers.list),
    stopContainer: unary(containers.stop),
    containerLogs: serverStream(containers.logs),
    checkpointContainer: unary(containers.checkpoint),
    downloadCheckpoint: serverStream(checkpoints.download),
    deleteCheckpoint: unary(checkpoints.remove),
    uploadCheckpoint: clientStream(checkpoints.upload),
    restoreContainer: unary(containers.restore),
    migrateContainer: unary(containers.migrate),
    drainNode: unary(nodes.drain),
    cordonNode: unary(nodes.cordon),
    uncordonNode: unary(nodes.uncordon),
    listNodes: unary(nodes.list),
    getOperation: unary(operations.get),
    listOperations: unary(operations.list),
    watchOperation: serverStream(operations.watch),
    cancelOperation: unary(operations.cancel),
    resolveOperation: unary(operations.resolve),
  };
}

/** What agents call. */
export function nodeService(around: Surroundings): NodeServiceServer {
  const agents = agentCalls(around);
  return { registerNode: unary(agents.register), heartbeat: unary(agents.heartbeat) };
}
