import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { FerryError } from '@ferry/core';
import { call, cString, ERRNO, OwnedFd, sys } from '@ferry/linux';
import { hostCapabilities } from './capabilities.js';
import { Cgroups } from './cgroups.js';
import { LayerStore } from './layer-store.js';
import { ContainerNetwork, type NetworkConfig, type Port } from './network.js';
import { type Places, placesOf } from './places.js';
import { type ContainerRecord, readRecord, writeRecord } from './record.js';
import { Runc } from './runc.js';

export interface HostConfig {
  /** Unique among the agents of one machine: [a-z0-9-], at most 32. */
  readonly nodeId: string;
  /** Layers, writable layers, logs, records. On a file system that can carry an overlay's upper
   *  layer. */
  readonly stateDir: string;
  /** The runtime's own state and the network namespaces: on a tmpfs, as it means nothing after a
   *  reboot. Default: /run/ferry/NODE. */
  readonly runDir?: string | undefined;
  /** Default: /ferry-NODE. */
  readonly cgroupParent?: string | undefined;
  readonly runc?: string | undefined;
  readonly network: NetworkConfig;
  /** The time now, for records. Default: the system's clock. */
  readonly now?: (() => Date) | undefined;
}

/** What `exclusive` takes for the allocation of addresses; no container can be called so. */
export const ADDRESSES = '@addresses';

const LOCK_EX = 2;
const LOCK_NB = 4;
const O_RDWR_CREAT_CLOEXEC = 0o2 | 0o100 | 0o2000000;

/** What the operations on containers share: the parts of one host, its records, and who works on
 *  which container. */
export class HostContext {
  readonly nodeId: string;
  readonly stateDir: string;
  readonly runDir: string;
  readonly cgroupParent: string;
  readonly now: () => Date;
  readonly layers: LayerStore;
  readonly runtime: Runc;
  readonly cgroups: Cgroups;
  readonly network: ContainerNetwork;
  readonly capabilities: ReadonlySet<string>;
  /** Addresses given to containers whose record is not written yet, by name. */
  readonly pendingAddresses = new Map<string, string>();
  readonly #lock: OwnedFd;
  readonly #busy = new Map<string, Promise<unknown>>();
  /** As they are on disk, where nobody else writes: a cutover asks for one a dozen times. */
  readonly #records = new Map<string, ContainerRecord>();
  #removals = 0;

  private constructor(
    config: HostConfig,
    parts: { layers: LayerStore; cgroups: Cgroups; lock: OwnedFd; runDir: string },
  ) {
    this.nodeId = config.nodeId;
    this.stateDir = config.stateDir;
    this.runDir = parts.runDir;
    this.cgroupParent = config.cgroupParent ?? `/ferry-${config.nodeId}`;
    this.now = config.now ?? (() => new Date());
    this.layers = parts.layers;
    this.cgroups = parts.cgroups;
    this.#lock = parts.lock;
    this.runtime = new Runc({ program: config.runc ?? 'runc', root: join(parts.runDir, 'runc') });
    this.network = new ContainerNetwork(config.network, config.nodeId);
    this.capabilities = hostCapabilities();
  }

  /** @throws FerryError container.host when another agent uses the state folder */
  static async open(config: HostConfig): Promise<HostContext> {
    if (!/^[a-z0-9][a-z0-9-]{0,31}$/.test(config.nodeId)) {
      throw new FerryError(
        'container.host',
        `Node id ${JSON.stringify(config.nodeId)} is not valid`,
        {
          remedy: 'use at most 32 of a-z, 0-9 and "-"',
        },
      );
    }
    const cgroups = await Cgroups.detect();
    const runDir = config.runDir ?? join('/run/ferry', config.nodeId);
    for (const folder of [config.stateDir, join(config.stateDir, 'containers'), runDir]) {
      await mkdir(folder, { recursive: true, mode: 0o700 });
    }
    const lock = lockFolder(config.stateDir);
    try {
      const layers = await LayerStore.open(join(config.stateDir, 'layers'));
      return new HostContext(config, { layers, cgroups, lock, runDir });
    } catch (error) {
      lock[Symbol.dispose]();
      throw error;
    }
  }

