import { spawn } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  chownSync,
  copyFileSync,
  mkdirSync,
  readdirSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  buildConfig,
  checkSpec,
  hostCapabilities,
  type OciConfig,
  placeConfig,
  Runc,
  restoreConfig,
} from '@ferry/container';
import type { ObjectProgram } from '../table.js';
import { build } from './build.js';
import { ferry } from './engine.js';
import { inTrial, sourceOf, type Verdict } from './flavours.js';
import { identify, isAlive, killExactly, treeOf, until } from './processes.js';
import type { Trial } from './trial.js';

const mappedUsers = 100_000;
const startTimeoutMs = 20_000;
const verdictTimeoutMs = 30_000;
export const settleMs = 100;

/** What the programs do to themselves: a container's usual set would refuse some of it. Only what
 *  this host can give. */
const wantedCapabilities = [
  ...['CAP_SYS_ADMIN', 'CAP_SYS_NICE', 'CAP_SYS_RESOURCE', 'CAP_NET_ADMIN', 'CAP_IPC_LOCK'],
  ...['CAP_SYS_CHROOT', 'CAP_CHECKPOINT_RESTORE', 'CAP_SYS_PTRACE'],
];

export const available = hostCapabilities();
const capabilities = wantedCapabilities.filter((name) => available.has(name));

/** One runc container of a trial: its own PID, UTS, IPC, network and mount namespaces, a root file
 *  system with nothing but the program and a first process, and the trial's folder in its place. */
export class TrialContainer implements AsyncDisposable {
  readonly #trial: Trial;
  readonly #runc: Runc;
  readonly #name: string;
  readonly #id: string;
  readonly #bundle: string;
  /** Host PID of the first process; 0 while there is none. */
  pid = 0;

