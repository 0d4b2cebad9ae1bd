import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import * as actions from '../support/actions.js';
import type { ClientMachine } from '../support/client-machine.js';
import { Cluster } from '../support/cluster.js';
import type { OperatorCalls } from '../support/operator-main.js';
import { run } from '../support/shell.js';
import type { PlainProgram } from './criu.js';
import { compile, isIntact, logHas } from './memory-program.js';
import type { Subject } from './moves.js';

const ECHO_PORT = 7000;
const COUNTER = 'counter';

/** Two hosts, and who asks them to move something. */
export interface Place {
  readonly cluster: Cluster;
  readonly operator: ClientMachine<OperatorCalls>;
}

/** Two hosts as they are in earnest: rehearsed, and with their journals on a tmpfs.
 *  @param insecure  without TLS */
export async function startBenchCluster(
  say: (line: string) => void,
  { insecure = false }: { insecure?: boolean } = {},
): Promise<Cluster> {
  const prepareHost = async (_host: string, stateDir: string): Promise<void> => {
    const journal = join(stateDir, 'run/journal');
    mkdirSync(journal, { recursive: true });
    await run('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', journal]);
  };
  const options = { hosts: ['h1', 'h2'], rehearsed: true, progress: say };
  return await Cluster.start({ ...options, insecure, prepareHost });
}

/** Runs a benchmark between two hosts, which are removed afterwards, whatever came of it. */
export async function betweenHosts<T>(
  say: (line: string) => void,
  body: (place: Place) => Promise<T>,
): Promise<T> {
  const cluster = await startBenchCluster(say);
  try {
    return await body({ cluster, operator: await cluster.operator() });
  } catch (error) {
    say(cluster.logTails());
    throw error;
  } finally {
    await cluster.remove();
  }
}

/** A container under test, and what is found to be wrong with it at its end. */
export interface Running extends Subject {
  /** Looks at everything that can have gone wrong so far, and says what did.
   *  @returns the number of mistakes */
  mistakes(): Promise<number>;
  /** The same for the last time; ends it. */
  stop(): Promise<number>;
  /** The same program for CRIU. */
  readonly plain: PlainProgram;
}

export interface Load {
  readonly mib: number;
  readonly mibPerSecond?: number;
  readonly threads?: number;
  readonly processes?: number;
  readonly mibOfEach?: number;
  /** Its memory is a shared object of this kind, and mapped by four processes. */
  readonly shared?: 'anonymous' | 'memfd';
  readonly connections?: number;
}

/** Starts the program `load` in a container, with its clients. */
export async function startLoad(place: Place, name: string, load: Load): Promise<Running> {
  const { cluster } = place;
  const rootfs = join(cluster.folder.path, 'rootfs-load');
  mkdirSync(join(rootfs, 'proc'), { recursive: true });
  for (const folder of ['sys', 'dev', 'tmp']) mkdirSync(join(rootfs, folder), { recursive: true });
  await compile('load', join(rootfs, 'load'));
  const { mib, mibPerSecond = 0, threads = 1, processes = 1, mibOfEach = 1, shared } = load;
  const numbers = [ECHO_PORT, mib, mibPerSecond, threads, processes, mibOfEach].map(String);
  if (shared !== undefined) numbers.push(shared);
  const args = ['--node', 'h1', '--rootfs', rootfs, '--', '/load', ...numbers];
  await cluster.ferryJson(['run', name, ...args]);
  await logHas(cluster, name, 'ready');
  const client = await cluster.client();
  const { address } = await actions.containerNamed(cluster, name);
  await client.call('startEcho', address.split('/')[0] ?? '', ECHO_PORT, load.connections ?? 1);
  const mistakes = async (): Promise<number> => {
    const { errors } = await client.call('echoReport');
    return errors.length + ((await isIntact(cluster, name)) ? 0 : 1);
  };
  // Every process has its memory once it has looked at it.
  if ((await mistakes()) > 0) throw new Error(`${name} is damaged before it was moved`);
  return {
    ...place,
    name,
    probe: {
      reset: () => client.call('resetEcho'),
      longestStallMs: async () => (await client.call('echoReport')).longestStallMs,
    },
    mistakes,
    plain: { argv: [join(rootfs, 'load'), ...numbers], cwd: cluster.folder.path },
    stop: async () => {
      const intact = await isIntact(cluster, name);
      const { errors } = await client.call('stopEcho');
      await cluster.ferryJson(['stop', name]);
      return errors.length + (intact ? 0 : 1);
    },
  };
}

