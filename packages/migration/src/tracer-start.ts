import type { SourceHost } from './describe.js';
import { Tracer } from './tracer.js';

/** A tracer for all processes of a container that runs.
 *  @throws FerryError container.state when it does not */
export async function startTracer(
  source: Pick<SourceHost, 'host' | 'tracer' | 'network'>,
  name: string,
): Promise<Tracer> {
  const { host, network: config } = source;
  const hostPid = await host.initPid(name);
  const { stdoutInode, stderrInode } = await host.stdio(name);
  const { record } = await host.get(name);
  const port = { netns: host.netnsPath(name), veth: host.network.vethName(name) };
  return await Tracer.start(source.tracer, {
    hostPid,
    externalInodes: [stdoutInode, stderrInode],
    reconnection: { config, nodeId: host.nodeId, port, addresses: record.network },
  });
}