  close(): void {
    this.#lock[Symbol.dispose]();
  }

  places(name: string): Places {
    return placesOf(this, name);
  }

  port(name: string): Port {
    return { netns: this.places(name).netns, veth: this.network.vethName(name) };
  }

  async names(): Promise<string[]> {
    return (await readdir(join(this.stateDir, 'containers'))).sort();
  }

  async find(name: string): Promise<ContainerRecord | undefined> {
    const known = this.#records.get(name);
    if (known !== undefined) return known;
    const removals = this.#removals;
    const read = await readRecord(this.places(name).record);
    // What was saved meanwhile is newer; what was read may have been removed by now.
    const saved = this.#records.get(name);
    if (saved !== undefined) return saved;
    if (read !== undefined && removals === this.#removals) this.#records.set(name, frozen(read));
    return read;
  }

  /** @throws FerryError container.notFound */
  async load(name: string): Promise<ContainerRecord> {
    const record = await this.find(name);
    if (record !== undefined) return record;
    throw new FerryError('container.notFound', `There is no container ${name} on ${this.nodeId}`, {
      remedy: 'list the containers of the cluster with "ferry ps"',
    });
  }

  async save(record: ContainerRecord): Promise<void> {
    await writeRecord(this.places(record.name).record, record);
    this.#records.set(record.name, frozen(structuredClone(record)));
  }

  async records(): Promise<ContainerRecord[]> {
    const found = await Promise.all((await this.names()).map((name) => this.find(name)));
    return found.filter((record) => record !== undefined);
  }

  async takenAddresses(): Promise<string[]> {
    const records = await this.records();
    return [...records.map((record) => record.network.address), ...this.pendingAddresses.values()];
  }

  /** Claims a name by making its folder.
   *  @throws FerryError container.exists */
  async claim(name: string): Promise<Places> {
    const places = this.places(name);
    try {
      await mkdir(places.folder, { mode: 0o700 });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      throw new FerryError(
        'container.exists',
        `A container named ${name} is already on ${this.nodeId}`,
        {
          remedy: 'choose another name, or remove that container',
        },
      );
    }
    return places;
  }

  async dropFolder(name: string): Promise<void> {
    this.#records.delete(name);
    this.#removals += 1;
    await rm(this.places(name).folder, { recursive: true, force: true });
    // Again: whoever looked while it went may have read the record and remembered it.
    this.#records.delete(name);
    this.#removals += 1;
  }

  /** One operation that changes a container at a time; those that come meanwhile wait. */
  async exclusive<T>(name: string, work: () => Promise<T>): Promise<T> {
    const before = this.#busy.get(name) ?? Promise.resolve();
    const mine = before.then(work, work);
    const settled = mine.then(
      () => undefined,
      () => undefined,
    );
    this.#busy.set(name, settled);
    try {
      return await mine;
    } finally {
      if (this.#busy.get(name) === settled) this.#busy.delete(name);
    }
  }
}

/** All who ask get the same object. */
function frozen<T>(value: T): T {
  if (typeof value !== 'object' || value === null) return value;
  for (const part of Object.values(value)) frozen(part);
  return Object.freeze(value);
}

/** Held until the process ends, however it ends. */
function lockFolder(folder: string): OwnedFd {
  const fd = new OwnedFd(call('open', cString(join(folder, 'lock')), O_RDWR_CREAT_CLOEXEC, 0o600));
  const result = sys('flock', fd.number, LOCK_EX | LOCK_NB);
  if (result >= 0) return fd;
  fd[Symbol.dispose]();
  const holder = result === -ERRNO.EAGAIN ? 'another agent uses it' : `flock failed (${result})`;
  throw new FerryError('container.host', `State folder ${folder} cannot be used: ${holder}`, {
    remedy: 'stop that agent, or give this one a folder of its own',
  });
}
