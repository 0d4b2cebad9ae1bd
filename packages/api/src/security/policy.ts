import { AgentServiceService } from '../generated/ferry/cluster/v1/agent.js';
import { ClusterServiceService } from '../generated/ferry/cluster/v1/cluster.js';
import {
  type DestinationMessage,
  MigrationSourceService,
} from '../generated/ferry/cluster/v1/migration_source.js';
import { NodeServiceService } from '../generated/ferry/cluster/v1/node.js';
import type { Role } from './identity.js';

/** Who may call a method, and whether it changes anything (then it is put on record). */
export interface Rule {
  /** `anyone`: also who did not say who he is. */
  readonly roles: readonly Role[] | 'anyone';
  readonly mutates: boolean;
  /** The name in a message that must be the caller's own; undefined: this message has none. */
  readonly own?: (message: never) => string | undefined;
}

type Rules<Service> = { readonly [Method in keyof Service]: Rule };

const see = { roles: ['viewer', 'operator', 'admin'], mutates: false } as const;
const run = { roles: ['operator', 'admin'], mutates: true } as const;
/** Reads what people keep secret: the memory of programs. */
const fetch = { roles: ['operator', 'admin'], mutates: true } as const;

const cluster: Rules<typeof ClusterServiceService> = {
  listContainers: see,
  containerLogs: see,
  listNodes: see,
  getOperation: see,
  listOperations: see,
  watchOperation: see,
  runContainer: run,
  stopContainer: run,
  checkpointContainer: run,
  downloadCheckpoint: fetch,
  deleteCheckpoint: run,
  uploadCheckpoint: run,
  restoreContainer: run,
  migrateContainer: run,
  drainNode: run,
  cordonNode: run,
  uncordonNode: run,
  cancelOperation: run,
  resolveOperation: run,
};

const named = (message: { name: string }) => message.name;

const node: Rules<typeof NodeServiceService> = {
  registerNode: { roles: ['agent'], mutates: true, own: named },
  // Every two seconds from each host: what it changes is told by what it follows from.
  heartbeat: { roles: ['agent'], mutates: false, own: named },
};

const ask = { roles: ['controller', 'admin'], mutates: false } as const;
const command = { roles: ['controller', 'admin'], mutates: true } as const;

const agent: Rules<typeof AgentServiceService> = {
  listContainers: ask,
  containerLogs: ask,
  describeContainer: ask,
  preflight: ask,
  queryMigration: ask,
  runContainer: command,
  stopContainer: command,
  checkpointContainer: command,
  fetchCheckpoint: command,
  storeCheckpoint: command,
  deleteCheckpoint: command,
  restoreContainer: command,
  cancelWork: command,
  receiveMigration: command,
  cancelMigration: command,
  resolveMigration: command,
};

const pull = { roles: ['agent'], mutates: false } as const;

const source: Rules<typeof MigrationSourceService> = {
  session: {
    roles: ['agent'],
    mutates: true,
    own: ({ message }: DestinationMessage) =>
      message?.$case === 'open' ? message.value.destinationNode : undefined,
  },
  pullPages: pull,
  pullLayer: pull,
  pullState: pull,
  fetchPages: pull,
};

const others: Readonly<Record<string, Rule>> = {
  '/grpc.health.v1.Health/Check': { roles: 'anyone', mutates: false },
  '/grpc.health.v1.Health/Watch': { roles: 'anyone', mutates: false },
  '/grpc.health.v1.Health/List': { roles: 'anyone', mutates: false },
  '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo': see,
  '/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo': see,
};

const rules: ReadonlyMap<string, Rule> = new Map([
  ...Object.entries(others),
  ...byPath(ClusterServiceService, cluster),
  ...byPath(NodeServiceService, node),
  ...byPath(AgentServiceService, agent),
  ...byPath(MigrationSourceService, source),
]);

function byPath<Service extends Readonly<Record<string, { readonly path: string }>>>(
  service: Service,
  table: Readonly<Record<string, Rule>>,
): [string, Rule][] {
  return Object.entries(table).map(([method, rule]) => [service[method]?.path ?? '', rule]);
}

/** The rule for a method, by its path `/package.Service/Method`; undefined: nobody may call it. */
export function ruleOf(path: string): Rule | undefined {
  return rules.get(path);
}
