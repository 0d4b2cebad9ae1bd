import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import {
  type AgentClient,
  ContainerSpec,
  connectAgent,
  type Journey,
  type ReceiveMigrationRequest,
  Security,
  signTicket,
} from '@ferry/api';
import type { SourcePort } from '@ferry/migration';
import { certificateFolder } from '../../../../test/support/certificates.js';
import { TestNetwork } from '../../../../test/support/network.js';
import { removeOnSignal } from '../../../../test/support/on-signal.js';
import { makeRootfs } from '../../../../test/support/rootfs.js';
import { makeRunFolder, type RunFolder, removeRun } from '../../../../test/support/run-folder.js';
import { traceLines, tracesOf } from '../../../../test/support/traces.js';
import { type Agent, startAgent } from '../../src/agent.js';
import { jsonLogger } from '../../src/logger.js';
import { parseSettings } from '../../src/settings.js';

export type HostName = 'h1' | 'h2';

interface RunningAgent {
  agent: Agent;
  client: AgentClient;
}

/** Two agents in this process, each with a host's network of its own; removed to the last trace by `remove`. */
export class TwoAgents {
  readonly folder: RunFolder;
  readonly network: TestNetwork;
  readonly log: string[] = [];
  readonly #agents = new Map<HostName, RunningAgent>();
  readonly #programs = new Map<
    HostName,
    { child: ChildProcess; address: string; client: AgentClient }
  >();
  #controller: Security | undefined;
  readonly #unguard: () => void;
  /** Of agents started from then on. */
  doubtAfterMs = 120_000;
  /** Put between destination and source, when set. */
  wrapSource: ((port: SourcePort) => SourcePort) | undefined;

  private constructor(folder: RunFolder, network: TestNetwork, unguard: () => void) {
    this.#unguard = unguard;
    this.folder = folder;
    this.network = network;
  }

  static async start(): Promise<TwoAgents> {
    const folder = await makeRunFolder();
    const unguard = removeOnSignal(folder.id);
    try {
      const two = new TwoAgents(folder, await TestNetwork.make(folder.id), unguard);
      await two.network.addPlain('client', '10.77.0.3');
      await two.network.addHost('h1', '10.77.0.11');
      await two.network.addHost('h2', '10.77.0.12');
      await two.startAgent('h1');
      await two.startAgent('h2');
      return two;
    } catch (error) {
      unguard();
      await removeRun(folder.id);
      throw error;
    }
  }

  /** Where an agent keeps everything. */
  stateDir(host: HostName): string {
    return join(this.folder.path, host);
  }

  /** The command line of an agent that runs as a program. */
  agentArgs(host: HostName, listen = '127.0.0.1:0'): string[] {
    return [
      ...['--node-id', host, '--listen', listen, '--state-dir', this.stateDir(host)],
      ...['--tls', certificateFolder(this.folder.path, { role: 'agent', name: host })],
      ...['--cgroup-parent', `/ferry-${this.folder.id}-${host}`],
      ...['--bridge', 'br0', '--host-netns', `/run/netns/${this.network.namespace(host)}`],
      ...['--subnet', '10.77.0.0/16', '--range', '10.77.1.10-10.77.1.250'],
      ...['--doubt-after-ms', String(this.doubtAfterMs), '--no-rehearsal'],
    ];
  }

  async startAgent(host: HostName): Promise<void> {
    const settings = parseSettings(this.agentArgs(host));
    if (settings === 'help') throw new Error('no settings');
    const { GrpcSourcePort } = await import('../../src/grpc-source-port.js');
    const agent = await startAgent(settings, {
      logger: jsonLogger('debug', (line) => {
        this.log.push(`${host} ${line}`);
        if (process.env.SHOW_LOG) process.stderr.write(`${host} ${line}`);
      }),
      now: () => performance.now(),
      connect: (address, peer) => {
        const port = new GrpcSourcePort(address, peer);
        return this.wrapSource?.(port) ?? port;
      },
    });
    this.#agents.set(host, { agent, client: this.#client(agent.address, host) });
  }

