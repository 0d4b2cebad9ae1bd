import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect, type TLSSocket } from 'node:tls';
import {
  AgentServiceService,
  ContainerSpec,
  DestinationMessage,
  MigrationSourceService,
  ReceiveMigrationRequest,
  type Role,
  Security,
  StoreCheckpointMessage,
} from '@ferry/api';
import { Client, type ClientDuplexStream } from '@grpc/grpc-js';
import { certificateFolder } from '../../../test/support/certificates.js';
import { tracesOf } from '../../../test/support/traces.js';
import { TwoAgents } from './support/two-agents.js';

/** FUZZ_SEED repeats a run, FUZZ_MS makes it longer. */
const seed = Number(process.env.FUZZ_SEED ?? randomInt(2 ** 31));
const budgetMs = Number(process.env.FUZZ_MS ?? 4000);
const GROWTH_MIB_MAX = 200;

/** Numbers from a seed (mulberry32). */
function randomOf(from: number) {
  let state = from;
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (limit: number) => Math.floor(next() * limit);
  const bytes = (length: number) => Buffer.from(Array.from({ length }, () => below(256)));
  return { below, bytes };
}
type Random = ReturnType<typeof randomOf>;

/** A message with some of its bytes changed, cut out, doubled, or with others put in. */
function mutated(random: Random, message: Buffer): Buffer {
  let result = Buffer.from(message);
  for (let times = 1 + random.below(4); times > 0; times -= 1) {
    const at = random.below(result.length + 1);
    const [head, tail] = [result.subarray(0, at), result.subarray(at)];
    switch (random.below(5)) {
      case 0:
        if (at < result.length) result[at] = random.below(256);
        break;
      case 1:
        result = Buffer.concat([head, tail.subarray(random.below(16))]);
        break;
      case 2:
        result = Buffer.concat([head, random.bytes(1 + random.below(32)), tail]);
        break;
      case 3:
        result = Buffer.concat([head, tail, tail]);
        break;
      default:
        // A length that promises far more than there is.
        result = Buffer.concat([head, Buffer.from([0xff, 0xff, 0xff, 0xff, 0x07]), tail]);
    }
  }
  return result;
}

/** Messages that look right. None of them may lead to anything: what they name is not there. */
function seedsOf(two: TwoAgents): Record<string, Buffer> {
  const journey = { migrationId: 'fuzz', container: 'nosuch', epoch: 2n };
  const receive = { ...two.receiveRequest(journey, 'h1', 'h2'), sourceAddress: '127.0.0.1:1' };
  const { ticket } = two.receiveRequest(journey, 'h1', 'h2');
  const open = { ...journey, destinationNode: 'h2', again: false, ticket };
  const spec = ContainerSpec.fromPartial({
    ...{ name: 'fuzz', rootfs: '/no/such/rootfs', args: ['/bin/true'], env: ['A=b'] },
    ...{ mounts: [{ source: '/', destination: '/x' }], labels: { a: 'b' } },
  });
  const encoded: Record<string, Uint8Array> = {
    runContainer: AgentServiceService.runContainer.requestSerialize({
      ...{ operationId: 'fuzz', spec, epoch: 1n },
    }),
    storeCheckpoint: StoreCheckpointMessage.encode({
      message: { $case: 'checkpointId', value: 'fuzz' },
    }).finish(),
    receiveMigration: ReceiveMigrationRequest.encode(
      ReceiveMigrationRequest.fromPartial(receive),
    ).finish(),
    session: DestinationMessage.encode(
      DestinationMessage.fromPartial({ message: { $case: 'open', value: open } }),
    ).finish(),
  };
  return Object.fromEntries(
    Object.entries(encoded).map(([name, bytes]) => [name, Buffer.from(bytes)]),
  );
}

