import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeKeyFile } from '../../services/cli/src/key-file.js';
import { certificateFolder } from './certificates.js';
import { ClientMachine } from './client-machine.js';
import { TestNetwork } from './network.js';
import { removeOnSignal } from './on-signal.js';
import type { OperatorCalls } from './operator-main.js';
import { makeRunFolder, type RunFolder, removeRun } from './run-folder.js';
import { type Finished, startLogged, tryRun, until } from './shell.js';
import { traceLines, tracesOf } from './traces.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const OPERATOR = fileURLToPath(new URL('./operator-main.ts', import.meta.url));
const CONTROLLER = '10.77.0.2';
const CLIENT = '10.77.0.3';
const CONTROLLER_PORT = 7460;
const AGENT_PORT = 7461;
const CONTAINER_SUBNET = '10.77.0.0/16';
const CONTAINER_RANGE = '10.77.1.10-10.77.1.250';

export interface ClusterOptions {
  /** Names of the hosts to make, such as h1, h2, h3. */
  readonly hosts: readonly string[];
  /** Called with one line per thing that is being done. */
  readonly progress?: (line: string) => void;
  /** Plain connections in place of mutual TLS: for measurements of what TLS costs. */
  readonly insecure?: boolean;
  /** Agents make ready for their first migration, as they do outside of tests. */
  readonly rehearsed?: boolean;
  /** More settings for every agent. */
  readonly agentArgs?: readonly string[];
  /** Of the queue's Redis; none unless given. */
  readonly redisPassword?: string;
  /** Called first, with the run's folder; what it gives is in the environment of every program of the cluster. */
  readonly prepareRun?: (folder: string) => NodeJS.ProcessEnv;
  /** Called before a host's agent first starts, with the folder that will be its own. */
  readonly prepareHost?: (host: string, stateDir: string) => Promise<void>;
}

interface Program {
  readonly name: string;
  readonly child: ChildProcess;
  readonly log: string;
}

interface Made {
  readonly hosts: readonly string[];
  readonly unguard: () => void;
  readonly insecure: boolean;
  readonly agentArgs: readonly string[];
  readonly redisPassword: string | undefined;
}

/** A whole Ferry installation on this machine: hosts as network namespaces with an agent each, Redis, a controller, a
 *  client machine. Everything is marked with the run's id and goes away with it, whatever happens to the run. */
export class Cluster {
  readonly folder: RunFolder;
  readonly network: TestNetwork;
  readonly hosts: readonly string[];
  readonly #programs = new Map<string, Program>();
  readonly #clients: { stop(): Promise<void> }[] = [];
  readonly #unguard: () => void;
  readonly #agentArgs: readonly string[];
  readonly #insecure: boolean;
  readonly #redisPassword: string | undefined;
  #operator: string | undefined;

  private constructor(folder: RunFolder, network: TestNetwork, made: Made) {
    this.folder = folder;
    this.#insecure = made.insecure;
    this.#redisPassword = made.redisPassword;
    this.#unguard = made.unguard;
    this.#agentArgs = made.agentArgs;
    this.network = network;
    this.hosts = made.hosts;
  }

  static async start(options: ClusterOptions): Promise<Cluster> {
    const made = await makeRunFolder();
    const folder = { ...made, env: { ...made.env, ...options.prepareRun?.(made.path) } };
    const unguard = removeOnSignal(folder.id);
    const say = options.progress ?? (() => undefined);
    let cluster: Cluster | undefined;
    try {
      say(`making ${options.hosts.length} hosts, a controller's and a client's machine`);
      const network = await TestNetwork.make(folder.id);
      const { hosts, insecure = false, rehearsed = false } = options;
      const agentArgs = [...(options.agentArgs ?? []), ...(rehearsed ? [] : ['--no-rehearsal'])];
      const { redisPassword } = options;
      const made = { hosts, unguard, insecure, agentArgs, redisPassword };
      cluster = new Cluster(folder, network, made);
      await network.addPlain('ctl', CONTROLLER);
      await network.addPlain('client', CLIENT);
      for (const host of cluster.hosts) await network.addHost(host, cluster.addressOf(host));
      say('starting Redis for the queue, the controller and the agents');
      await cluster.startRedis();
      await cluster.startController();
      for (const host of options.hosts) await options.prepareHost?.(host, cluster.stateDir(host));
      for (const host of cluster.hosts) await cluster.startAgent(host);
      await cluster.#nodesReady();
      return cluster;
    } catch (error) {
      const logs = logTails(folder.path);
      unguard();
      await removeRun(folder.id);
      throw new Error(`The cluster did not start.\n${logs}`, { cause: error });
    }
  }

