import { mkdir, rm } from 'node:fs/promises';
import { FerryError } from '@ferry/core';
import { ByteReader } from './archive/byte-reader.js';
import { packChanges, unpackChanges } from './archive/changes.js';
import { type PackOptions, packTree } from './archive/pack.js';
import type { TreeChanges } from './archive/tree-state.js';
import { unpackTree } from './archive/unpack.js';
import { restoreConfig, tmpfsMounts } from './config.js';
import { ADDRESSES, type HostContext } from './host-context.js';
import { build, undo } from './lifecycle.js';
import { exportMountContent, importMountChanges, importMountContent } from './mount-content.js';
import { MountRounds } from './mount-rounds.js';
import { unmount } from './overlay.js';
import { type ContainerRecord, type Phase, parseTransfer, type Transfer } from './record.js';
import { containerNameSchema } from './spec.js';
import { hostRoot } from './user-namespace.js';

/** Moving a container between hosts: everything but its processes and memory. */

interface Options {
  readonly signal?: AbortSignal | undefined;
}

/** Of a copy whose changes are to be followed: see PackOptions. */
export type Followed = Pick<PackOptions, 'leftOut' | 'looked' | 'sent'>;

/** What another host must know to take the container in. */
export async function describeContainer(context: HostContext, name: string): Promise<Transfer> {
  const {
    phase: _phase,
    shim: _shim,
    init: _init,
    givenSettings: _givenSettings,
    fastOpenKey: _fastOpenKey,
    ownState,
    ...portable
  } = await context.load(name);
  const fastOpenKey = context.network.fastOpenKey(context.port(name));
  return {
    ...portable,
    ...(fastOpenKey === undefined ? {} : { fastOpenKey }),
    ownState: ownState ?? { ...(await context.runtime.ownState(name)) },
  };
}

export async function* exportUpper(
  context: HostContext,
  name: string,
  options: Options & Followed = {},
): AsyncGenerator<Buffer, void, undefined> {
  await context.load(name);
  yield* packTree(context.places(name).upper, options);
}

/** What `importUpperChanges` needs to follow this host's writable layer from one state to another. */
export async function* exportUpperChanges(
  context: HostContext,
  name: string,
  changes: TreeChanges,
  options: Options & Followed = {},
): AsyncGenerator<Buffer, void, undefined> {
  await context.load(name);
  yield* packChanges(context.places(name).upper, changes, options);
}

/** Brings changes into the root file system of a container whose restorer runs and whose own programs do not. By way of
 *  the mount: an overlay's layers must not be changed below it (Documentation/filesystems/overlayfs.rst). */
export async function importUpperChanges(
  context: HostContext,
  name: string,
  chunks: AsyncIterable<Buffer>,
  options: Options = {},
): Promise<void> {
  await loadInPhase(context, name, 'restoring');
  await unpackChanges(context.places(name).merged, chunks, options);
}

export async function* exportMounts(
  context: HostContext,
  name: string,
  options: Options = {},
): AsyncGenerator<Buffer, void, undefined> {
  const record = await context.load(name);
  yield* exportMountContent(rootOf(record), tmpfsMounts(record.config), options);
}

/** Follows the content of its tmpfs mounts while it runs. To be disposed of. */
export async function mountRounds(context: HostContext, name: string): Promise<MountRounds> {
  const record = await context.load(name);
  const destinations = tmpfsMounts(record.config);
  const hostPids = () => context.cgroups.pids(context.places(name).group);
  return new MountRounds({ root: rootOf(record), destinations, hostPids });
}

/** Keeps a place for a container: its name, its address, a record. Its layers must be here.
 *  @throws FerryError container.transfer, container.exists, container.address, container.layer */
export async function reserveContainer(
  context: HostContext,
  value: unknown,
  options: { name?: string | undefined } = {},
): Promise<ContainerRecord> {
  const transfer = parseTransfer(value);
  const name = containerNameSchema.parse(options.name ?? transfer.name);
  for (const digest of transfer.layers) context.layers.treePath(digest);
  await context.claim(name);
  try {
    return await context.exclusive(ADDRESSES, async () => {
      context.network.checkFree(transfer.network.address, await context.takenAddresses());
      const record: ContainerRecord = { ...transfer, name, phase: 'incoming' };
      await context.save(record);
      return record;
    });
  } catch (error) {
    await undo(context, name, error);
    throw error;
  }
}