  /** What a controller is known by. */
  get controller(): Security {
    this.#controller ??= Security.open({
      tls: certificateFolder(this.folder.path, { role: 'controller', name: 'test' }),
    });
    return this.#controller;
  }

  #client(address: string, node: HostName): AgentClient {
    return connectAgent(address, { node, security: this.controller });
  }

  /** What a controller asks the destination, with a new ticket. */
  receiveRequest(
    journey: Omit<Journey, 'destinationNode' | 'sourceNode'>,
    from: HostName,
    to: HostName,
  ) {
    const complete = { ...journey, sourceNode: from, destinationNode: to };
    return {
      ...complete,
      ticket: signTicket(this.controller.tls!.current, complete, Date.now()),
      ...{ sourceAddress: this.reach(from).address, mode: 'auto', timeoutMs: 60_000 },
      policy: undefined,
    };
  }

  /** Starts an agent as a program of its own, to be killed. */
  async startProgram(
    host: HostName,
    listen = '127.0.0.1:0',
    env: NodeJS.ProcessEnv = {},
  ): Promise<ChildProcess> {
    const main = join(import.meta.dirname, '../../src/main.ts');
    const args = ['--import', 'tsx', main, ...this.agentArgs(host, listen)];
    const child = spawn(process.execPath, args, {
      env: { ...this.folder.env, ...env },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let text = '';
    const address = await new Promise<string>((resolve, reject) => {
      child.once('exit', (status) => reject(new Error(`The agent ended with ${status}: ${text}`)));
      child.stderr.on('data', (data: Buffer) => {
        text += data;
        this.log.push(`${host} ${data}`);
        const match = /"msg":"listening","address":"([^"]+)"/.exec(text);
        if (match?.[1] !== undefined) resolve(match[1]);
      });
    });
    this.#programs.set(host, { child, address, client: this.#client(address, host) });
    return child;
  }

  /** Kills the program of a host without a warning; its containers run on. */
  async killProgram(host: HostName): Promise<void> {
    const program = this.#programs.get(host);
    if (program === undefined) throw new Error(`No program on ${host}`);
    this.#programs.delete(host);
    program.client.close();
    const ended = new Promise((resolve) => program.child.once('exit', resolve));
    program.child.kill('SIGKILL');
    await ended;
  }

  /** Where a host's agent is reached, and how. */
  reach(host: HostName): { address: string; client: AgentClient } {
    const program = this.#programs.get(host);
    if (program !== undefined) return program;
    const { agent, client } = this.at(host);
    return { address: agent.address, client };
  }

  async stopAgent(host: HostName): Promise<void> {
    const running = this.#agents.get(host);
    if (running === undefined) return;
    this.#agents.delete(host);
    running.client.close();
    await running.agent.close();
  }

  at(host: HostName): RunningAgent {
    const running = this.#agents.get(host);
    if (running === undefined) throw new Error(`No agent on ${host}`);
    return running;
  }

  async rootfs(programs: readonly string[], extra: readonly string[] = []): Promise<string> {
    const folder = join(this.folder.path, 'rootfs');
    await makeRootfs(folder, programs, extra);
    return folder;
  }

  /** Runs a container on a host. */
  async run(host: HostName, spec: Partial<ContainerSpec>) {
    return await this.reach(host).client.runContainer(
      { operationId: `run-${spec.name}`, spec: ContainerSpec.fromPartial(spec), epoch: 1n },
      { deadlineMs: 60_000 },
    );
  }

  /** Names of the containers on a host, with their states. */
  async states(host: HostName): Promise<Record<string, string>> {
    const { containers } = await this.reach(host).client.listContainers({});
    return Object.fromEntries(containers.map(({ name, state }) => [name, state]));
  }

  /** Moves a container and returns the result; progress is thrown away. */
  async migrate(
    container: string,
    from: HostName,
    to: HostName,
    migrationId: string,
    wishes: Partial<ReceiveMigrationRequest> = {},
  ) {
    const { containers } = await this.reach(from).client.listContainers({});
    const epoch = (containers.find(({ name }) => name === container)?.epoch ?? 0n) + 1n;
    const request = {
      ...this.receiveRequest({ migrationId, epoch, container }, from, to),
      ...wishes,
    };
    for await (const { event } of this.reach(to).client.receiveMigration(request)) {
      if (event?.$case === 'result') return event.value;
    }
    throw new Error('The migration ended without a result');
  }

  /** Ends everything; says what is left all the same. */
  async remove(): Promise<string[]> {
    for (const host of this.#programs.keys()) {
      await this.killProgram(host);
      await this.startAgent(host);
    }
    for (const host of ['h1', 'h2'] as const) {
      const running = this.#agents.get(host);
      if (running === undefined) continue;
      for (const name of Object.keys(await this.states(host))) {
        await running.agent.host.remove(name).catch(() => {});
      }
      await this.stopAgent(host);
    }
    this.#controller?.close();
    this.#unguard();
    await removeRun(this.folder.id);
    return traceLines(tracesOf(this.folder.id));
  }
}
