import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { AgentServiceService, createServer, startServer, stopServer } from '@ferry/api';
import { ContainerHost, ensureBridge, type NetworkConfig } from '@ferry/container';
import {
  Journal,
  type Logger,
  readHostFacts,
  readVdsoHash,
  type SourcePort,
} from '@ferry/migration';
import { HealthImplementation } from 'grpc-health-check';
import { type AgentParts, agentService, sourceService } from './agent-service.js';
import { Checkpoints } from './checkpoints.js';
import { Claims } from './claims.js';
import { Containers } from './containers.js';
import { GrpcSourcePort } from './grpc-source-port.js';
import { Migrations } from './migrations.js';
import { sourceServiceDefinition } from './page-codec.js';
import { keepRegistered } from './registration.js';
import type { Settings } from './settings.js';
import { tracerCommand } from './tracer-command.js';

const VERSION = '0.1.0';
const GRACE_MS = 2000;

export interface AgentOptions {
  readonly logger: Logger;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  /** How to reach other agents; tests put faults in between. */
  readonly connect?: (address: string) => SourcePort;
}

/** An agent that serves. */
export interface Agent {
  /** HOST:PORT that it listens on. */
  readonly address: string;
  readonly host: ContainerHost;
  /** Ends calls and migrations; containers run on. */
  close(): Promise<void>;
}

/** Opens the state folder, takes over the containers that run, and serves. */
export async function startAgent(settings: Settings, options: AgentOptions): Promise<Agent> {
  const { logger } = options;
  await mkdir(settings.stateDir, { recursive: true, mode: 0o700 });
  const journal = await Journal.open(join(settings.stateDir, 'migrations'), Date.now());
  const { bridge, bridgeAddress: address, hostNetns } = settings;
  if (address !== undefined) await ensureBridge(bridge, { address, hostNetns });
  const host = await openHost(settings);
  const parts = await assemble(settings, { ...options, host, journal });
  await settleFrozen(host, journal, logger);
  const server = createServer();
  server.addService(AgentServiceService, agentService(parts));
  server.addService(sourceServiceDefinition, sourceService(parts));
  new HealthImplementation({
    '': 'SERVING',
    'ferry.cluster.v1.AgentService': 'SERVING',
    'ferry.cluster.v1.MigrationSource': 'SERVING',
  }).addToServer(server);
  const port = await startServer(server, settings.listen);
  const listening = settings.listen.replace(/:\d+$/, `:${port}`);
  const ended = new AbortController();
  const registered = register(settings, parts, { logger, listening, signal: ended.signal });
  return {
    address: listening,
    host,
    close: async () => {
      ended.abort();
      await registered;
      await parts.migrations.close();
      await stopServer(server, GRACE_MS);
      await host.close();
    },
  };
}

function networkOf(settings: Settings): NetworkConfig {
  const { bridge, hostNetns, subnet, range, gateway, mtu } = settings;
  return { bridge, hostNetns, subnet, range, gateway, mtu };
}

async function openHost(settings: Settings): Promise<ContainerHost> {
  const { nodeId, stateDir, runDir, cgroupParent, runc } = settings;
  const network = networkOf(settings);
  return await ContainerHost.open({ nodeId, stateDir, runDir, cgroupParent, runc, network });
}

async function assemble(
  settings: Settings,
  context: AgentOptions & { host: ContainerHost; journal: Journal },
): Promise<AgentParts> {
  const { host, journal, logger, now } = context;
  const { nodeId: node, stateDir, subnet, gateway, range } = settings;
  const facts = readHostFacts({
    runcVersion: await host.runtime.version().catch(() => ''),
    agentVersion: VERSION,
    pool: range ?? '',
    subnet,
    gateway,
  });
  const source = { host, facts, tracer: tracerCommand(), network: networkOf(settings) };
  const destination = { host, facts, stateDir };
  const vdsoHash = readVdsoHash();
  const claims = new Claims();
  const connect = context.connect ?? ((address: string) => new GrpcSourcePort(address));
  const migrations = new Migrations({
    ...{ node, source, destination, journal, vdsoHash, claims, connect, logger, now },
    timeoutMs: settings.migrationTimeoutMs,
  });
  const isOutgoing = (name: string) => migrations.isOutgoing(name);
  const containers = new Containers(host, claims, isOutgoing);
  const messageOf = (name: string) => containers.get(name);
  const checkpoints = await Checkpoints.open({
    folder: join(stateDir, 'checkpoints'),
    ...{ node, stateDir, source, journal, claims, vdsoHash, messageOf, now },
  });
  return { containers, checkpoints, migrations, source, destination, now };
}

/** A container that was found frozen or half restored belongs to a migration of the agent before this one. It stays as
 *  it is when that was committed; else the source runs on, and the destination leaves nothing. */
async function settleFrozen(host: ContainerHost, journal: Journal, logger: Logger): Promise<void> {
  for (const { record, state } of await host.list()) {
    const { name, phase } = record;
    if (journal.committedOf(name) !== undefined) {
      logger.warn('held for its new host', { container: name });
    } else if (phase === 'restoring' && (state === 'running' || state === 'paused')) {
      // A restorer that was not told to go ends when its agent does: this one was, and the container runs.
      logger.warn('took over a container that had just arrived', { container: name });
      await host.completeRestore(name, { epoch: record.epoch + 1 });
      await host.unlock(name);
    } else if (phase === 'incoming' || phase === 'restoring') {
      logger.warn('removed what had not arrived', { container: name });
      await host.remove(name);
    } else if (phase === 'running' && state !== 'stopped' && state !== 'absent') {
      await host.thaw(name);
      await host.unlock(name);
    }
  }
}

async function register(
  settings: Settings,
  parts: AgentParts,
  context: { logger: Logger; listening: string; signal: AbortSignal },
): Promise<void> {
  const { controller, nodeId: name, stateDir, advertise } = settings;
  const { logger, listening, signal } = context;
  if (controller === undefined) return;
  const address = advertise ?? listening;
  const containers = () => parts.containers.list();
  const { facts } = parts.source;
  const options = { controller, name, address, facts, stateDir, containers, logger };
  await keepRegistered(options, signal);
}