  /** @param name  tells several containers of one trial apart */
  constructor(trial: Trial, name = 'container') {
    this.#trial = trial;
    this.#name = name;
    this.#id = `${basename(trial.directory)}-${name}`;
    this.#bundle = join(trial.directory, `bundle-${name}`);
    this.#runc = new Runc({ program: 'runc', root: join(trial.directory, 'runc') });
    mkdirSync(this.#bundle);
  }

  /** A configuration that was made for another container of the trial, for this one: the same root file system. */
  place(config: OciConfig): OciConfig {
    return { ...config, linux: { ...config.linux, cgroupsPath: `/${this.#id}` } };
  }

  /** The container's configuration with `program` as the child of its first process. */
  async configure(
    program: ObjectProgram,
    env: Readonly<Record<string, string>>,
  ): Promise<OciConfig> {
    const rootfs = join(this.#bundle, 'rootfs');
    mkdirSync(rootfs);
    copyFileSync(await build('support/init', 'static'), join(rootfs, 'init'));
    copyFileSync(await build(sourceOf(program), 'static'), join(rootfs, 'program'));
    const { directory } = this.#trial;
    const spec = checkSpec({
      name: this.#id.toLowerCase(),
      image: { kind: 'rootfs', path: rootfs },
      args: ['/init', '/program', directory, ...(program.args ?? [])],
      env: { ...env, FERRY_TRIAL: directory },
      capabilities: { add: capabilities, drop: [] },
      noNewPrivileges: false,
      mounts: [{ kind: 'bind', source: directory, destination: directory, readonly: false }],
    });
    const places = { rootfs, cgroupsPath: `/${this.#id}`, netns: '' };
    const config = placeConfig(buildConfig(spec), places);
    // A network of its own with nothing but loopback, which runc makes.
    const namespaces = config.linux.namespaces.map(({ type }) => ({ type }));
    if (program.hasGroups === true) return withGroups(config, namespaces);
    if (program.isMapped !== true) return { ...config, linux: { ...config.linux, namespaces } };
    for (const path of [directory, rootfs]) chmodSync(path, 0o777);
    const linux = {
      ...config.linux,
      namespaces: [...namespaces, { type: 'user' as const }],
      uidMappings: [{ containerID: 0, hostID: mappedUsers, size: 10_000_000 }],
      gidMappings: [{ containerID: 0, hostID: mappedUsers + 1000, size: 10_000_000 }],
    };
    return { ...config, linux };
  }

  /** `runc create` and `runc start`. Output goes through a pipe to a process beside the container.
   *  @param fds  what the container's first process gets as descriptors 3, 4, … */
  async run(config: OciConfig, fds: readonly number[] = []): Promise<void> {
    writeFileSync(join(this.#bundle, 'config.json'), JSON.stringify(config, null, 2));
    const pidFile = join(this.#trial.directory, `${this.#name}.pid`);
    const logFile = join(this.#trial.directory, 'runc.log');
    const command = this.#runc.createCommand({
      ...{ id: this.#id, bundle: this.#bundle, pidFile, logFile, preserveFds: fds.length },
    });
    appendFileSync(this.#trial.log, `${command.join(' ')}\n`);
    const [launcher, shim] = [await build('support/launch'), await build('support/shim')];
    const output = join(this.#trial.directory, 'output.log');
    const [first = '', ...rest] = [
      ...(fds.length === 0 ? [launcher] : []),
      shim,
      output,
      ...command,
    ];
    const child = spawn(first, rest, {
      env: { ...process.env, FERRY_TRIAL: this.#trial.directory },
      stdio: ['ignore', 'ignore', 'ignore', ...fds],
    });
    await until('runc create', startTimeoutMs, () => child.exitCode !== null);
    if (child.exitCode !== 0)
      throw new Error(`runc create failed: ${this.#trial.read('runc.log')}`);
    this.pid = Number(this.#trial.read(`${this.#name}.pid`));
    appendFileSync(this.#trial.log, `runc --root ${this.#runc.root} start ${this.#id}\n`);
    await this.#runc.start(this.#id);
  }

  /** Waits until the program in it says READY. */
  async ready(): Promise<void> {
    const root = identify(this.pid);
    await until('the program in the container', startTimeoutMs, () => {
      if (this.#trial.has('ready') || this.#trial.has('result')) return true;
      if (root !== undefined && isAlive(root)) return false;
      throw new Error('The container ended early');
    });
    await sleep(settleMs);
  }

  /** Tells the first process to let the program check itself.
   *  @throws unless it says PASS */
  async verdict(): Promise<Verdict> {
    const root = identify(this.pid);
    if (root !== undefined) killExactly([root], 'SIGUSR1');
    await until('a verdict', verdictTimeoutMs, () => {
      return this.#trial.has('result') || root === undefined || !isAlive(root);
    });
    const result = this.#trial.read('result').trim();
    if (result.startsWith('SKIP ')) return { skipped: result.slice(5) };
    if (result === 'PASS') return {};
    throw new Error(`${result || 'No verdict'}\n${this.#trial.read('failures')}`);
  }

  /** Removes the container and whatever runs in it. Its first process is ended before: runc looks for its end ten times a
   *  second only. */
  async remove(): Promise<void> {
    const root = this.pid === 0 ? undefined : identify(this.pid);
    if (root !== undefined) {
      killExactly([root]);
      await until('the end of the container', startTimeoutMs, () => !isAlive(root));
    }
    await this.#runc.delete(this.#id);
    this.pid = 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.remove();
  }
}

/** A container that sees its control groups, and may change what is below its own. */
function withGroups(config: OciConfig, namespaces: OciConfig['linux']['namespaces']): OciConfig {
  const groups = {
    destination: '/sys/fs/cgroup',
    type: 'cgroup',
    source: 'cgroup',
    options: ['nosuid', 'noexec', 'nodev', 'rw'],
  };
  const mounts = config.mounts.filter(({ destination }) => destination !== groups.destination);
  const types = [
    ...namespaces.filter(({ type }) => type !== 'cgroup'),
    { type: 'cgroup' as const },
  ];
  return {
    ...config,
    mounts: [...mounts, groups],
    linux: { ...config.linux, namespaces: types },
  };
}

/** The program in a container, without Ferry: it must be right about itself there too. */
export async function contained(program: ObjectProgram): Promise<Verdict> {
  return inTrial(`contained ${program.name}`, async (trial) => {
    await using container = new TrialContainer(trial);
    await container.run(await container.configure(program, {}));
    await container.ready();
    return await container.verdict();
  });
}

/** Dumped in one container, restored in another one made from the same bundle, whose first program
 *  is the dump binary of the recorded first process.
 *  Not registered in objects.test.ts before the engine dumps containers; see FERRY_OBJECTS_CONTAINER. */
export async function containerMove(program: ObjectProgram): Promise<Verdict> {
  return inTrial(`container ${program.name}`, async (trial) => {
    await using container = new TrialContainer(trial);
    const config = await container.configure(program, {});
    await container.run(config);
    await container.ready();
    if (trial.has('result')) return await container.verdict();
    const recorded = treeOf(container.pid).length;
    const hostPid = container.pid;
    await ferry(['dump', '--pid', `${hostPid}`, '--out', trial.image], trial.log);
    await container.remove();
    const entry = rootDump(trial, hostPid);
    if (program.isMapped === true) giveAway(trial.image);
    await container.run(restoreConfig(config, [entry], available));
    await until('the restored tree', startTimeoutMs, () => {
      return treeOf(container.pid).length === recorded;
    });
    await sleep(settleMs);
    return await container.verdict();
  });
}

/** To who is root in a container with a user namespace. */
function giveAway(folder: string): void {
  for (const name of ['.', ...readdirSync(folder)]) {
    chownSync(join(folder, name), mappedUsers, mappedUsers + 1000);
  }
}

/** The first process has PID 1 in its namespace and another one outside. */
function rootDump(trial: Trial, hostPid: number): string {
  const name = ['1.dump', `${hostPid}.dump`].find((file) => trial.has(join('image', file)));
  if (name === undefined) throw new Error(`There is no dump of PID 1 in ${trial.image}`);
  return join(trial.image, name);
}
