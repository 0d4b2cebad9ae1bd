// An operator's program on the controller's machine: calls the API over and over, where a command line for each call
// would cost a start of Node.
import { type ClusterClient, connectCluster, MigrateContainerRequest, Security } from '@ferry/api';

/** What a migration is asked for with; the agents' own values where nothing is said. */
export interface Wishes {
  readonly mode: string;
  readonly maxDowntimeMs?: number;
  readonly onNoConvergence?: string;
}

/** The figures of a migration that went through. */
export interface Migrated {
  readonly to: string;
  /** When it was asked for and when its end was heard of, in this program's milliseconds. */
  readonly askedAt: number;
  readonly endedAt: number;
  readonly mode: string;
  readonly rounds: number;
  readonly downtimeMs: number;
  readonly totalMs: number;
  readonly bytesRaw: number;
  readonly bytesWire: number;
  readonly parts: readonly { readonly name: string; readonly ms: number }[];
  readonly warnings: readonly string[];
}

export interface OperatorCalls {
  /** Migrates, and waits for it.
   *  @throws when it does not go through */
  moved(name: string, to: string, wishes: Wishes): Promise<Migrated>;
  /** Begins a migration; gives the operation's id. */
  migrate(name: string, to: string, mode: string): Promise<string>;
  operation(id: string): Promise<{ state: string; error: string }>;
  /** What the cluster says of a container. */
  container(name: string): Promise<{ node: string; state: string } | undefined>;
}

const security = Security.open({ tls: process.env.FERRY_TLS, tokenFile: undefined });
const cluster: ClusterClient = connectCluster(process.env.FERRY_CONTROLLER ?? '', { security });

const SETTLED = ['succeeded', 'failed', 'cancelled', 'in-doubt'];

async function settled(id: string) {
  for await (const { operation } of cluster.watchOperation({ id })) {
    if (operation !== undefined && SETTLED.includes(operation.state)) return operation;
  }
  throw new Error(`Nobody told how ${id} ended`);
}

const calls: OperatorCalls = {
  moved: async (name, to, { mode, ...policy }) => {
    const request = MigrateContainerRequest.fromPartial({ name, to, mode, policy });
    const askedAt = performance.now();
    const { id } = await cluster.migrateContainer(request);
    const { result, error, state } = await settled(id);
    if (result?.$case !== 'migration') {
      throw new Error(`The migration of ${name} is ${state}: ${error?.code} ${error?.message}`);
    }
    const { rounds, downtimeMs, totalMs, bytesRaw, bytesWire, parts, warnings } = result.value;
    const bytes = { bytesRaw: Number(bytesRaw), bytesWire: Number(bytesWire) };
    const times = { askedAt, endedAt: performance.now(), downtimeMs, totalMs };
    return { to, mode: result.value.mode, rounds, ...times, ...bytes, parts, warnings };
  },
  migrate: async (name, to, mode) => {
    const request = MigrateContainerRequest.fromPartial({ name, to, mode });
    return (await cluster.migrateContainer(request)).id;
  },
  operation: async (id) => {
    const { state, error } = await cluster.getOperation({ id });
    return { state, error: error === undefined ? '' : `${error.code}: ${error.message}` };
  },
  container: async (name) => {
    const { containers } = await cluster.listContainers({ node: '' });
    const found = containers.find((line) => line.name === name);
    // What goes through the channel is JSON: no bigints.
    return found && { node: found.node, state: found.state };
  },
};

process.on('message', (message: { id: number; name: keyof OperatorCalls; args: never[] }) => {
  const call = calls[message.name] as (...args: unknown[]) => Promise<unknown>;
  call(...message.args).then(
    (value) => process.send?.({ id: message.id, value }),
    (error: unknown) => process.send?.({ id: message.id, error: String(error) }),
  );
});
process.on('disconnect', () => process.exit(0));
process.send?.({ ready: true });