export interface RedisLoad {
  readonly mib: number;
  readonly writesPerSecond: number;
  readonly connections: number;
}

export const VALUE_BYTES = 1000;

/** Keys of a Redis that holds so much. */
export function keysOf(mib: number): number {
  return Math.round((mib * 2 ** 20) / (VALUE_BYTES + 180));
}

/** Starts Redis, filled, in a container. */
export async function startFilledRedis(
  { cluster }: Place,
  name: string,
  mib: number,
): Promise<string> {
  const rootfs = await actions.makeRootfsFolders(cluster.folder.path);
  const address = await actions.runRedis(cluster, { name, node: 'h1', rootfs: rootfs.redis });
  const client = await cluster.client();
  const populate = ['DEBUG', 'POPULATE', String(keysOf(mib)), 'key', String(VALUE_BYTES)];
  await client.call('command', address, actions.REDIS_PORT, ...populate);
  await client.stop();
  return address;
}

/** The same Redis, on a UNIX socket. */
function plainRedis(cwd: string, mib: number): PlainProgram {
  const socket = join(cwd, 'plain-redis.sock');
  const settings = ['--port', '0', '--unixsocket', socket, '--save', '', '--appendonly', 'no'];
  const populate = ['DEBUG', 'POPULATE', String(keysOf(mib)), 'key', String(VALUE_BYTES)];
  return {
    argv: ['/usr/bin/redis-server', ...settings, '--enable-debug-command', 'yes'],
    cwd,
    prepare: async () => void (await run('redis-cli', ['-s', socket, ...populate])),
  };
}

/** Starts Redis with clients that write, and one more that counts: it has a request under way all the time. */
export async function startRedis(
  place: Place,
  name: string,
  load: RedisLoad,
  say: (line: string) => void,
): Promise<Running> {
  const { cluster } = place;
  const address = await startFilledRedis(place, name, load.mib);
  const [client, watcher] = [await cluster.client(), await cluster.client()];
  const { connections, writesPerSecond } = load;
  await client.call('startWriters', address, actions.REDIS_PORT, {
    ...{ connections, writesPerSecond, keys: keysOf(load.mib), valueBytes: VALUE_BYTES },
  });
  await watcher.call('startCounter', address, actions.REDIS_PORT, COUNTER);
  return {
    ...place,
    name,
    probe: {
      reset: () => watcher.call('resetStalls'),
      longestStallMs: async () => (await watcher.call('counterReport')).longestStallMs,
    },
    plain: plainRedis(cluster.folder.path, load.mib),
    mistakes: async () => {
      const { lostWrites, duplicatedWrites, errors } = await watcher.call('counterReport');
      const written = await client.call('writersReport');
      return lostWrites + duplicatedWrites + errors.length + written.errors.length;
    },
    stop: async () => {
      const { report, sameConnection } = await watcher.call('stopCounter', COUNTER);
      const written = await client.call('stopWriters');
      await Promise.all([client.stop(), watcher.stop()]);
      await cluster.ferryJson(['stop', name]);
      const { lostWrites, duplicatedWrites } = report;
      const failed = report.errors.length + written.errors.length;
      say(
        `${written.writes} writes, ${written.checkedKeys} keys read again: ${written.wrongKeys} wrong, ` +
          `${lostWrites} lost, ${duplicatedWrites} twice, ${failed} errors` +
          (sameConnection ? '' : ', connection lost'),
      );
      const lost = sameConnection ? 0 : 1;
      return written.wrongKeys + lostWrites + duplicatedWrites + failed + lost;
    },
  };
}
