import { statSync } from 'node:fs';
import { FerryError } from '@ferry/core';
import type { FileReference, HostFacts, TreeImage } from '@ferry/image';

const PROT_EXEC = 4;

/** What of this host a restored tree relies on. */
export interface ThisHost {
  readonly architecture: string;
  readonly vdsoHash: bigint;
  /** Of /proc/cpuinfo, those that programs use without asking (`instructionSets`). */
  readonly instructionSets: readonly string[];
  /** Size of a file; undefined when there is none. */
  readonly sizeOf: (path: string) => number | undefined;
}

/** Refuses a dump of another host that would not go on here as it was.
 *  @param instructionSetsOf  as in `ThisHost`, of all flags
 *  @throws FerryError restore.host */
export function checkSameHost(
  image: TreeImage,
  here: ThisHost,
  instructionSetsOf: (flags: readonly string[]) => string[],
): void {
  const there = image.host;
  if (there === undefined) return;
  const problem =
    hostProblem(there, here, instructionSetsOf(there.cpuFlags)) ?? fileProblem(image, here);
  if (problem === undefined) return;
  throw new FerryError('restore.host', problem.reason, { remedy: problem.remedy });
}

interface HostProblem {
  readonly reason: string;
  readonly remedy: string;
}

function hostProblem(
  there: HostFacts,
  here: ThisHost,
  usable: readonly string[],
): HostProblem | undefined {
  if (there.architecture !== here.architecture) {
    return {
      reason: `The dump was made on ${there.architecture}, this host is ${here.architecture}`,
      remedy: `restore it on a host with ${there.architecture}`,
    };
  }
  const lacking = usable.filter((flag) => !here.instructionSets.includes(flag));
  if (lacking.length > 0) {
    return {
      reason: `The processor here lacks ${lacking.join(', ')}, which programs of the dump may use`,
      remedy: 'restore it on a host with the same or a newer processor of the same maker',
    };
  }
  if (there.vdsoHash !== 0n && there.vdsoHash !== here.vdsoHash) {
    return {
      reason: `The dump was made on ${there.kernelRelease}, whose vDSO is not that of the kernel here`,
      remedy: 'restore it on a host with the same kernel build',
    };
  }
  return undefined;
}

/** Code that the processes have mapped must be the very same: its size tells most other versions. In a mount namespace of
 *  its own the tree brings its files, or finds them where we do not look. */
function fileProblem(image: TreeImage, { sizeOf }: ThisHost): HostProblem | undefined {
  if (image.namespaces.some(({ type }) => type === 'mnt')) return undefined;
  for (const { fs, mm } of image.processes) {
    if (fs?.root !== '/') continue;
    for (const { kind, prot, file } of mm?.vmas ?? []) {
      if (kind !== 'file' || !(prot & PROT_EXEC) || file === undefined || file.deleted) continue;
      const size = sizeOf(file.path);
      if (size !== undefined && BigInt(size) === file.size) continue;
      return otherFile(file, size);
    }
  }
  return undefined;
}

function otherFile({ path, size }: FileReference, here: number | undefined): HostProblem {
  const what = here === undefined ? 'is not here' : `has ${here} bytes here, not ${size}`;
  return {
    reason: `${path}, whose code the tree has mapped, ${what}`,
    remedy: 'put the very same file there',
  };
}

/** Size of a regular file. */
export function sizeOfFile(path: string): number | undefined {
  const status = statSync(path, { throwIfNoEntry: false });
  return status?.isFile() ? status.size : undefined;
}
