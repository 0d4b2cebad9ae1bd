import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  type FaultPath,
  type FaultPoint,
  failingPoints,
} from '../../packages/migration/src/fault-points.js';
import * as actions from '../support/actions.js';
import type { ClientMachine } from '../support/client-machine.js';
import { Cluster } from '../support/cluster.js';
import type { OperatorCalls } from '../support/operator-main.js';
import { run, sleep, tryRun, until } from '../support/shell.js';

const KEYS = 2000;
const COUNTER = 'count';
/** Many count at once. */
const COUNTER_PAUSE_MS = 5;
const SETTLE_MS = 240_000;
const ATTEMPTS = 3;
const AGAIN_MS = 2000;
const FINAL = ['succeeded', 'failed', 'cancelled'];

/** What goes wrong while an agent is held at a fault point. `undo` makes it good again: what was killed is started. */
export interface Harm {
  readonly name: string;
  readonly happen: (arena: Arena, move: Move) => Promise<() => Promise<void>>;
}

export interface Move {
  readonly from: string;
  readonly to: string;
  /** The operation's, which is the migration's. */
  readonly id: string;
}

export interface Verdict {
  readonly state: string;
  readonly error: string;
  readonly reached: boolean;
}

interface Operation {
  readonly state: string;
  readonly error: string;
}

/** What a migration must not come to. */
export class Unsound extends Error {
  readonly kind: 'split' | 'lost' | 'unsettled';

  constructor(kind: Unsound['kind'], message: string) {
    super(message);
    this.kind = kind;
  }
}

/** Two hosts, a Redis container that moves between them, and a client that counts in it without pause. */
export class Arena {
  readonly cluster: Cluster;
  readonly #client: ClientMachine;
  readonly #operator: ClientMachine<OperatorCalls>;
  readonly #faults: string;

  private constructor(
    cluster: Cluster,
    machines: { client: ClientMachine; operator: ClientMachine<OperatorCalls> },
    faults: string,
  ) {
    this.cluster = cluster;
    this.#client = machines.client;
    this.#operator = machines.operator;
    this.#faults = faults;
  }

  static async make(): Promise<Arena> {
    let faults = '';
    const cluster = await Cluster.start({
      hosts: ['h1', 'h2'],
      agentArgs: ['--doubt-after-ms', '3000'],
      prepareRun: (folder) => {
        faults = join(folder, 'faults');
        mkdirSync(faults);
        return { FERRY_FAULT_DIR: faults };
      },
      prepareHost: async (_, stateDir) => {
        const journal = join(stateDir, 'run', 'journal');
        mkdirSync(journal, { recursive: true, mode: 0o700 });
        await run('mount', ['-t', 'tmpfs', '-o', 'size=8m,mode=700', 'ferry-journal', journal]);
      },
    });
    const rootfs = await actions.makeRootfsFolders(cluster.folder.path);
    const where = { name: 'redis', node: 'h1', rootfs: rootfs.redis };
    const address = await actions.runRedis(cluster, where);
    const client = await cluster.client();
    await client.call('fill', address, actions.REDIS_PORT, KEYS);
    await client.call('startCounter', address, actions.REDIS_PORT, COUNTER, COUNTER_PAUSE_MS);
    const operator = await cluster.operator();
    return new Arena(cluster, { client, operator }, faults);
  }

  /** Where the container runs now. */
  async place(): Promise<Omit<Move, 'id'>> {
    const from = await until('the container', async () => {
      const line = await this.#operator.call('container', 'redis');
      return line?.state === 'running' ? line.node : undefined;
    });
    return { from, to: from === 'h1' ? 'h2' : 'h1' };
  }

  /** Moves the container, does harm when `point` is reached on `path`, makes it good, and waits for what comes of it.
   *  @throws when it comes to no end, or not to a good one */
  async trial(path: FaultPath, point: FaultPoint, harm: Harm): Promise<Verdict> {
    let verdict = await this.#attempt(path, point, harm);
    // What the case before did to the hosts may have stopped it on its way there: nodes that are not heard again yet.
    for (let more = ATTEMPTS - 1; more > 0 && !verdict.reached; more--) {
      await sleep(AGAIN_MS);
      verdict = await this.#attempt(path, point, harm);
    }
    return verdict;
  }