describe('agent: what comes from the network is hostile', function () {
  this.timeout(120_000 + 4 * budgetMs);
  let two: TwoAgents;
  let agent: ChildProcess;
  let processes: number;
  let memoryMib: number;
  const open: Security[] = [];

  before(async () => {
    two = await TwoAgents.start();
    await two.stopAgent('h1');
    agent = await two.startProgram('h1');
    await two.states('h1');
    processes = tracesOf(two.folder.id).processes.length;
    memoryMib = memoryOf(agent);
  });
  after(async () => {
    for (const security of open) security.close();
    assert.deepEqual(await two.remove(), []);
  });

  function memoryOf({ pid }: ChildProcess): number {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    return Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1]) / 1024;
  }

  /** It lives, answers, has taken nothing in, started nothing, and holds no more memory than before. */
  async function unharmed(): Promise<void> {
    const hint = `FUZZ_SEED=${seed}\n${two.log.slice(-5).join('')}`;
    assert.equal(agent.exitCode ?? agent.signalCode, null, `it ended: ${hint}`);
    assert.deepEqual(await two.states('h1'), {}, hint);
    assert.ok(tracesOf(two.folder.id).processes.length <= processes, `a process began: ${hint}`);
    const grown = memoryOf(agent) - memoryMib;
    assert.ok(grown < GROWTH_MIB_MAX, `it grew by ${grown} MiB: ${hint}`);
    const kept = readdirSync(join(two.stateDir('h1'), 'checkpoints'));
    assert.deepEqual(kept, [], hint);
  }

  function as(role: Role, name: string): Security {
    const security = Security.open({ tls: certificateFolder(two.folder.path, { role, name }) });
    open.push(security);
    return security;
  }

  /** Sends raw messages to one method; whatever comes back is right, as long as something does. */
  async function send(client: Client, path: string, messages: readonly Buffer[]): Promise<void> {
    await new Promise<void>((resolve) => {
      const raw = (bytes: Buffer) => bytes;
      const deadline = Date.now() + 2000;
      const call = client.makeBidiStreamRequest(path, raw, raw, { deadline }) as ClientDuplexStream<
        Buffer,
        Buffer
      >;
      call.on('data', () => {}).on('error', () => {});
      call.on('status', () => resolve());
      for (const message of messages) call.write(message);
      call.end();
    });
  }

  it('messages that are nearly right, to every method', async () => {
    const random = randomOf(seed);
    const seeds = seedsOf(two);
    const security = {
      AgentServiceService: as('controller', 'c'),
      MigrationSourceService: as('agent', 'h2'),
    };
    const { address } = two.reach('h1');
    const targets = Object.entries({ AgentServiceService, MigrationSourceService }).map(
      ([name, service]) => {
        const own = security[name as keyof typeof security];
        const client = new Client(address, own.channelCredentials(address, { role: 'agent' }));
        return { client, methods: Object.entries(service) };
      },
    );
    let sent = 0;
    for (const end = Date.now() + budgetMs; Date.now() < end; ) {
      const { client, methods } = targets[random.below(targets.length)]!;
      const calls = Array.from({ length: 8 }, () => {
        const [name, { path }] = methods[random.below(methods.length)]!;
        const base = seeds[name] ?? Buffer.from('\n\u0004fuzz');
        const count = 1 + random.below(3);
        const make = () =>
          random.below(4) === 0 ? random.bytes(random.below(300)) : mutated(random, base);
        return send(client, path, Array.from({ length: count }, make));
      });
      await Promise.all(calls);
      sent += calls.length;
    }
    for (const { client } of targets) client.close();
    assert.ok(sent > 20, `only ${sent} calls`);
    await unharmed();
  });

  async function connection(own: Security): Promise<TLSSocket> {
    const [host = '', port = ''] = two.reach('h1').address.split(':');
    return await new Promise((resolve, reject) => {
      const options = { host, port: Number(port), secureContext: own.tls!.secureContext() };
      const trust = { checkServerIdentity: () => undefined, ALPNProtocols: ['h2'] };
      const socket = connect({ ...options, ...trust }, () => resolve(socket));
      socket.once('error', reject);
      socket.on('error', () => {});
    });
  }

  it('bytes that are no HTTP/2, and frames that are nearly right', async () => {
    const random = randomOf(seed + 1);
    const own = as('controller', 'raw');
    const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
    const settings = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let connections = 0;
    for (const end = Date.now() + budgetMs; Date.now() < end; connections += 1) {
      const socket = await connection(own);
      const closed = new Promise((resolve) => socket.once('close', resolve));
      socket.resume();
      if (random.below(4) > 0) socket.write(Buffer.concat([preface, settings]));
      for (let frames = random.below(20); frames > 0; frames -= 1) {
        const payload = random.bytes(random.below(200));
        const length = random.below(5) === 0 ? random.below(2 ** 24) : payload.length;
        const head = Buffer.alloc(9);
        head.writeUIntBE(length, 0, 3);
        head[3] = random.below(12);
        head[4] = random.below(256);
        head.writeUInt32BE(random.below(2 ** 31), 5);
        socket.write(Buffer.concat([head, payload]));
      }
      socket.end();
      await Promise.race([closed, new Promise((resolve) => setTimeout(resolve, 500))]);
      socket.destroy();
    }
    assert.ok(connections > 5, `only ${connections} connections`);
    await unharmed();
  });

  it('and whoever has no certificate does not come that far', async () => {
    const random = randomOf(seed + 2);
    const bare = Security.open({});
    const { address } = two.reach('h1');
    const client = new Client(address, bare.channelCredentials(address, { role: 'agent' }));
    await send(client, AgentServiceService.listContainers.path, [random.bytes(20)]);
    client.close();
    await unharmed();
  });
});
