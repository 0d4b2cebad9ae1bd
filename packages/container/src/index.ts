/** OCI containers on one host: bundles, root file systems, network, cgroups, logs, and all of a
 *  migration that is not processes and memory. `ContainerHost` is the way in; the other exports are
 *  its parts. */
export { ByteReader } from './archive/byte-reader.js';
export { packTree } from './archive/pack.js';
export { SentBlocks } from './archive/sent-blocks.js';
export { leavingOut, type TreeState, treeChanges, treeState } from './archive/tree-state.js';
export { type Unpacked, type UnpackOptions, unpackTree } from './archive/unpack.js';
export { CAPABILITIES, hostCapabilities } from './capabilities.js';
export { type CgroupMode, Cgroups } from './cgroups.js';
export {
  buildConfig,
  givenMounts,
  givenSettings,
  hostPaths,
  placeConfig,
  restoreConfig,
  tmpfsMounts,
} from './config.js';
export { CpuQuota, type FileText } from './cpu-quota.js';
export type { FirstPacketWatch } from './first-packet.js';
export { ContainerHost, type ContainerStatus } from './host.js';
export type { HostConfig } from './host-context.js';
export { type LayerInfo, LayerStore } from './layer-store.js';
export { type CreateOptions, checkSpec } from './lifecycle.js';
export type { LogLine, LogStream, ReadLogOptions } from './log.js';
export { bothMapped, type Mapped } from './mapped-files.js';
export type { MountRounds } from './mount-rounds.js';
export type { Neighbour } from './neighbour-table.js';
export { inNetns } from './netns.js';
export {
  type Addresses,
  ContainerNetwork,
  ensureBridge,
  givenNetwork,
  type NetworkConfig,
} from './network.js';
export type { OciConfig } from './oci-config.js';
export { type ContainerRecord, type Phase, parseTransfer, type Transfer } from './record.js';
export { type CommandResult, mustRun, runCommand } from './run-command.js';
export { type ExecOptions, Runc, type RuntimeStatus } from './runc.js';
export { type ExitRecord, isAlive, processRef } from './shim.js';
export { type CheckedSpec, containerNameSchema, type RunSpec, runSpecSchema } from './spec.js';
export { hasUserNamespace } from './user-namespace.js';
