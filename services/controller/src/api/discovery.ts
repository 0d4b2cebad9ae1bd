import { join } from 'node:path';
import { ClusterServiceService, NodeServiceService } from '@ferry/api';
import { ferryRoot } from '@ferry/core';
import type { Server } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { ReflectionService } from '@grpc/reflection';
import { HealthImplementation } from 'grpc-health-check';

const serviceNames = [ClusterServiceService.listNodes, NodeServiceService.registerNode].map(
  ({ path }) => path.split('/')[1] ?? '',
);

/** gRPC health checking and reflection, so that any gRPC client can find its way.
 *  @returns a function that sets what health says */
export function addDiscovery(server: Server): (serving: boolean) => void {
  const all = ['', ...serviceNames];
  const health = new HealthImplementation(
    Object.fromEntries(all.map((name) => [name, 'NOT_SERVING' as const])),
  );
  health.addToServer(server);
  const folder = join(ferryRoot(), 'proto');
  const files = ['cluster', 'node'].map((name) => `ferry/cluster/v1/${name}.proto`);
  const definition = loadSync(files, { includeDirs: [folder] });
  new ReflectionService(definition, { services: serviceNames }).addToServer(server);
  return (serving) => {
    for (const name of all) health.setStatus(name, serving ? 'SERVING' : 'NOT_SERVING');
  };
}