  async #attempt(path: FaultPath, point: FaultPoint, harm: Harm): Promise<Verdict> {
    const place = await this.place();
    this.#arm(path, point);
    const id = await this.#migrate(place.to, path === 'memory follows' ? 'post-copy' : '');
    const move = { ...place, id };
    const reached = await this.#reached(id);
    const undo = reached ? await harm.happen(this, move) : nothing;
    writeFileSync(join(this.#faults, 'go'), '');
    await undo();
    const operation = await this.#settled(id);
    await this.#sound(operation, move);
    return { ...operation, reached };
  }

  #arm(path: FaultPath, point: FaultPoint): void {
    for (const name of readdirSync(this.#faults)) rmSync(join(this.#faults, name));
    writeFileSync(join(this.#faults, `at.${point}`), '');
    const failing = failingPoints[path];
    if (failing !== undefined) writeFileSync(join(this.#faults, `fail.${failing}`), '');
  }

  /** Both nodes have to have registered again after what the trial before did to them. */
  async #migrate(to: string, mode: string): Promise<string> {
    return until(
      'a migration to be accepted',
      () => this.#operator.call('migrate', 'redis', to, mode).catch(retriable),
      { timeoutMs: SETTLE_MS, everyMs: 200 },
    );
  }

  /** False when the migration ended without having come there. */
  async #reached(id: string): Promise<boolean> {
    let looks = 0;
    return await until(
      'the fault point',
      async () => {
        if (existsSync(join(this.#faults, 'reached'))) return 'yes';
        looks += 1;
        if (looks % 20 > 0) return undefined;
        return FINAL.includes((await this.#operator.call('operation', id)).state)
          ? 'no'
          : undefined;
      },
      { timeoutMs: SETTLE_MS, everyMs: 25 },
    ).then((answer) => answer === 'yes');
  }

  async #settled(id: string): Promise<Operation> {
    let last: Operation | undefined;
    try {
      return await until(
        'the migration to settle',
        async () => {
          last = await this.#operator.call('operation', id);
          return FINAL.includes(last.state) ? last : undefined;
        },
        { timeoutMs: SETTLE_MS, everyMs: 300 },
      );
    } catch (error) {
      throw new Error(`It stays ${JSON.stringify(last)}`, { cause: error });
    }
  }

  /** One copy, which the client counts on in, over the same connection; nothing anywhere else. */
  async #sound(operation: Operation, move: Move): Promise<void> {
    const there = operation.state === 'succeeded' ? move.to : move.from;
    const other = there === move.to ? move.from : move.to;
    const text = `${operation.state}: ${operation.error}`;
    await until(
      `one copy on ${there} and nothing on ${other} (${text})`,
      async () => {
        const copies = [this.#traces(there).length > 0, this.#traces(other).length > 0];
        return copies[0] && !copies[1] && this.#unsettled().length === 0 ? true : undefined;
      },
      { timeoutMs: SETTLE_MS, everyMs: 200 },
    ).catch((error: unknown) => {
      const left = [...this.#traces(other), ...this.#unsettled()];
      const copies = [there, other].filter((host) => this.#traces(host).length > 0).length;
      const kind = copies === 1 ? 'unsettled' : copies === 0 ? 'lost' : 'split';
      throw new Unsound(kind, `${(error as Error).message}; left: ${left.join(', ')}`);
    });
    const before = await this.#client.call('counterReport');
    await until(
      'the client to count on',
      async () => {
        const now = await this.#client.call('counterReport');
        return now.replies > before.replies + 5 ? true : undefined;
      },
      { timeoutMs: SETTLE_MS, everyMs: 200 },
    );
    const { errors, lostWrites, duplicatedWrites } = await this.#client.call('counterReport');
    if (errors.length > 0 || lostWrites > 0 || duplicatedWrites > 0) {
      const kind = duplicatedWrites > 0 ? 'split' : 'lost';
      throw new Unsound(
        kind,
        `client: ${errors.join()}, ${lostWrites} lost, ${duplicatedWrites} twice`,
      );
    }
    await until(
      'the controller to know',
      async () => {
        const line = await this.#operator.call('container', 'redis');
        return line?.node === there && line.state === 'running' ? true : undefined;
      },
      { timeoutMs: SETTLE_MS, everyMs: 200 },
    );
  }

  /** It has been let go at the destination, or is about to be. */
  runsThere({ to, id }: Move): boolean {
    const entry = join(this.journalOf(to), `${id}.json`);
    if (!existsSync(entry)) return false;
    return /"decision":"(granted|fetching|resumed|succeeded)"/.test(readFileSync(entry, 'utf8'));
  }

  /** What a host has of the container: records, processes, device, namespace. */
  #traces(host: string): string[] {
    const state = this.cluster.stateDir(host);
    const folders = [join(state, 'containers'), join(state, 'run', 'netns')];
    return folders.flatMap((folder) =>
      existsSync(folder) ? readdirSync(folder).map((name) => `${host}: ${folder}/${name}`) : [],
    );
  }

  /** Journal entries that something is still to be done about. */
  #unsettled(): string[] {
    return this.cluster.hosts.flatMap((host) => {
      const folder = this.journalOf(host);
      const entries = readdirSync(folder).filter((name) => name.endsWith('.json'));
      return entries.filter((name) => {
        const text = readFileSync(join(folder, name), 'utf8');
        return /"decision":"(committed|returned|receiving|granted|fetching|resumed)"/.test(text);
      });
    });
  }

  /** The last lines of every log. */
  logTails(): string {
    return this.cluster.logTails();
  }

  journalOf(host: string): string {
    return join(this.cluster.stateDir(host), 'run', 'journal');
  }

  async end(): Promise<string[]> {
    const { sameConnection } = await this.#client.call('stopCounter', COUNTER);
    await this.cluster.ferry(['stop', 'redis']);
    for (const host of this.cluster.hosts) await run('umount', ['-l', this.journalOf(host)]);
    const left = await this.cluster.shutDown();
    const kept = await this.cluster.remove();
    return [...(sameConnection ? [] : ['the client had to connect again']), ...left, ...kept];
  }
}

const nothing = async () => undefined;

/** A controller that is starting, and nodes that it has not heard yet. */
function retriable(error: unknown): undefined {
  const known = /rpc\.|node\.|UNAVAILABLE|container\.busy|container\.state/.test(String(error));
  if (!known) throw error;
  return undefined;
}

function kill(who: (move: Move) => string, start: (arena: Arena, name: string) => Promise<void>) {
  return async (arena: Arena, move: Move) => {
    const name = who(move);
    await arena.cluster.end(name, 'SIGKILL');
    return () => start(arena, name);
  };
}

const startAgent = (arena: Arena, name: string) => arena.cluster.startAgent(name);

/** A route that leads nowhere: what `host` sends to `address` is lost; what comes from there arrives. */
function cut(
  pairs: (arena: Arena, move: Move) => readonly (readonly [string, string])[],
  ms: number,
) {
  return async (arena: Arena, move: Move) => {
    const routes = pairs(arena, move);
    const change = async (verb: string) => {
      for (const [host, address] of routes) {
        const namespace = arena.cluster.network.namespace(host);
        await tryRun('ip', ['-n', namespace, 'route', verb, 'blackhole', `${address}/32`]);
      }
    };
    await change('add');
    return async () => {
      await sleep(ms);
      await change('del');
    };
  };
}

function hang(who: (move: Move) => string, ms: number) {
  return async (arena: Arena, move: Move) => {
    const pid = arena.cluster.pidOf(who(move));
    process.kill(pid, 'SIGSTOP');
    return async () => {
      await sleep(ms);
      process.kill(pid, 'SIGCONT');
    };
  };
}

const source = ({ from }: Move) => from;
const destination = ({ to }: Move) => to;

const at = (arena: Arena, host: string) => arena.cluster.addressOf(host);
/** For so long a process hangs; for so long a link is cut, and a disk full. */
const HANG_MS = 30_000;
const CUT_MS = 8000;

export const harms: readonly Harm[] = [
  { name: 'kill -9 of the source', happen: kill(source, startAgent) },
  { name: 'kill -9 of the destination', happen: kill(destination, startAgent) },
  {
    name: 'kill -9 of the controller',
    happen: kill(
      () => 'controller',
      (arena) => arena.cluster.startController(),
    ),
  },
  {
    name: 'kill -9 of Redis',
    happen: kill(
      () => 'redis',
      (arena) => arena.cluster.startRedis(),
    ),
  },
  {
    name: 'the agents cut off from each other',
    happen: cut(
      (arena, { from, to }) => [
        [from, at(arena, to)],
        [to, at(arena, from)],
      ],
      CUT_MS,
    ),
  },
  {
    name: 'the source not heard by the destination',
    happen: cut((arena, { from, to }) => [[from, at(arena, to)]], CUT_MS),
  },
  {
    name: 'the destination not heard by the source',
    happen: cut((arena, { from, to }) => [[to, at(arena, from)]], CUT_MS),
  },
  {
    name: 'the source cut off from the controller',
    happen: cut((_, { from }) => [[from, '10.77.0.2']], CUT_MS),
  },
  {
    name: 'the destination cut off from the controller',
    happen: cut((_, { to }) => [[to, '10.77.0.2']], CUT_MS),
  },
  { name: 'the source hangs', happen: hang(source, HANG_MS) },
  { name: 'the destination hangs', happen: hang(destination, HANG_MS) },
  { name: 'the disk of the destination is full', happen: fullDisk(CUT_MS) },
  { name: 'no memory for the container at the destination', happen: noMemory },
];

/** The journal is what must be written there; each lies on a small file system of its own. */
function fullDisk(ms: number) {
  return async (arena: Arena, { to }: Move) => {
    // Such a name is what an agent that starts removes: as what a write has left that came to no end.
    const fill = join(arena.journalOf(to), 'fill.new');
    await tryRun('dd', ['if=/dev/zero', `of=${fill}`, 'bs=4k']);
    return async () => {
      await sleep(ms);
      rmSync(fill, { force: true });
    };
  };
}

/** None of a cgroup that is gone by now. */
function linesOf(file: string): string[] {
  try {
    return readFileSync(file, 'utf8').split('\n');
  } catch {
    return [];
  }
}

/** What has been restored there is killed as the kernel does it when memory runs out. */
async function noMemory(arena: Arena, move: Move): Promise<() => Promise<void>> {
  const parent = `ferry-${arena.cluster.folder.id}-${move.to}`;
  const { stdout } = await tryRun('find', [
    ...['/sys/fs/cgroup', '-path', `*${parent}/*`, '-name', 'cgroup.procs'],
  ]);
  // Once it runs there, that would be the end of the program by its host's doing, which no protocol undoes.
  if (arena.runsThere(move)) return nothing;
  const files = stdout.split('\n').filter((file) => file !== '');
  const pids = new Set(files.flatMap(linesOf).filter((line) => line !== ''));
  for (const pid of pids) await tryRun('kill', ['-9', pid]);
  return nothing;
}
