import type { ContainerDescription, HostFacts, Problem } from '@ferry/api';
import type { ContainerHost, ContainerStatus, NetworkConfig } from '@ferry/container';
import type { Blocker } from '@ferry/core';
import { containerMessage } from './container-message.js';
import { folderBytes } from './folder-bytes.js';
import { instructionSets } from './host-facts.js';
import { describeMappedFile, hostPathOf } from './mapped-files.js';
import type { Tracer } from './tracer.js';
import type { TracerScan } from './tracer-protocol.js';
import { startTracer } from './tracer-start.js';
import type { Tracers } from './tracers.js';

/** What a container's source knows besides the container. */
export interface SourceHost {
  readonly host: ContainerHost;
  readonly facts: HostFacts;
  readonly tracers: Tracers;
  readonly network: NetworkConfig;
}

/** What a destination must offer to `status`'s container. The container runs on, and nothing of it changes. */
export async function describeRunning(
  source: SourceHost,
  status: ContainerStatus,
  tracer: Tracer,
): Promise<ContainerDescription> {
  const { host, facts } = source;
  const { record } = status;
  const { name } = record;
  const scan = await tracer.ask({ method: 'scan' });
  const { usageBytes } = await host.memory(name);
  const upperBytes = await folderBytes(host.upperPath(name));
  const layers = (await host.layers.list()).filter(({ digest }) => record.layers.includes(digest));
  const lower = layers.reduce((sum, layer) => sum + layer.sizeBytes, 0);
  return {
    container: containerMessage(status, { memoryBytes: usageBytes, outgoing: false }),
    host: facts,
    cpuFeaturesUsed: instructionSets(facts.cpuFeatures),
    memoryBytes: scan.residentBytes,
    upperLayerBytes: BigInt(upperBytes),
    layers: record.layers,
    mappedFiles: await mappedFiles(scan, status),
    blockers: scan.blockers.map(problemOf),
    processes: scan.processes,
    threads: 0,
    xsaveMask: scan.facts.xfeatures,
    lowerLayerBytes: BigInt(lower),
    apparmorProfiles: scan.labels.apparmor,
    selinuxContexts: scan.labels.selinux,
  };
}

/** The same, with a tracer of its own. */
export async function describe(source: SourceHost, name: string): Promise<ContainerDescription> {
  const status = await source.host.get(name);
  const tracer = await startTracer(source, name);
  try {
    return await describeRunning(source, status, tracer);
  } finally {
    await source.tracers.giveBack(tracer);
  }
}

async function mappedFiles(scan: TracerScan, { record }: ContainerStatus) {
  const mounts = record.config.mounts.flatMap((mount) =>
    mount.type === 'bind' || mount.options?.some((option) => /^r?bind$/.test(option))
      ? [{ source: mount.source ?? '', destination: mount.destination }]
      : [],
  );
  const paths = new Set<string>();
  for (const { path, deleted } of scan.mappedFiles) {
    const onHost = deleted ? undefined : hostPathOf(path, mounts);
    if (onHost !== undefined) paths.add(onHost);
  }
  return await Promise.all([...paths].sort().map(describeMappedFile));
}

/** A blocker as the API tells it. */
export function problemOf({ code, pid, command, object, reason, remedy }: Blocker): Problem {
  return { code, object: `process ${pid} (${command}), ${object}`, reason, remedy };
}
