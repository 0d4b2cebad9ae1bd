import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { FerryError } from '@ferry/core';
import type { TreeChanges } from './archive/tree-state.js';
import type { Cgroups } from './cgroups.js';
import { CpuQuota } from './cpu-quota.js';
import type { FirstPacketWatch } from './first-packet.js';
import type { FrameCapture } from './frames.js';
import { type HostConfig, HostContext } from './host-context.js';
import type { LayerStore } from './layer-store.js';
import {
  type CreateOptions,
  createContainer,
  initIsAlive,
  readExit,
  removeCgroupParent,
  removeContainer,
  removeEmptyFolder,
  startContainer,
  stopContainer,
  undo,
  waitExit,
} from './lifecycle.js';
import {
  exportLogFile,
  importLogFile,
  type LogLine,
  type ReadLogOptions,
  readLogFile,
} from './log.js';
import { type Mapped, mappedInUpper } from './mapped-files.js';
import type { MountRounds } from './mount-rounds.js';
import type { Neighbour } from './neighbour-table.js';
import type { ContainerNetwork } from './network.js';
import type { ContainerRecord, Transfer } from './record.js';
import type { CommandResult } from './run-command.js';
import type { ExecOptions, Runc, RuntimeStatus } from './runc.js';
import { type ExitRecord, flushShim, isAlive } from './shim.js';
import type { RunSpec } from './spec.js';
import * as transfer from './transfer.js';

/** A container as it is now. `absent`: there is a record and no container (a place kept for one, or
 *  a host that was restarted). */
export interface ContainerStatus {
  readonly record: ContainerRecord;
  readonly state: RuntimeStatus | 'absent';
  /** Host PID of its first process, while there is one. */
  readonly pid?: number;
  /** How its first process ended, once it has. */
  readonly exit?: ExitRecord;
}

interface Options {
  readonly signal?: AbortSignal | undefined;
}

const FREEZE_TIMEOUT_MS = 5000;
const STOP_TIMEOUT_MS = 10_000;
const KILLED_LOOK_MS = 5;

/** The containers of one host. Operations that change a container wait for each other; reading ones
 *  do not.
 *
 *  Where a container moves, the order is:
 *  source       describe, exportLayer, exportLog, keepFrames · lock, freeze, flushLog, exportUpper,
 *  mountRounds or exportMounts, exportLog(from)
 *               · then takeFrames and remove, or thaw and unlock
 *  destination  missingLayers, importLayer, reserve, importUpper, importLog, createForRestore,
 *  start, importMounts, importMountChanges
 *               · then completeRestore, unlock and deliverFrames, or remove */
export class ContainerHost {
  readonly #context: HostContext;
  readonly #frames = new Map<string, FrameCapture>();

  private constructor(context: HostContext) {
    this.#context = context;
  }

  /** Opens a host's state folder. What a crash left half made is removed; containers that run are
   *  taken over as they are, also those in the middle of a migration: their record's phase tells.
   *  @throws FerryError container.host, container.cgroup, container.record */
  static async open(config: HostConfig): Promise<ContainerHost> {
    const context = await HostContext.open(config);
    try {
      for (const name of await context.names()) await adopt(context, name);
      return new ContainerHost(context);
    } catch (error) {
      context.close();
      throw error;
    }
  }

  get layers(): LayerStore {
    return this.#context.layers;
  }

  get cgroups(): Cgroups {
    return this.#context.cgroups;
  }

  get network(): ContainerNetwork {
    return this.#context.network;
  }

  get runtime(): Runc {
    return this.#context.runtime;
  }

  /** On whose file system layers, writable layers and logs take room. */
  get stateDir(): string {
    return this.#context.stateDir;
  }

  get nodeId(): string {
    return this.#context.nodeId;
  }