/** Fills the writable layer. When it fails the layer is empty again. */
export async function importUpper(
  context: HostContext,
  name: string,
  chunks: AsyncIterable<Buffer>,
  options: Options = {},
): Promise<void> {
  await loadInPhase(context, name, 'incoming');
  const { upper } = context.places(name);
  await rm(upper, { recursive: true, force: true });
  await mkdir(upper, { mode: 0o755 });
  const reader = new ByteReader(chunks);
  try {
    await unpackTree(upper, reader, options);
    if (!(await reader.atEnd())) {
      throw new FerryError('container.archive', 'The writable layer is followed by something else');
    }
  } catch (error) {
    await rm(upper, { recursive: true, force: true });
    throw error;
  } finally {
    await reader.close();
  }
}

/** Creates the container with the restorer for its first program; `start` runs it. The network is
 *  made and not connected. When it fails the place is still kept, with its writable layer.
 *  @param options.fds  descriptors of this process; they become 3, 4, … */
export async function createForRestore(
  context: HostContext,
  name: string,
  options: {
    entry: string;
    args?: readonly string[] | undefined;
    fds: readonly number[];
    signal?: AbortSignal | undefined;
  },
): Promise<{ pid: number }> {
  const { entry, args = [], fds, signal } = options;
  const record = await loadInPhase(context, name, 'incoming');
  const config = restoreConfig(record.config, [entry, ...args], context.capabilities);
  try {
    const made = await build(context, record, { config, fds, phase: 'restoring', signal });
    return { pid: initPid(made) };
  } catch (error) {
    await backToIncoming(context, name, error);
    throw error;
  }
}

async function backToIncoming(context: HostContext, name: string, first: unknown): Promise<void> {
  const { group, merged } = context.places(name);
  try {
    await context.cgroups.killAll(group);
    await context.runtime.delete(name);
    await context.cgroups.remove(group);
    await context.network.release(context.port(name));
    unmount(merged);
  } catch (second) {
    if (first instanceof Error && second instanceof Error)
      first.message += ` (and then: ${second.message})`;
  }
}

/** Fills the container's tmpfs mounts, once the restorer runs and before the container's programs
 *  do. */
export async function importMounts(
  context: HostContext,
  name: string,
  chunks: AsyncIterable<Buffer>,
  options: Options = {},
): Promise<void> {
  const record = await loadInPhase(context, name, 'restoring');
  const { config } = record;
  const maker = hostRoot(config);
  await importMountContent(rootOf(record), tmpfsMounts(config), chunks, { ...options, maker });
}

/** Brings changes into mounts that `importMounts` has filled. */
export async function importMountRound(
  context: HostContext,
  name: string,
  chunks: AsyncIterable<Buffer>,
  options: Options = {},
): Promise<void> {
  const record = await loadInPhase(context, name, 'restoring');
  const { config } = record;
  const maker = hostRoot(config);
  await importMountChanges(rootOf(record), tmpfsMounts(config), chunks, { ...options, maker });
}

function rootOf(record: ContainerRecord): string {
  return `/proc/${initPid(record)}/root`;
}

/** The container is what it was: the runtime's record gets its own configuration back, and it has a
 *  new owner. Does not touch its processes or network. Repeating it is harmless. */
export async function completeRestore(
  context: HostContext,
  name: string,
  options: { epoch: number },
): Promise<ContainerRecord> {
  const record = await context.load(name);
  if (record.phase !== 'running') await loadInPhase(context, name, 'restoring');
  if (record.ownState !== undefined) await context.runtime.setOwnState(name, record.ownState);
  const { ownState: _ownState, ...rest } = record;
  const done: ContainerRecord = { ...rest, phase: 'running', epoch: options.epoch };
  await context.save(done);
  return done;
}

/** @throws FerryError container.state when it has no running first process */
export function initPid(record: ContainerRecord): number {
  if (record.init !== undefined) return record.init.pid;
  throw new FerryError('container.state', `Container ${record.name} has no process`);
}

async function loadInPhase(
  context: HostContext,
  name: string,
  phase: Phase,
): Promise<ContainerRecord> {
  const record = await context.load(name);
  if (record.phase === phase) return record;
  throw new FerryError(
    'container.state',
    `Container ${name} is ${record.phase}, it must be ${phase} for this`,
  );
}
