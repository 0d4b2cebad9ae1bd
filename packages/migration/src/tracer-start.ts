import { givenMounts, givenNetwork, givenSettings } from '@ferry/container';
import type { SourceHost } from './describe.js';
import type { Tracer } from './tracer.js';

/** A tracer for all processes of a container that runs.
 *  @throws FerryError container.state when it does not */
export async function startTracer(
  source: Pick<SourceHost, 'host' | 'tracers' | 'network'>,
  name: string,
): Promise<Tracer> {
  const { host, network: config } = source;
  const hostPid = await host.initPid(name);
  const { stdoutInode, stderrInode } = await host.stdio(name);
  const { record } = await host.get(name);
  const port = { netns: host.netnsPath(name), veth: host.network.vethName(name) };
  const tracer = source.tracers.take();
  try {
    await tracer.ask({
      method: 'open',
      hostPid,
      externalInodes: [stdoutInode, stderrInode],
      givenMounts: givenMounts(record.config),
      givenSettings: { ...record.givenSettings, ...givenSettings(record.config) },
      givenNetwork: givenNetwork(record.network),
      reconnection: {
        ...{ config, nodeId: host.nodeId, port, addresses: record.network },
        cgroup: host.cgroupPath(name),
      },
    });
    return tracer;
  } catch (error) {
    await tracer.close();
    throw error;
  }
}
