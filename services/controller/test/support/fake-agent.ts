import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  AgentServiceService,
  ApiError,
  Container,
  ContainerDescription,
  ContainerSpec,
  clientStream,
  connectAgent,
  connectNodeService,
  createServer,
  type FileChunk,
  HostFacts,
  MigrationResult,
  MigrationStatus,
  type NodeClient,
  type Problem,
  Progress,
  type StoreCheckpointMessage,
  serverStream,
  startServer,
  stopServer,
  toErrorDetail,
  unary,
} from '@ferry/api';
import { FerryError } from '@ferry/core';
import type { Server } from '@grpc/grpc-js';

const gib = 1024n ** 3n;

interface FakeMigration {
  status: MigrationStatus;
  progress: Progress[];
  cancelAsked: boolean;
  readonly ended: Promise<void>;
}

/** An agent that keeps its containers in memory. It talks real gRPC, obeys the contract of
 *  agent.proto (calls are idempotent, a broken stream ends nothing), and can be told to be slow,
 *  full, or gone. */
export class FakeAgent {
  readonly name: string;
  readonly containers = new Map<string, Container>();
  readonly migrations = new Map<string, FakeMigration>();
  readonly files = new Map<string, { container: string; bytes: Buffer }>();
  /** It has crashed: what it was doing never goes on. */
  dead = false;
  /** Names of calls as they came. */
  readonly calls: string[] = [];
  freeBytes = 8n * gib;
  problems: Problem[] = [];
  /** Steps of a migration and the time each takes, before and after the point of no return. */
  steps = { beforeCommit: 5, afterCommit: 1, ms: 10 };
  /** Set: what a migration into this agent fails with after its first step. */
  failWith: Error | undefined;
  /** What fails here has failed before its source had begun with it. */
  unbegun = false;
  runMs = 0;
  /** Files of checkpoints change after their hash was told. */
  damageFiles = false;
  address = '';
  /** Most migrations into any agents at once, as seen by whoever shares the counter. */
  load = { now: 0, most: 0 };
  readonly #cancelledWork = new Set<string>();
  readonly #works = new Map<string, Promise<Container>>();
  readonly #facts: Partial<HostFacts>;
  #server: Server | undefined;
  #controller: NodeClient | undefined;
  #beat: NodeJS.Timeout | undefined;

  constructor(name: string, facts: Partial<HostFacts> = {}) {
    this.name = name;
    this.#facts = facts;
  }

