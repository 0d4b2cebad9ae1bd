import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { AgentServiceService, createServer, Security, startServer, stopServer } from '@ferry/api';
import { ContainerHost, ensureBridge, type NetworkConfig } from '@ferry/container';
import {
  findCopy,
  Journal,
  type Logger,
  Pacer,
  readHostFacts,
  readVdsoHash,
  type SourcePort,
  Tracers,
} from '@ferry/migration';
import { HealthImplementation } from 'grpc-health-check';
import { type AgentParts, agentService, sourceService } from './agent-service.js';
import { Checkpoints } from './checkpoints.js';
import { Claims } from './claims.js';
import { Containers } from './containers.js';
import { GrpcSourcePort, type SourceOptions } from './grpc-source-port.js';
import { Migrations } from './migrations.js';
import { sourceServiceDefinition } from './page-codec.js';
import { keepRegistered } from './registration.js';
import type { Settings } from './settings.js';
import { Tickets } from './tickets.js';
import { tracerCommand } from './tracer-command.js';

const VERSION = '0.1.0';
const GRACE_MS = 2000;

export interface AgentOptions {
  readonly logger: Logger;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  /** How to reach other agents; tests put faults in between. */
  readonly connect?: (address: string, peer: SourceOptions) => SourcePort;
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
  const security = openSecurity(settings, logger);
  await mkdir(settings.stateDir, { recursive: true, mode: 0o700 });
  const journal = await Journal.open(join(settings.runDir, 'journal'), Date.now());
  const { bridge, bridgeAddress: address, hostNetns } = settings;
  if (address !== undefined) await ensureBridge(bridge, { address, hostNetns });
  const host = await openHost(settings);
  const parts = await assemble(settings, { ...options, host, journal, security });
  await settleFrozen(host, journal, logger);
  await parts.migrations.settle();
  const server = createServer(security);
  server.addService(AgentServiceService, agentService(parts));
  server.addService(sourceServiceDefinition, sourceService(parts));
  new HealthImplementation({
    '': 'SERVING',
    'ferry.cluster.v1.AgentService': 'SERVING',
    'ferry.cluster.v1.MigrationSource': 'SERVING',
  }).addToServer(server);
  const port = await startServer(server, settings.listen, security);
  const listening = settings.listen.replace(/:\d+$/, `:${port}`);
  const ended = new AbortController();
  const registered = register(settings, parts, {
    ...{ logger, listening, security },
    signal: ended.signal,
  });
  return {
    address: listening,
    host,
    close: async () => {
      ended.abort();
      await registered;
      await parts.migrations.close();
      await stopServer(server, GRACE_MS);
      await parts.source.tracers.close();
      await host.close();
      security.close();
    },
  };
}

/** Refuses a folder of certificates that is another node's, and says aloud when there is none. */
function openSecurity(settings: Settings, logger: Logger): Security {
  const { tls, insecure, stateDir, nodeId } = settings;
  const auditLog = settings.auditLog ?? join(stateDir, 'audit.log');
  const security = Security.open(
    { tls, insecure, auditLog },
    {
      onProblem: (text) => logger.error('security', { error: text }),
      onReload: () => logger.info('certificates were read again', { folder: tls }),
    },
  );
  security.mayListen(settings.listen);
  security.mustBe({ role: 'agent', name: nodeId });
  if (security.isOpen) {
    logger.warn('INSECURE: whoever reaches this port can run anything as root', {
      address: settings.listen,
      remedy: 'use --tls instead of --insecure',
    });
  }
  return security;
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
  context: AgentOptions & { host: ContainerHost; journal: Journal; security: Security },
): Promise<AgentParts> {
  const { host, journal, logger, now, security } = context;
  const { nodeId: node, stateDir, runDir, subnet, gateway, range } = settings;
  const { maxOutgoing, maxIncoming, bytesPerSecond } = settings;
  const facts = readHostFacts({
    runcVersion: await host.runtime.version().catch(() => ''),
    agentVersion: VERSION,
    pool: range ?? '',
    subnet,
    gateway,
    ...{ maxOutgoing, maxIncoming, bytesPerSecond },
  });
  let isBusy = () => false;
  const tracers = new Tracers({
    ...{ command: tracerCommand(), logger, rehearse: settings.rehearse },
    isBusy: () => isBusy(),
  });
  const source = { host, facts, tracers, network: networkOf(settings) };
  const destination = { host, facts, stateDir, runDir };
  const vdsoHash = readVdsoHash();
  const claims = new Claims();
  const port = context.connect ?? ((address, peer) => new GrpcSourcePort(address, peer));
  const connect = (address: string, peer: SourceOptions) => port(address, { ...peer, security });
  const tickets = new Tickets({ security, node, file: join(stateDir, 'tickets') });
  const migrations = new Migrations({
    ...{ node, source, destination, journal, vdsoHash, claims, connect, logger, now },
    timeoutMs: settings.migrationTimeoutMs,
    patienceMs: settings.doubtAfterMs,
    incoming: new Pacer(bytesPerSecond, now),
  });
  isBusy = () => migrations.isMoving();
  const isOutgoing = (name: string) => migrations.isOutgoing(name);
  const containers = new Containers(host, claims, isOutgoing);
  const messageOf = (name: string) => containers.get(name);
  const checkpoints = await Checkpoints.open({
    folder: join(stateDir, 'checkpoints'),
    ...{ node, stateDir, source, journal, claims, vdsoHash, messageOf, now },
  });
  const outgoing = new Pacer(bytesPerSecond, now);
  return { containers, checkpoints, migrations, source, destination, tickets, outgoing, now };
}

/** A container that was found frozen or half restored, and of which the journal knows nothing, belongs to work that its
 *  agent had not decided: a source runs on, what was being restored from a checkpoint is completed or removed. */
async function settleFrozen(host: ContainerHost, journal: Journal, logger: Logger): Promise<void> {
  for (const { record, state } of await host.list()) {
    const { name, phase } = record;
    if (journal.committedOf(name) !== undefined || journal.incomingOf(name) !== undefined) continue;
    if (phase === 'restoring' && (await findCopy(host, name)) === 'ran') {
      logger.warn('took over a container that had just been restored', { container: name });
      await host.completeRestore(name, { epoch: record.epoch + 1 });
      await host.unlock(name);
    } else if (phase === 'incoming' || phase === 'restoring') {
      logger.warn('removed what was not restored whole', { container: name });
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
  context: { logger: Logger; listening: string; security: Security; signal: AbortSignal },
): Promise<void> {
  const { controller, nodeId: name, stateDir, advertise } = settings;
  const { logger, listening, security, signal } = context;
  if (controller === undefined) return;
  const address = advertise ?? listening;
  const containers = () => parts.containers.list();
  const { facts } = parts.source;
  const { migrations } = parts;
  const options = {
    ...{ controller, name, address, facts, stateDir, containers, migrations, security, logger },
  };
  await keepRegistered(options, signal);
}
