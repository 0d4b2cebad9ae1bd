import type { ContainerDescription, HostFacts, Problem, Resources } from '@ferry/api';

/** What a host says of itself when it is asked to take a container. */
export interface HostOffer {
  readonly facts: HostFacts;
  readonly resources: Resources;
  /** A container of that name is here already. */
  readonly nameTaken: boolean;
  /** The container here that has the address, if any. */
  readonly addressHolder: string | undefined;
  /** Layers that must be fetched. */
  readonly missingLayers: boolean;
  readonly wrongFiles: readonly { readonly path: string; readonly reason: string }[];
  /** Of AppArmor, that are loaded; undefined: not known, or nothing to the container. */
  readonly profiles: ReadonlySet<string> | undefined;
}

export interface Verdict {
  readonly problems: Problem[];
  readonly warnings: string[];
}

/** Besides the container's own memory: restorer, buffers of the stream, page tables. */
const MEMORY_MARGIN_BYTES = 96n << 20n;
const DISK_MARGIN_BYTES = 32n << 20n;

/** Whether `offer` can take what is described. Pure; changes nothing. */
export function judge(description: ContainerDescription, offer: HostOffer): Verdict {
  const problems: Problem[] = [...description.blockers];
  const warnings: string[] = [];
  judgeHost(description, offer, problems, warnings);
  judgeLabels(description, offer, problems);
  judgeRoom(description, offer, problems);
  judgePlace(description, offer, problems);
  return { problems, warnings };
}

function judgeHost(
  description: ContainerDescription,
  { facts }: HostOffer,
  problems: Problem[],
  warnings: string[],
): void {
  const source = description.host;
  if (facts.runcVersion === '') {
    const remedy = 'install runc on this host';
    problems.push({ code: 'host.runc', object: 'runc', reason: 'runc does not run here', remedy });
  }
  const lacking = description.cpuFeaturesUsed.filter((flag) => !facts.cpuFeatures.includes(flag));
  for (const flag of lacking) {
    problems.push({
      code: 'cpu.feature',
      object: flag,
      reason: `the processor here (${facts.cpuModel}) lacks it, and programs may use it`,
      remedy: 'choose a host with the same or a newer processor of the same maker',
    });
  }
  // A container that never ran has no source.
  if (source === undefined || source.architecture === '') return;
  if (source.architecture !== facts.architecture) {
    problems.push({
      code: 'host.architecture',
      object: facts.architecture,
      reason: `the container runs on ${source.architecture}`,
      remedy: `choose a host with ${source.architecture}`,
    });
  }
  if (kernelSeries(source.kernelRelease) > kernelSeries(facts.kernelRelease)) {
    problems.push({
      code: 'host.kernel',
      object: facts.kernelRelease,
      reason: `it is older than the source's ${source.kernelRelease}`,
      remedy: 'update this host, or choose another one',
    });
  } else if (source.kernelRelease !== facts.kernelRelease) {
    warnings.push(`kernel ${facts.kernelRelease} here, ${source.kernelRelease} at the source`);
  }
}

/** Whether processes could be bound here as they are there. */
function judgeLabels(
  { apparmorProfiles, selinuxContexts }: ContainerDescription,
  { facts, profiles }: HostOffer,
  problems: Problem[],
): void {
  const { securityModules } = facts;
  if (selinuxContexts.length > 0 && !securityModules.includes('selinux')) {
    problems.push({
      code: 'host.selinux',
      object: `SELinux context ${selinuxContexts.join(', ')}`,
      reason: 'SELinux is not on here, and processes of the container are bound by it',
      remedy: 'choose a host with SELinux, or run the container without (spc_t)',
    });
  }
  if (apparmorProfiles.length > 0 && !securityModules.includes('apparmor')) {
    problems.push({
      code: 'host.apparmor',
      object: `AppArmor profile ${apparmorProfiles.join(', ')}`,
      reason: 'AppArmor is not on here, and processes of the container are bound by it',
      remedy: 'choose a host with AppArmor, or run the container unconfined',
    });
    return;
  }
  for (const profile of apparmorProfiles) {
    if (profiles?.has(profile) ?? true) continue;
    problems.push({
      code: 'host.profile',
      object: `AppArmor profile ${profile}`,
      reason: 'it is not loaded here, and a process of the container is bound by it',
      remedy: 'load the same profile as on the source (apparmor_parser -r FILE)',
    });
  }
}

/** 6.18.3 → 6018 */
function kernelSeries(version: string): number {
  const match = /^(\d+)\.(\d+)/.exec(version);
  return match === null ? 0 : Number(match[1]) * 1000 + Number(match[2]);
}

function judgeRoom(
  description: ContainerDescription,
  { resources, missingLayers }: HostOffer,
  problems: Problem[],
): void {
  const memory = description.memoryBytes + MEMORY_MARGIN_BYTES;
  if (resources.memoryFreeBytes < memory) {
    problems.push({
      code: 'host.memory',
      object: 'memory',
      reason: `${mebi(memory)} MiB are needed, ${mebi(resources.memoryFreeBytes)} MiB are free`,
      remedy: 'free memory on this host, or choose another one',
    });
  }
  const layers = missingLayers ? description.lowerLayerBytes : 0n;
  const disk = description.upperLayerBytes + layers + DISK_MARGIN_BYTES;
  if (resources.diskFreeBytes < disk) {
    problems.push({
      code: 'host.disk',
      object: 'the state folder',
      reason: `${mebi(disk)} MiB are needed, ${mebi(resources.diskFreeBytes)} MiB are free`,
      remedy: 'free disk space on this host, or choose another one',
    });
  }
}

function mebi(bytes: bigint): bigint {
  return (bytes + (1n << 20n) - 1n) >> 20n;
}

function judgePlace(
  description: ContainerDescription,
  offer: HostOffer,
  problems: Problem[],
): void {
  const name = description.container?.name ?? description.container?.spec?.name ?? '';
  if (offer.nameTaken) {
    problems.push({
      code: 'name.taken',
      object: name,
      reason: 'a container of that name is on this host already',
      remedy: 'remove that one, or choose another host',
    });
  }
  if (offer.addressHolder !== undefined) {
    problems.push({
      code: 'address.taken',
      object: description.container?.address ?? '',
      reason: `container ${offer.addressHolder} of this host has it`,
      remedy: 'remove that one, or choose another host',
    });
  }
  for (const { path, reason } of offer.wrongFiles) {
    problems.push({
      code: 'file.missing',
      object: path,
      reason,
      remedy: 'put the very same file there: the container has it mapped',
    });
  }
}
