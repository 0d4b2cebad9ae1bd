import { randomBytes } from 'node:crypto';
import { mkdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { FerryError } from '@ferry/core';
import { z } from 'zod';
import { buildConfig, placeConfig } from './config.js';
import { ADDRESSES, type HostContext } from './host-context.js';
import { type ResolvedImage, resolveImage } from './image-source.js';
import type { Addresses } from './network.js';
import type { OciConfig } from './oci-config.js';
import { mountOverlay, ownUpper, unmount } from './overlay.js';
import type { ContainerRecord, Phase } from './record.js';
import {
  createWithShim,
  type ExitRecord,
  exitSchema,
  giveOutput,
  isAlive,
  processRef,
} from './shim.js';
import { type CheckedSpec, type RunSpec, runSpecSchema } from './spec.js';
import { hostRoot, letRootReach } from './user-namespace.js';

/** Making, starting, ending and removing containers. */

const SHIM_END_MS = 2000;
const POLL_MS = 5;
/** After PID 1 has ended, its shim writes down how: within this. */
const EXIT_RECORD_MS = 1000;

export interface CreateOptions {
  readonly signal?: AbortSignal | undefined;
  /** Addresses that other hosts' containers have. */
  readonly avoidAddresses?: readonly string[] | undefined;
  /** Who owns it from the start. Default: 0. */
  readonly epoch?: number | undefined;
}

/** Fills in a spec's defaults.
 *  @throws FerryError container.spec naming each wrong field */
export function checkSpec(spec: RunSpec): CheckedSpec {
  const result = runSpecSchema.safeParse(spec);
  if (result.success) return result.data;
  throw new FerryError('container.spec', `The spec is not valid: ${z.prettifyError(result.error)}`);
}

/** Makes a container up to the runtime's `create`: its program does not run yet. On failure nothing
 *  is left. */
export async function createContainer(
  context: HostContext,
  spec: RunSpec,
  options: CreateOptions = {},
): Promise<ContainerRecord> {
  const { signal, avoidAddresses = [] } = options;
  const checked = checkSpec(spec);
  const { name } = checked;
  await context.claim(name);
  try {
    // At the same time: both take a tenth of a second, one reading files, one waiting for answers.
    const [image, network] = await bothOf(
      resolveImage(checked.image, context.layers, { signal }),
      reserveAddress(context, checked, { signal, avoidAddresses }),
    );
    const config = configFor(context, checked, image);
    const record: ContainerRecord = {
      ...{ version: 1, name, id: randomBytes(16).toString('hex'), phase: 'creating' },
      epoch: options.epoch ?? 0,
      ...{ createdAt: context.now().toISOString(), spec: checked, layers: image.layers },
      ...{ config, network },
    };
    await context.save(record);
    const made = await build(context, record, { config, fds: [], phase: 'created', signal });
    signal?.throwIfAborted();
    context.network.connect(context.port(name), network);
    return made;
  } catch (error) {
    await undo(context, name, error);
    throw error;
  } finally {
    context.pendingAddresses.delete(name);
  }
}

/** Chooses addresses and marks them as taken until the record is written. */
async function reserveAddress(
  context: HostContext,
  spec: CheckedSpec,
  options: { signal: AbortSignal | undefined; avoidAddresses: readonly string[] },
): Promise<Addresses> {
  return await context.exclusive(ADDRESSES, async () => {
    const taken = [...(await context.takenAddresses()), ...options.avoidAddresses];
    const network = await context.network.allocate(spec.network, taken, { signal: options.signal });
    context.pendingAddresses.set(spec.name, network.address);
    return network;
  });
}

/** Waits for both, also when one fails: what the other makes is then undone in one place. */
async function bothOf<A, B>(first: Promise<A>, second: Promise<B>): Promise<[A, B]> {
  const [a, b] = await Promise.allSettled([first, second]);
  if (a.status === 'rejected') throw a.reason;
  if (b.status === 'rejected') throw b.reason;
  return [a.value, b.value];
}

function configFor(context: HostContext, spec: CheckedSpec, image: ResolvedImage): OciConfig {
  const config = buildConfig(spec, image.base);
  const wanted = config.process.capabilities?.bounding ?? [];
  const lacking = wanted.filter((capability) => !context.capabilities.has(capability));
  if (lacking.length === 0) return config;
  throw new FerryError(
    'container.spec',
    `This host cannot give the capability ${lacking.join(', ')}`,
    {
      remedy: 'take it out of the spec, or run the agent with it',
    },
  );
}

/** Mounts the root file system, makes the network (not connected), runs the runtime's `create` with
 *  `config`; where there is a user namespace the network is made in the one that the runtime has made. What it made when it
 *  fails is the caller's to undo. */
export async function build(
  context: HostContext,
  record: ContainerRecord,
  options: {
    config: OciConfig;
    fds: readonly number[];
    phase: Phase;
    signal?: AbortSignal | undefined;
  },
): Promise<ContainerRecord> {
  const { config, fds, phase, signal } = options;
  const { name } = record;
  const places = context.places(name);
  const port = context.port(name);
  const lower = record.layers.map((digest) => context.layers.treePath(digest)).reverse();
  const overlay = { lower, upper: places.upper, work: places.work, merged: places.merged };
  const root = hostRoot(record.config);
  if (root !== undefined) {
    const { folder } = places;
    const above = [dirname(folder)];
    await letRootReach(root, { stateDir: context.stateDir, above, folder });
    await ownUpper(overlay);
  }
  await mountOverlay(overlay);
  if (root === undefined) await context.network.create(port, record.network, { signal });
  const here = { rootfs: places.merged, cgroupsPath: places.group, netns: port.netns };
  await mkdir(places.bundle, { recursive: true, mode: 0o700 });
  await mkdir(context.runtime.root, { recursive: true, mode: 0o700 });
  await writeFile(places.config, JSON.stringify(placeConfig(config, here)), { mode: 0o600 });
  const { bundle, pidFile, runtimeLog: logFile } = places;
  const command = context.runtime.createCommand({
    ...{ id: name, bundle, pidFile, logFile, preserveFds: fds.length },
  });
  const { shim, pid } = await createWithShim(places, command, { fds, signal });
  if (root !== undefined) {
    await context.network.create(port, record.network, { signal, pid });
    giveOutput(shim, root);
  }
  // What `exec` reads from here on is the container's own configuration, whatever it was created
  // with.
  await writeFile(places.config, JSON.stringify(placeConfig(record.config, here)), { mode: 0o600 });
  const init = processRef(pid);
  const givenSettings = context.network.givenSettings(port);
  if (record.fastOpenKey !== undefined) context.network.setFastOpenKey(port, record.fastOpenKey);
  const ref = init === undefined ? {} : { init };
  const made: ContainerRecord = { ...record, phase, shim, givenSettings, ...ref };
  await context.save(made);
  return made;
}

/** Runs the program of a created container. */
export async function startContainer(
  context: HostContext,
  name: string,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<void> {
  const record = await context.load(name);
  await context.runtime.start(name, options);
  if (record.phase === 'created') await context.save({ ...record, phase: 'running' });
}

/** Whether its first process is there. */
export function initIsAlive(record: ContainerRecord): boolean {
  return record.init !== undefined && isAlive(record.init);
}

/** How the first process ended, once it has. */
export async function readExit(
  context: HostContext,
  name: string,
): Promise<ExitRecord | undefined> {
  const text = await readFile(context.places(name).exit, 'utf8').catch(() => undefined);
  return text === undefined ? undefined : exitSchema.parse(JSON.parse(text));
}

/** Waits until the first process has ended.
 *  @returns how; undefined when its shim was killed and nobody saw it */
export async function waitExit(
  context: HostContext,
  name: string,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<ExitRecord | undefined> {
  const record = await context.load(name);
  while (initIsAlive(record)) await sleep(POLL_MS, undefined, { signal: options.signal });
  for (let waitedMs = 0; waitedMs < EXIT_RECORD_MS; waitedMs += POLL_MS) {
    const exit = await readExit(context, name);
    if (exit !== undefined) return exit;
    if (record.shim === undefined || !isAlive(record.shim.process)) break;
    await sleep(POLL_MS, undefined, { signal: options.signal });
  }
  return await readExit(context, name);
}

/** Asks the first process to end with the spec's signal, and kills all after `timeoutMs`. */
export async function stopContainer(
  context: HostContext,
  name: string,
  options: { timeoutMs: number; signal?: AbortSignal | undefined },
): Promise<ExitRecord | undefined> {
  const record = await context.load(name);
  const { signal } = options;
  await context.runtime.kill(name, record.spec.stopSignal, { signal });
  const deadline = AbortSignal.timeout(options.timeoutMs);
  const either = signal === undefined ? deadline : AbortSignal.any([deadline, signal]);
  try {
    return await waitExit(context, name, { signal: either });
  } catch (error) {
    signal?.throwIfAborted();
    if (!deadline.aborted) throw error;
  }
  await context.cgroups.killAll(context.places(name).group);
  return await waitExit(context, name, { signal });
}

/** Removes everything of a container, in whatever state it is; what is not there is no error. Each
 *  step is tried even when one before it failed.
 *  @throws FerryError container.remove with every failure; the record stays then, so that it can be
 *    repeated */
export async function removeContainer(context: HostContext, name: string): Promise<void> {
  const places = context.places(name);
  const record = await context.find(name).catch(() => undefined);
  const failures: unknown[] = [];
  const attempt = async (step: () => Promise<void>) => {
    try {
      await step();
    } catch (error) {
      failures.push(error);
    }
  };
  await attempt(() => context.cgroups.killAll(places.group));
  await attempt(() => context.runtime.delete(name));
  await attempt(() => context.cgroups.remove(places.group));
  await attempt(() => endShim(record));
  await attempt(() => context.network.release(context.port(name)));
  await attempt(async () => unmount(places.merged));
  if (failures.length === 0) await attempt(() => context.dropFolder(name));
  if (failures.length === 0) return;
  const texts = failures.map((failure) =>
    failure instanceof Error ? failure.message : String(failure),
  );
  throw new FerryError(
    'container.remove',
    `Container ${name} was not removed whole: ${texts.join('; ')}`,
    {
      cause: failures[0],
      remedy: 'remove it again; what has gone is left out',
    },
  );
}

/** The shim ends by itself once nothing holds the container's pipes. */
async function endShim(record: ContainerRecord | undefined): Promise<void> {
  if (record?.shim === undefined) return;
  const { process: shim } = record.shim;
  for (let waitedMs = 0; waitedMs < SHIM_END_MS; waitedMs += POLL_MS) {
    if (!isAlive(shim)) return;
    await sleep(POLL_MS);
  }
  if (isAlive(shim)) process.kill(shim.pid, 'SIGKILL');
}

/** Removes what a failed operation made; a failure of that is added to what is told about the
 *  first. */
export async function undo(context: HostContext, name: string, first: unknown): Promise<void> {
  try {
    await removeContainer(context, name);
  } catch (second) {
    if (first instanceof Error && second instanceof Error)
      first.message += ` (and then: ${second.message})`;
  }
}

/** Removes the cgroup that the containers' groups were in. */
export async function removeCgroupParent(context: HostContext): Promise<void> {
  await context.cgroups.remove(context.cgroupParent);
}

export async function removeEmptyFolder(path: string): Promise<void> {
  await rmdir(path).catch(() => undefined);
}