  /** Serves, registers, and keeps up its heartbeat every 100 ms. */
  async start(controller: string, listen = '127.0.0.1:0'): Promise<void> {
    const server = createServer();
    server.addService(AgentServiceService, this.#implementation());
    const port = await startServer(server, listen);
    this.#server = server;
    this.address = `127.0.0.1:${port}`;
    await this.join(controller);
  }

  /** Registers with a (or another) controller. */
  async join(controller: string): Promise<void> {
    this.#controller?.close();
    const client = connectNodeService(controller);
    this.#controller = client;
    const facts = HostFacts.fromPartial({ architecture: 'x86_64', ...this.#facts });
    await client.registerNode({ name: this.name, address: this.address, facts });
    await this.beat();
    clearInterval(this.#beat);
    this.#beat = setInterval(() => void this.beat().catch(() => {}), 100);
  }

  async beat(): Promise<void> {
    const resources = { memoryFreeBytes: this.freeBytes, diskFreeBytes: 100n * gib, load: 0 };
    const containers = [...this.containers.values()];
    const { name, address } = this;
    await this.#controller?.heartbeat({ name, address, resources, containers, handOvers: [] });
  }

  /** Heartbeats end, the server stays. */
  silence(): void {
    clearInterval(this.#beat);
  }

  /** The server is gone at once, with its streams; what it knows stays. */
  async stop(): Promise<void> {
    this.silence();
    this.#controller?.close();
    this.#controller = undefined;
    if (this.#server !== undefined) await stopServer(this.#server, 0);
    this.#server = undefined;
  }

  /** What the fake keeps of a container without a controller. */
  hold(name: string, fields: Partial<Container> = {}): Container {
    const spec = ContainerSpec.fromPartial({ name, args: ['/bin/true'] });
    const container = Container.fromPartial({
      ...{ name, state: 'running', epoch: 1n, pid: 100, spec, memoryBytes: 1024n ** 2n },
      ...fields,
    });
    this.containers.set(name, container);
    return container;
  }

  #implementation() {
    return {
      runContainer: unary(
        async (request: {
          operationId: string;
          spec?: ContainerSpec | undefined;
          epoch: bigint;
        }) => {
          this.calls.push(`run ${request.spec?.name}`);
          const known = this.#works.get(request.operationId);
          const work = known ?? this.#run(request);
          this.#works.set(request.operationId, work);
          return await work;
        },
      ),
      stopContainer: unary(async ({ name, remove }: { name: string; remove: boolean }) => {
        this.calls.push(`stop ${name}`);
        const container = this.containers.get(name);
        if (remove) this.containers.delete(name);
        else if (container !== undefined) {
          this.containers.set(name, { ...container, state: 'exited', exitStatus: 143, pid: 0 });
        }
        return {};
      }),
      listContainers: unary(() => ({ containers: [...this.containers.values()] })),
      containerLogs: serverStream(this.#logs.bind(this)),
      describeContainer: unary(({ name }: { name: string }) => this.#describe(name)),
      preflight: unary(() => {
        this.calls.push('preflight');
        return { problems: this.problems, warnings: [] };
      }),
      checkpointContainer: serverStream(this.#checkpoint.bind(this)),
      fetchCheckpoint: serverStream(this.#fetch.bind(this)),
      storeCheckpoint: clientStream(this.#store.bind(this)),
      deleteCheckpoint: unary(({ checkpointId }: { checkpointId: string }) => {
        this.calls.push(`delete ${checkpointId}`);
        this.files.delete(checkpointId);
        return {};
      }),
      restoreContainer: serverStream(this.#restore.bind(this)),
      cancelWork: unary(({ operationId }: { operationId: string }) => {
        this.calls.push(`cancelWork ${operationId}`);
        this.#cancelledWork.add(operationId);
        return {};
      }),
      receiveMigration: serverStream(this.#receive.bind(this)),
      queryMigration: unary(({ migrationId }: { migrationId: string }) => {
        this.calls.push(`query ${migrationId}`);
        return this.#status(migrationId);
      }),
      cancelMigration: unary(({ migrationId }: { migrationId: string }) =>
        this.#cancel(migrationId),
      ),
      resolveMigration: unary(
        ({ migrationId, decision }: { migrationId: string; decision: string }) => {
          this.calls.push(`resolve ${migrationId} ${decision}`);
          const copy = decision === 'run-here' ? 'runs' : 'none';
          return MigrationStatus.fromPartial({ migrationId, state: 'succeeded', copy });
        },
      ),
    };
  }

  async #run(request: { operationId: string; spec?: ContainerSpec | undefined; epoch: bigint }) {
    for (let waited = 0; waited < this.runMs; waited += 10) {
      await sleep(10);
      if (this.#cancelledWork.has(request.operationId)) {
        throw new FerryError('run.cancelled', 'Cancelled as asked');
      }
    }
    const spec = request.spec ?? ContainerSpec.create();
    if (spec.args[0] === '/missing') {
      throw new FerryError('run.program', 'No such program', { remedy: 'check the path' });
    }
    const address = spec.network?.address ?? '';
    return this.hold(spec.name, { spec, epoch: request.epoch, address });
  }

  async *#logs(
    { options }: { options?: { follow: boolean } | undefined },
    { signal }: { signal: AbortSignal },
  ) {
    yield { stream: 'stdout', data: Buffer.from('one\n') };
    yield { stream: 'stderr', data: Buffer.from('two\n') };
    for (let line = 0; options?.follow; line += 1) {
      yield { stream: 'stdout', data: Buffer.from(`follow ${line}\n`) };
      await sleep(20, undefined, { signal });
    }
  }

  #describe(name: string): ContainerDescription {
    const container = this.containers.get(name);
    if (container === undefined) {
      throw new FerryError('container.unknown', `${this.name} has no container "${name}"`);
    }
    const { memoryBytes } = container;
    return ContainerDescription.fromPartial({ container, memoryBytes });
  }

  async *#checkpoint(request: { name: string; checkpointId: string; leaveRunning: boolean }) {
    this.#describe(request.name);
    for (let step = 1; step <= 3; step += 1) {
      yield progressEvent({ phase: 'pages', fraction: step / 4 });
      await sleep(this.steps.ms);
      if (this.#cancelledWork.has(request.checkpointId)) {
        throw new FerryError('checkpoint.cancelled', 'Cancelled as asked');
      }
    }
    const bytes = Buffer.alloc(3 * 1024 * 1024 + 17, request.name);
    const kept = Buffer.from(bytes);
    if (this.damageFiles) kept[kept.length - 1] = 0;
    this.files.set(request.checkpointId, { container: request.name, bytes: kept });
    if (!request.leaveRunning) this.containers.delete(request.name);
    const value = {
      ...{ checkpointId: request.checkpointId, container: request.name, node: '' },
      ...{ sizeBytes: BigInt(bytes.length), sha256: sha256(bytes), downtimeMs: 1, totalMs: 2 },
      warnings: ['a fake has no memory'],
    };
    yield { event: { $case: 'result' as const, value } };
  }

  async *#fetch({ checkpointId, offset }: { checkpointId: string; offset: bigint }) {
    const file = this.files.get(checkpointId);
    if (file === undefined) throw new FerryError('checkpoint.unknown', 'No such checkpoint');
    const sizeBytes = BigInt(file.bytes.length);
    for (let at = Number(offset); at < file.bytes.length; at += 1024 * 1024) {
      yield { offset: BigInt(at), data: file.bytes.subarray(at, at + 1024 * 1024), sizeBytes };
    }
  }

  async #store(messages: AsyncIterable<StoreCheckpointMessage>) {
    let id = '';
    const parts: Buffer[] = [];
    for await (const { message } of messages) {
      if (message?.$case === 'checkpointId') id = message.value;
      if (message?.$case === 'chunk') parts.push(Buffer.from(message.value.data));
    }
    const bytes = Buffer.concat(parts);
    this.files.set(id, { container: 'stored', bytes });
    return { sizeBytes: BigInt(bytes.length), sha256: sha256(bytes), container: 'stored' };
  }

  async *#restore(request: { checkpointId: string; name: string; epoch: bigint }) {
    if (!this.files.has(request.checkpointId)) {
      throw new FerryError('checkpoint.unknown', 'No such checkpoint');
    }
    yield progressEvent({ phase: 'restore', fraction: 0.5 });
    const value = this.hold(request.name, { epoch: request.epoch, address: '10.9.0.9/16' });
    yield { event: { $case: 'result' as const, value } };
  }

  async *#receive(request: {
    migrationId: string;
    container: string;
    epoch: bigint;
    sourceNode: string;
    sourceAddress: string;
  }) {
    this.calls.push(`receive ${request.migrationId}`);
    const known = this.migrations.get(request.migrationId);
    const migration = known ?? this.#begin(request);
    for (let seen = 0; ; ) {
      for (; seen < migration.progress.length; seen += 1) {
        yield { event: { $case: 'progress' as const, value: migration.progress[seen]! } };
      }
      const { result, error } = migration.status;
      if (result !== undefined) {
        yield { event: { $case: 'result' as const, value: result } };
        return;
      }
      if (error !== undefined) throw new ApiError(error);
      await Promise.race([migration.ended, sleep(5)]);
    }
  }

  /** As a source that has said so about a migration. */
  says(migrationId: string, state: string): void {
    const status = MigrationStatus.fromPartial({ migrationId, state, role: 'source' });
    const ended = Promise.resolve();
    this.migrations.set(migrationId, { status, progress: [], cancelAsked: false, ended });
  }

  #begin(request: {
    migrationId: string;
    container: string;
    epoch: bigint;
    sourceNode: string;
    sourceAddress: string;
  }): FakeMigration {
    let end = () => {};
    const ended = new Promise<void>((resolve) => {
      end = resolve;
    });
    const { migrationId } = request;
    const status = MigrationStatus.fromPartial({
      ...{ migrationId, state: 'running', role: 'destination' },
    });
    const migration: FakeMigration = { status, progress: [], cancelAsked: false, ended };
    this.migrations.set(migrationId, migration);
    this.load.now += 1;
    this.load.most = Math.max(this.load.most, this.load.now);
    void this.#move(request, migration)
      .catch((error: unknown) => {
        const cancelled = migration.cancelAsked;
        status.state = this.unbegun ? 'refused' : cancelled ? 'cancelled' : 'failed';
        status.error = toErrorDetail(error);
      })
      .finally(() => {
        this.load.now -= 1;
        end();
      });
    return migration;
  }

  async #move(
    request: {
      migrationId: string;
      container: string;
      epoch: bigint;
      sourceNode: string;
      sourceAddress: string;
    },
    migration: FakeMigration,
  ): Promise<void> {
    const { beforeCommit, afterCommit } = this.steps;
    const steps = beforeCommit + afterCommit;
    const source = connectAgent(request.sourceAddress);
    try {
      for (let step = 1; step <= steps; step += 1) {
        const phase = step <= beforeCommit ? 'pages' : 'restore';
        const value = { phase, fraction: step / (steps + 1), bytesRawDone: BigInt(step * 1000) };
        migration.progress.push(Progress.fromPartial(value));
        await sleep(this.steps.ms);
        if (this.dead) throw new Error('crashed');
        if (this.failWith !== undefined) throw this.failWith;
        if (step > beforeCommit) migration.status.state = 'committed';
        else if (migration.cancelAsked) throw new FerryError('migrate.cancelled', 'As asked');
      }
      const { container } = await source.describeContainer({ name: request.container });
      if (container?.epoch !== request.epoch - 1n) {
        throw new FerryError('migrate.epoch', `Source has epoch ${container?.epoch}`);
      }
      this.hold(request.container, { ...container, epoch: request.epoch });
      await source.stopContainer({
        operationId: '',
        name: request.container,
        graceMs: 0,
        remove: true,
      });
      migration.status.result = MigrationResult.fromPartial({
        ...{ mode: 'stop-copy', downtimeMs: 12.5, totalMs: 100, bytesRaw: 6000n, bytesWire: 3000n },
        parts: [{ name: 'pages', ms: 50 }],
      });
      migration.status.state = 'succeeded';
    } finally {
      source.close();
    }
  }

  #status(migrationId: string): MigrationStatus {
    const known = this.migrations.get(migrationId);
    return known?.status ?? MigrationStatus.fromPartial({ migrationId, state: 'unknown' });
  }

  #cancel(migrationId: string): MigrationStatus {
    this.calls.push(`cancel ${migrationId}`);
    const migration = this.migrations.get(migrationId);
    if (migration === undefined) {
      return MigrationStatus.fromPartial({ migrationId, state: 'cancelled' });
    }
    migration.cancelAsked = true;
    return migration.status;
  }
}

function progressEvent(value: Partial<Progress>) {
  return { event: { $case: 'progress' as const, value: Progress.fromPartial(value) } };
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** For tests that make their own files. */
export function chunkOf(data: Buffer): FileChunk {
  return { offset: 0n, data, sizeBytes: BigInt(data.length) };
}
