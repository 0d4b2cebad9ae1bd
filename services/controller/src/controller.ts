import {
  ClusterServiceService,
  createServer,
  NodeServiceService,
  Security,
  startServer,
  stopServer,
} from '@ferry/api';
import { Agents } from './agents.js';
import { addDiscovery } from './api/discovery.js';
import { clusterService, nodeService } from './api/services.js';
import type { Logger } from './logger.js';
import { Runner } from './operations/runner.js';
import { WorkQueue } from './queue/queue.js';
import { Sweeper } from './queue/sweeper.js';
import { Workers } from './queue/workers.js';
import type { Settings } from './settings.js';
import { Containers } from './store/containers.js';
import { connectRedis, type Db } from './store/db.js';
import { HandOvers } from './store/hand-overs.js';
import { Nodes } from './store/nodes.js';
import { Notices } from './store/notices.js';
import { Operations } from './store/operations.js';
import { Slots } from './store/slots.js';

export interface RunningController {
  /** HOST:PORT on which it listens. */
  readonly address: string;
  /** Lets calls in flight end, hands work over, closes everything. */
  close(): Promise<void>;
}

const callsGraceMs = 3000;

/** Starts a controller. Several may share one Redis and prefix. */
export async function startController(
  settings: Settings,
  tools: { readonly logger: Logger; readonly now: () => number },
): Promise<RunningController> {
  const { logger, now } = tools;
  const security = openSecurity(settings, logger);
  const calls = connectRedis(settings.redis, 'calls', logger);
  const blocking = connectRedis(settings.redis, 'blocking', logger);
  const key = (...parts: string[]) => [settings.prefix, ...parts].join(':');
  const db: Db = { redis: calls, key, now };
  const notices = new Notices(db, connectRedis(settings.redis, 'blocking', logger));
  const operations = new Operations(db, notices);
  const nodes = new Nodes(db, settings.downAfterMs);
  const handOvers = new HandOvers(db);
  const slots = new Slots(db);
  const containers = new Containers(db);
  const stores = { db, notices, operations, nodes, containers, handOvers, slots };
  const queue = new WorkQueue(calls, settings.prefix, logger);
  const agents = new Agents(security);
  const closing = new AbortController();
  const around = { stores, agents, queue, settings, logger, closing: closing.signal };
  const runner = new Runner(around);
  const workers = new Workers({
    redis: blocking,
    prefix: settings.prefix,
    lockMs: settings.jobLockMs,
    run: (job) => runner.run(job),
    logger,
  });
  const sweeper = new Sweeper(around);
  const server = createServer(security);
  server.addService(ClusterServiceService, clusterService(around));
  server.addService(NodeServiceService, nodeService(around));
  const setServing = addDiscovery(server);
  calls.on('ready', () => setServing(true));
  calls.on('close', () => setServing(false));
  const closeAll = async () => {
    sweeper.stop();
    agents.close();
    security.close();
    await queue.close();
    notices.close();
    for (const redis of [calls, blocking]) redis.disconnect();
  };
  try {
    await notices.start();
    const port = await startServer(server, settings.listen, security);
    workers.start();
    sweeper.start();
    setServing(true);
    const address = settings.listen.replace(/:[0-9]+$/, `:${port}`);
    const close = async () => {
      setServing(false);
      closing.abort();
      await Promise.all([stopServer(server, callsGraceMs), workers.close()]);
      await closeAll();
    };
    return { address, close };
  } catch (error) {
    await closeAll();
    throw error;
  }
}

/** Refuses a folder of certificates that is somebody else's, and says aloud when there is none. */
function openSecurity(settings: Settings, logger: Logger): Security {
  const { tls, tokens, insecure, auditLog } = settings;
  const security = Security.open(
    { tls, tokens, insecure, auditLog },
    {
      onProblem: (text) => logger.error('security', { error: text }),
      onReload: () => logger.info('certificates were read again', { folder: tls }),
      onAudit: (entry) => logger.info('audit', entry),
    },
  );
  security.mayListen(settings.listen);
  security.mustBe({ role: 'controller' });
  if (security.isOpen) {
    logger.warn('INSECURE: whoever reaches this port can run anything on every node', {
      address: settings.listen,
      remedy: 'use --tls instead of --insecure',
    });
  }
  return security;
}