  /** Lets go of the state folder. Containers run on. */
  async close(): Promise<void> {
    for (const name of [...this.#frames.keys()]) this.#dropFrames(name);
    this.#context.close();
  }

  /** Removes every container, every layer and the state folder.
   *  @throws FerryError container.remove; the rest is done all the same */
  async destroy(): Promise<void> {
    const context = this.#context;
    const failures: unknown[] = [];
    for (const name of await context.names()) {
      await this.remove(name).catch((error: unknown) => failures.push(error));
    }
    await removeCgroupParent(context).catch((error: unknown) => failures.push(error));
    context.close();
    if (failures.length > 0) throw failures[0];
    await rm(context.stateDir, { recursive: true, force: true });
    await rm(join(context.runDir, 'runc'), { recursive: true, force: true });
    await removeEmptyFolder(join(context.runDir, 'netns'));
    await removeEmptyFolder(context.runDir);
  }

  // ---- life
  // ------------------------------------------------------------

  /** Makes a container; its program does not run yet. On failure nothing is left.
   *  @throws FerryError container.spec, .exists, .image, .address, .network, .rootfs, .runtime */
  async create(spec: RunSpec, options: CreateOptions = {}): Promise<ContainerStatus> {
    await this.#exclusive(spec.name, () => createContainer(this.#context, spec, options));
    return await this.get(spec.name);
  }

  /** Runs the program of a container that `create` or `createForRestore` made. */
  async start(name: string, options: Options = {}): Promise<void> {
    await this.#exclusive(name, () => startContainer(this.#context, name, options));
  }

  /** create and start; on failure nothing is left. */
  async run(spec: RunSpec, options: CreateOptions = {}): Promise<ContainerStatus> {
    await this.create(spec, options);
    try {
      await this.start(spec.name, options);
      return await this.get(spec.name);
    } catch (error) {
      await undo(this.#context, spec.name, error);
      throw error;
    }
  }

  /** Sends the stop signal, after `timeoutMs` SIGKILL. The container stays, as `stopped`, until
   *  `remove`. */
  async stop(
    name: string,
    options: Options & { timeoutMs?: number } = {},
  ): Promise<ExitRecord | undefined> {
    const { timeoutMs = STOP_TIMEOUT_MS, signal } = options;
    return await stopContainer(this.#context, name, { timeoutMs, signal });
  }

  /** Sends a signal (`SIGUSR1`) to the first process. */
  async kill(name: string, signalName: string, options: Options = {}): Promise<void> {
    await this.#context.load(name);
    await this.#context.runtime.kill(name, signalName, options);
  }

  /** Kills all its processes; returns when none is left, however long one of them takes to end. */
  async killAll(name: string): Promise<void> {
    const { group } = this.#context.places(name);
    for (;;) {
      await this.#context.cgroups.killAll(group);
      if (this.#context.cgroups.pids(group).length === 0) return;
      await sleep(KILLED_LOOK_MS);
    }
  }

  /** Removes a container in whatever state, killing it if need be; none of that name is no error.
   *  Its connections are told (FIN, RST) unless it was locked before: after a migration, lock
   *  first. */
  async remove(name: string): Promise<void> {
    await this.#exclusive(name, () => removeContainer(this.#context, name));
    this.#dropFrames(name);
  }

  async exec(
    name: string,
    args: readonly string[],
    options: ExecOptions = {},
  ): Promise<CommandResult> {
    await this.#context.load(name);
    return await this.#context.runtime.exec(name, args, options);
  }

  async waitExit(name: string, options: Options = {}): Promise<ExitRecord | undefined> {
    return await waitExit(this.#context, name, options);
  }

  // ---- what is there
  // ------------------------------------------------------------

  async list(options: Options = {}): Promise<ContainerStatus[]> {
    const records = await this.#context.records();
    const states = new Map(
      (await this.#context.runtime.list(options)).map((state) => [state.id, state]),
    );
    return await Promise.all(
      records.map((record) => this.#status(record, states.get(record.name)?.status)),
    );
  }

  /** @throws FerryError container.notFound */
  async get(name: string, options: Options = {}): Promise<ContainerStatus> {
    const record = await this.#context.load(name);
    return await this.#status(record, (await this.#context.runtime.state(name, options))?.status);
  }

  /** Undefined when there is none of that name. */
  async find(name: string, options: Options = {}): Promise<ContainerStatus | undefined> {
    const record = await this.#context.find(name);
    return record === undefined ? undefined : await this.get(name, options);
  }

  /** Host PID of the first process.
   *  @throws FerryError container.state when there is none */
  async initPid(name: string): Promise<number> {
    const record = await this.#context.load(name);
    if (initIsAlive(record)) return transfer.initPid(record);
    throw new FerryError('container.state', `Container ${name} does not run`);
  }

  /** Host PIDs of all its processes. */
  pids(name: string): number[] {
    return this.#context.cgroups.pids(this.#context.places(name).group);
  }

  async memory(name: string): Promise<{ usageBytes: number; limitBytes?: number }> {
    return await this.#context.cgroups.memory(this.#context.places(name).group);
  }

  /** Its share of CPU time. */
  cpuQuota(name: string): CpuQuota {
    const { cgroups } = this.#context;
    return new CpuQuota(cgroups.mounts, this.#context.places(name).group);
  }

  /** The folder with its `cgroup.freeze`, `cgroup.events` and `cgroup.kill`. */
  cgroupPath(name: string): string {
    return this.#context.cgroups.path(this.#context.places(name).group);
  }

  /** Files of its writable layer that are mapped writable and shared by its processes. */
  mappedInUpper(name: string): Mapped {
    return mappedInUpper(this.pids(name), this.#context.places(name));
  }

  /** The folder of its writable layer, to be looked at. */
  upperPath(name: string): string {
    return this.#context.places(name).upper;
  }

  /** The file that keeps its network namespace (setns, /proc/net through it). */
  netnsPath(name: string): string {
    return this.#context.places(name).netns;
  }

  /** The pipes that are its log: descriptors on `pipe:[INODE]` go to the log of whatever host it is
   *  on. */
  async stdio(name: string): Promise<{ stdoutInode: bigint; stderrInode: bigint }> {
    const { shim } = await this.#context.load(name);
    if (shim === undefined)
      throw new FerryError('container.state', `Container ${name} was never created`);
    return { stdoutInode: BigInt(shim.stdoutInode), stderrInode: BigInt(shim.stderrInode) };
  }

  /** The lines that it has written, oldest first. `follow` ends when it has ended and all is
   *  read. */
  async *readLog(
    name: string,
    options: ReadLogOptions = {},
  ): AsyncGenerator<LogLine, void, undefined> {
    await this.#context.load(name);
    const isOver = async () => {
      const record = await this.#context.find(name);
      if (record === undefined) return true;
      return record.shim !== undefined && !isAlive(record.shim.process);
    };
    yield* readLogFile(this.#context.places(name).log, { ...options, isOver });
  }

  // ---- migration, source
  // ------------------------------------------------------------

  async describe(name: string): Promise<Transfer> {
    return await transfer.describeContainer(this.#context, name);
  }

  /** From its next `lock` on, frames for it are kept, until `unlock` gives them to it, or `remove`. */
  async keepFrames(name: string): Promise<void> {
    const { network } = await this.#context.load(name);
    this.#dropFrames(name);
    this.#frames.set(name, this.#context.network.captureFrames(network));
  }

  /** Lets no traffic through, neither way, at once. */
  async lock(name: string): Promise<void> {
    // Of what came before it has had the frames itself.
    this.#frames.get(name)?.take();
    this.#context.network.lock(this.#context.port(name));
  }

  /** The frames for it that came since it was locked, or since the last call: for its new host's `deliverFrames`. */
  takeFrames(name: string): Buffer[] {
    return this.#frames.get(name)?.take() ?? [];
  }

  /** Whom it has found in its network: for its new host's `addNeighbours`. */
  neighbours(name: string): Neighbour[] {
    return this.#context.network.neighbours(this.#context.port(name));
  }

  /** Before `unlock`: it need not look for them again. */
  addNeighbours(name: string, neighbours: readonly Neighbour[]): void {
    this.#context.network.addNeighbours(this.#context.port(name), neighbours);
  }

  /** Lets its traffic through (again), tells the neighbours where it is, and gives it what was kept for it. */
  async unlock(name: string): Promise<void> {
    const { network } = await this.#context.load(name);
    this.#context.network.connect(this.#context.port(name), network);
    this.deliverFrames(name, this.takeFrames(name));
    this.#dropFrames(name);
  }

  /** Gives it frames that were kept for it, in order, as if they came now. */
  deliverFrames(name: string, frames: readonly Buffer[]): void {
    this.#context.network.deliverFrames(this.#context.port(name), frames);
  }

  /** Before it runs: notes when the first packet of its own leaves it. */
  async watchFirstPacket(name: string): Promise<FirstPacketWatch> {
    const { network } = await this.#context.load(name);
    return this.#context.network.watchFirstPacket(this.#context.port(name), network);
  }

  #dropFrames(name: string): void {
    this.#frames.get(name)?.[Symbol.dispose]();
    this.#frames.delete(name);
  }

  /** Sends gratuitous ARP and an unsolicited neighbour advertisement once more. */
  async announce(name: string): Promise<void> {
    const { network } = await this.#context.load(name);
    this.#context.network.announce(this.#context.port(name), network);
  }

  /** Stops all its processes; returns when they are. On failure it is thawed. */
  async freeze(name: string, options: Options & { timeoutMs?: number } = {}): Promise<void> {
    const { timeoutMs = FREEZE_TIMEOUT_MS, signal } = options;
    await this.#context.cgroups.freeze(this.#context.places(name).group, { timeoutMs, signal });
  }

  async thaw(name: string): Promise<void> {
    await this.#context.cgroups.thaw(this.#context.places(name).group);
  }

  /** With the container frozen: returns when all that it ever wrote is in the log file. */
  async flushLog(name: string, options: Options = {}): Promise<void> {
    const { shim } = await this.#context.load(name);
    if (shim !== undefined) await flushShim(shim, options);
  }

  /** The writable layer, as an archive. */
  exportUpper(
    name: string,
    options: Options & transfer.Followed = {},
  ): AsyncGenerator<Buffer, void, undefined> {
    return transfer.exportUpper(this.#context, name, options);
  }

  /** What has changed of it, for `importUpperChanges`. */
  exportUpperChanges(
    name: string,
    changes: TreeChanges,
    options: Options & transfer.Followed = {},
  ): AsyncGenerator<Buffer, void, undefined> {
    return transfer.exportUpperChanges(this.#context, name, changes, options);
  }

  /** The content of its tmpfs mounts. */
  exportMounts(name: string, options: Options = {}): AsyncGenerator<Buffer, void, undefined> {
    return transfer.exportMounts(this.#context, name, options);
  }

  /** The same while it runs, in rounds; to be disposed of. */
  async mountRounds(name: string): Promise<MountRounds> {
    return await transfer.mountRounds(this.#context, name);
  }

  /** The log file from byte `from` to its present end. */
  exportLog(
    name: string,
    options: Options & { from?: number } = {},
  ): AsyncGenerator<Buffer, void, undefined> {
    const { from = 0, signal } = options;
    return exportLogFile(this.#context.places(name).log, { from, signal });
  }

  // ---- migration, destination
  // ------------------------------------------------------------

  /** Those of a container's layers that this host lacks. */
  missingLayers(description: { layers: readonly string[] }): string[] {
    return description.layers.filter((digest) => !this.layers.has(digest));
  }

  /** Keeps name, address and a record for a container on its way here. `remove` gives them up. */
  async reserve(
    description: Transfer,
    options: { name?: string | undefined } = {},
  ): Promise<ContainerStatus> {
    const name = options.name ?? description.name;
    const reserve = () => transfer.reserveContainer(this.#context, description, options);
    const record = await this.#exclusive(name, reserve);
    return { record, state: 'absent' };
  }

  /** Fills the writable layer of a reserved place; before `createForRestore`. */
  async importUpper(
    name: string,
    chunks: AsyncIterable<Buffer>,
    options: Options = {},
  ): Promise<void> {
    await this.#exclusive(name, () => transfer.importUpper(this.#context, name, chunks, options));
  }

  /** Once its restorer runs: follows the changes of a writable layer that was imported before. */
  async importUpperChanges(
    name: string,
    chunks: AsyncIterable<Buffer>,
    options: Options = {},
  ): Promise<void> {
    await transfer.importUpperChanges(this.#context, name, chunks, options);
  }

  /** Appends to the log what `exportLog` gave; before the container's programs run. */
  async importLog(name: string, chunks: AsyncIterable<Buffer>): Promise<void> {
    await this.#context.load(name);
    await this.#exclusive(name, () => importLogFile(this.#context.places(name).log, chunks));
  }

  /** Creates the container with `entry` (`/proc/self/fd/3`) as its first program, run as root, with
   *  what a restorer needs; `fds` of this process become 3, 4, …. Not connected to the network.
   *  `start` runs it. */
  async createForRestore(
    name: string,
    options: Options & { entry: string; args?: readonly string[]; fds: readonly number[] },
  ): Promise<{ pid: number }> {
    return await this.#exclusive(name, () =>
      transfer.createForRestore(this.#context, name, options),
    );
  }

  /** Fills the tmpfs mounts, while the restorer runs and the container's programs do not. */
  async importMounts(
    name: string,
    chunks: AsyncIterable<Buffer>,
    options: Options = {},
  ): Promise<void> {
    await this.#exclusive(name, () => transfer.importMounts(this.#context, name, chunks, options));
  }

  /** What has changed of mounts that were filled so, as `mountRounds` tells. */
  async importMountChanges(
    name: string,
    chunks: AsyncIterable<Buffer>,
    options: Options = {},
  ): Promise<void> {
    await transfer.importMountRound(this.#context, name, chunks, options);
  }

  /** From here on the container is this host's, as if it had been created here. */
  async completeRestore(name: string, options: { epoch: number }): Promise<ContainerStatus> {
    await this.#exclusive(name, () => transfer.completeRestore(this.#context, name, options));
    return await this.get(name);
  }

  // ------------------------------------------------------------

  async #status(
    record: ContainerRecord,
    state: RuntimeStatus | undefined,
  ): Promise<ContainerStatus> {
    const exit = await readExit(this.#context, record.name);
    const alive = initIsAlive(record);
    return {
      record,
      state: state ?? 'absent',
      ...(alive && record.init !== undefined ? { pid: record.init.pid } : {}),
      ...(exit === undefined ? {} : { exit }),
    };
  }

  async #exclusive<T>(name: string, work: () => Promise<T>): Promise<T> {
    return await this.#context.exclusive(name, work);
  }
}

async function adopt(context: HostContext, name: string): Promise<void> {
  const record = await context.find(name);
  if (record === undefined || record.phase === 'creating') {
    await removeContainer(context, name);
    return;
  }
  if (record.init !== undefined && initIsAlive(record)) {
    await context.network.adopt(context.port(name), record.init.pid);
  }
}