  addressOf(host: string): string {
    return `10.77.0.${11 + this.hosts.indexOf(host)}`;
  }

  /** Where `host`'s agent keeps everything. */
  stateDir(host: string): string {
    return join(this.folder.path, host);
  }

  // ---- programs ----------------------------------------------------------------------------------------------

  async startRedis(): Promise<void> {
    const dir = join(this.folder.path, 'queue');
    mkdirSync(dir, { recursive: true });
    const socket = this.#redisSocket();
    const settings = ['--save', '', '--appendonly', 'yes', '--maxmemory-policy', 'noeviction'];
    const password = this.#redisPassword;
    // In a file, for every user of a host can read arguments.
    const file = join(dir, 'redis.conf');
    writeFileSync(file, password === undefined ? '' : `requirepass ${password}\n`, { mode: 0o600 });
    writeFileSync(this.#passwordFile(), password ?? '', { mode: 0o600 });
    this.#start('redis', 'ctl', [
      ...['redis-server', file],
      ...['--port', '0', '--unixsocket', socket, '--dir', dir],
      ...settings,
    ]);
    await until('Redis', async () => {
      const env = { ...process.env, REDISCLI_AUTH: password };
      const { stdout } = await tryRun('redis-cli', ['-s', socket, 'ping'], { env });
      return stdout.startsWith('PONG') ? true : undefined;
    });
  }

  async startController(): Promise<void> {
    await this.#startReady('controller', 'ctl', [
      process.execPath,
      join(ROOT, 'dist/ferry-controller.mjs'),
      ...['--listen', `${CONTROLLER}:${CONTROLLER_PORT}`],
      ...['--redis', `unix://${this.#redisSocket()}`],
      ...(this.#redisPassword === undefined ? [] : ['--redis-password-file', this.#passwordFile()]),
      ...this.#securityArgs('controller', 'ctl'),
    ]);
  }

  async startAgent(host: string): Promise<void> {
    await this.#startReady(host, host, [
      process.execPath,
      join(ROOT, 'dist/ferry-agent.mjs'),
      ...['--node-id', host, '--listen', `${this.addressOf(host)}:${AGENT_PORT}`],
      ...['--controller', `${CONTROLLER}:${CONTROLLER_PORT}`],
      ...this.#securityArgs('agent', host),
      ...['--state-dir', this.stateDir(host)],
      ...['--cgroup-parent', `/ferry-${this.folder.id}-${host}`],
      ...['--bridge', 'br0', '--subnet', CONTAINER_SUBNET, '--range', CONTAINER_RANGE],
      ...this.#agentArgs,
    ]);
  }

  #securityArgs(role: 'controller' | 'agent', name: string): string[] {
    if (this.#insecure) return ['--insecure'];
    return ['--tls', certificateFolder(this.folder.path, { role, name })];
  }

  /** Ends one of the programs: `redis`, `controller`, or a host's agent by the host's name. */
  async end(name: string, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const program = this.#programs.get(name);
    this.#programs.delete(name);
    if (program === undefined || hasEnded(program.child)) return;
    const ended = new Promise((resolve) => program.child.once('exit', resolve));
    program.child.kill(signal);
    await ended;
  }

  /** The PID of one of the programs. */
  pidOf(name: string): number {
    const pid = this.#programs.get(name)?.child.pid;
    if (pid === undefined) throw new Error(`${name} does not run`);
    return pid;
  }

  logOf(name: string): string {
    const file = join(this.folder.path, `${name}.log`);
    return existsSync(file) ? readFileSync(file, 'utf8') : '';
  }

  #start(name: string, host: string, argv: readonly string[]): Program {
    const log = join(this.folder.path, `${name}.log`);
    const child = startLogged([...this.network.on(host), ...argv], log, { env: this.folder.env });
    const program = { name, child, log };
    this.#programs.set(name, program);
    return program;
  }

  async #startReady(name: string, host: string, argv: readonly string[]): Promise<void> {
    const before = this.logOf(name).length;
    const { child } = this.#start(name, host, argv);
    const state = await until(
      `${name} to be ready`,
      () => {
        if (this.logOf(name).includes('"msg":"listening"', before)) return 'ready';
        return hasEnded(child) ? 'ended' : undefined;
      },
      { timeoutMs: 60_000 },
    );
    if (state === 'ended') throw new Error(`${name} ended with ${child.exitCode}`);
  }

  async #nodesReady(): Promise<void> {
    await until('every node to register', async () => {
      const { stdout, status } = await this.ferry(['node', 'ls', '--json']);
      return status === 0 && this.hosts.every((host) => stdout.includes(`"${host}"`))
        ? true
        : undefined;
    });
  }

  #passwordFile(): string {
    return join(this.folder.path, 'queue', 'password');
  }

  #redisSocket(): string {
    return join(this.folder.path, 'queue', 'redis.sock');
  }

  // ---- what a test does --------------------------------------------------------------------------------------

  /** Runs the command line, as an operator on the controller's machine does. */
  ferry(args: readonly string[], timeoutMs = 120_000): Promise<Finished> {
    const [program = '', ...rest] = this.#ferryCommand(args);
    return tryRun(program, rest, { env: this.#ferryEnv(), timeoutMs });
  }

  /** The same with --json, for a command that must succeed. */
  async ferryJson<T>(args: readonly string[], timeoutMs?: number): Promise<T> {
    // What follows "--" belongs to the container's program.
    const end = args.includes('--') ? args.indexOf('--') : args.length;
    const asked = [...args.slice(0, end), '--json', ...args.slice(end)];
    const { status, stdout, stderr } = await this.ferry(asked, timeoutMs);
    if (status !== 0) {
      throw new Error(`ferry ${args.join(' ')} ended with ${status}: ${stderr}${stdout}`);
    }
    return JSON.parse(stdout);
  }

  /** Runs the command line where people see it: what it prints goes to the descriptor `screen`, as it comes.
   *  @returns its exit status */
  ferryShown(args: readonly string[], screen: number): Promise<number> {
    const [program = '', ...rest] = this.#ferryCommand(args);
    const child = spawn(program, rest, {
      env: this.#ferryEnv(),
      stdio: ['ignore', screen, screen],
    });
    return new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', (code) => resolve(code ?? 128));
    });
  }

  #ferryCommand(args: readonly string[]): string[] {
    return [...this.network.on('ctl'), join(ROOT, 'bin/ferry'), ...args];
  }

  #ferryEnv(): NodeJS.ProcessEnv {
    const FERRY_KEY = join(this.folder.path, 'checkpoint.key');
    if (!existsSync(FERRY_KEY)) makeKeyFile(FERRY_KEY);
    const env = {
      ...this.folder.env,
      FERRY_KEY,
      FERRY_CONTROLLER: `${CONTROLLER}:${CONTROLLER_PORT}`,
    };
    if (this.#insecure) return env;
    this.#operator ??= certificateFolder(this.folder.path, { role: 'operator', name: 'test' });
    return { ...env, FERRY_TLS: this.#operator };
  }

  /** A program on the controller's machine that calls the cluster's API as an operator. */
  async operator(): Promise<ClientMachine<OperatorCalls>> {
    const prefix = this.network.on('ctl');
    const operator = await ClientMachine.start<OperatorCalls>(prefix, this.#ferryEnv(), OPERATOR);
    this.#clients.push(operator);
    return operator;
  }

  /** A program on the client machine that talks to containers. */
  async client(): Promise<ClientMachine> {
    const client = await ClientMachine.start(this.network.on('client'), this.folder.env);
    this.#clients.push(client);
    return client;
  }

  // ---- the end -----------------------------------------------------------------------------------------------

  /** Ends the programs in good order, and says what they left on the machine; removes nothing. */
  async shutDown(): Promise<string[]> {
    for (const client of this.#clients) await client.stop();
    for (const host of this.hosts) await this.end(host);
    await this.end('controller');
    await this.end('redis');
    const { processes, cgroups, mounts } = tracesOf(this.folder.id);
    // An agent keeps the (empty) parent of its containers' groups for its next start, as it keeps its folder.
    const own = this.hosts.map((host) => `/ferry-${this.folder.id}-${host}`);
    const strange = cgroups.filter((path) => !own.some((name) => path.endsWith(name)));
    const none = { namespaces: [], links: [], files: [] };
    return traceLines({ processes, cgroups: strange, mounts, ...none });
  }

  /** Removes everything of this run, by force where need be; says what is left all the same. */
  async remove(): Promise<string[]> {
    this.#unguard();
    const failure = await removeRun(this.folder.id).then(
      () => [],
      (error: unknown) => [String(error)],
    );
    return [...failure, ...traceLines(tracesOf(this.folder.id))];
  }

  /** The last lines of every log of the run, for the report of a failure. */
  logTails(): string {
    return logTails(this.folder.path);
  }
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

function logTails(folder: string): string {
  const names = ['controller', 'redis', ...Array.from({ length: 9 }, (_, i) => `h${i + 1}`)];
  return names
    .map((name) => [name, join(folder, `${name}.log`)] as const)
    .filter(([, file]) => existsSync(file))
    .map(([name, file]) => `--- ${name}\n${readFileSync(file, 'utf8').trimEnd().slice(-3000)}`)
    .join('\n');
}
