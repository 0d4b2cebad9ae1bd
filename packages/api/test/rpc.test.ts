import { strict as assert } from 'node:assert';
import { setTimeout as sleep } from 'node:timers/promises';
import { FerryError } from '@ferry/core';
import {
  type AgentClient,
  AgentContainerLogsRequest,
  AgentServiceService,
  AgentStopContainerRequest,
  ApiError,
  bidiStream,
  clientStream,
  connectAgent,
  connectMigrationSource,
  createServer,
  DescribeContainerRequest,
  DestinationMessage,
  FetchCheckpointRequest,
  FileChunk,
  limits,
  MigrationSourceService,
  type Problem,
  SourceMessage,
  type StoreCheckpointMessage,
  serverStream,
  startServer,
  stopServer,
  unary,
} from '../src/index.js';

/** An agent whose calls each show one behaviour of the transport. */
function demoAgent(seen: { aborted: string[]; chunksSent: number; chunksReceived: number }) {
  const problem: Problem = { code: 'host.memory', object: 'b', reason: 'is full', remedy: 'free' };
  const refused = () => {
    throw new FerryError('container.unknown', 'No container "x"', { remedy: 'see "ferry ps"' });
  };
  return {
    runContainer: unary(() => {
      throw new ApiError({ code: 'run.preflight', message: 'No', problems: [problem] });
    }),
    stopContainer: unary(async (_request: AgentStopContainerRequest, { signal }) => {
      signal.addEventListener('abort', () => seen.aborted.push('stop'));
      await sleep(5000, undefined, { signal });
      return {};
    }),
    listContainers: unary(() => ({ containers: [] })),
    containerLogs: serverStream(async function* (_request: AgentContainerLogsRequest, { signal }) {
      try {
        for (let line = 0; ; line += 1) {
          yield { stream: 'stdout', data: Buffer.from(`${line}\n`) };
          await sleep(5, undefined, { signal });
        }
      } finally {
        seen.aborted.push('logs');
      }
    }),
    describeContainer: unary(refused),
    preflight: unary(() => {
      throw new TypeError('a bug');
    }),
    checkpointContainer: serverStream(refused),
    fetchCheckpoint: serverStream(async function* (_request: FetchCheckpointRequest) {
      for (; seen.chunksSent < 200; seen.chunksSent += 1) {
        const data = Buffer.alloc(limits.chunkBytes, seen.chunksSent);
        yield { offset: BigInt(seen.chunksSent), data, sizeBytes: 0n };
      }
      throw new FerryError('checkpoint.damaged', 'Block 200 is damaged');
    }),
    storeCheckpoint: clientStream(async (messages: AsyncIterable<StoreCheckpointMessage>) => {
      for await (const { message } of messages) {
        if (message?.$case === 'chunk') seen.chunksReceived += 1;
        if (seen.chunksReceived === 3) throw new FerryError('checkpoint.space', 'No room');
      }
      return { sizeBytes: BigInt(seen.chunksReceived), sha256: '', container: 'c' };
    }),
    deleteCheckpoint: unary(() => ({})),
    cancelWork: unary(() => ({})),
    restoreContainer: serverStream(refused),
    receiveMigration: serverStream(refused),
    queryMigration: unary(refused),
    cancelMigration: unary(refused),
  };
}

function chunk(): StoreCheckpointMessage {
  const value = FileChunk.fromPartial({ data: Buffer.alloc(1000) });
  return { message: { $case: 'chunk', value } };
}

describe('api: calls between a client and a server', () => {
  const seen = { aborted: [] as string[], chunksSent: 0, chunksReceived: 0 };
  const server = createServer();
  let agent: AgentClient;
  let address = '';

  before(async () => {
    server.addService(AgentServiceService, demoAgent(seen));
    server.addService(MigrationSourceService, {
      session: bidiStream(async function* (messages: AsyncIterable<DestinationMessage>) {
        for await (const { message } of messages) {
          if (message?.$case === 'abort') throw new FerryError('migrate.aborted', 'As asked');
          yield SourceMessage.fromPartial({
            message: { $case: 'progress', value: { phase: message?.$case ?? '' } },
          });
        }
      }),
      pullPages: bidiStream(async function* () {}),
      pullLayer: serverStream(async function* () {}),
      pullState: serverStream(async function* () {}),
    });
    address = `127.0.0.1:${await startServer(server, '127.0.0.1:0')}`;
    agent = connectAgent(address);
  });
  after(async () => {
    agent.close();
    await stopServer(server, 1000);
  });

  it('carries code, text and remedy of an error', async () => {
    await assert.rejects(agent.describeContainer(DescribeContainerRequest.create()), {
      code: 'container.unknown',
      message: 'No container "x"',
      remedy: 'see "ferry ps"',
      status: 5,
    });
  });

  it('carries the findings of an error that sums up several', async () => {
    const call = agent.runContainer({ operationId: '', spec: undefined, epoch: 0n });
    await assert.rejects(call, (error: ApiError) => {
      assert.deepEqual(error.problems, [
        { code: 'host.memory', object: 'b', reason: 'is full', remedy: 'free' },
      ]);
      return error.code === 'run.preflight';
    });
  });

  it('shows a bug as internal, with its text', async () => {
    const call = agent.preflight({ description: undefined, sourceAddress: '' });
    await assert.rejects(call, { code: 'internal', message: 'a bug', status: 13 });
  });

  it('ends a unary call by signal, and the handler hears of it', async () => {
    const signal = AbortSignal.timeout(50);
    const call = agent.stopContainer(AgentStopContainerRequest.create(), { signal });
    await assert.rejects(call, { code: 'rpc.cancelled' });
    await sleep(50);
    assert.deepEqual(seen.aborted, ['stop']);
  });

  it('ends a unary call by deadline', async () => {
    const call = agent.stopContainer(AgentStopContainerRequest.create(), { deadlineMs: 50 });
    await assert.rejects(call, { code: 'rpc.deadline' });
  });

  it('cancels a server stream when the loop is left', async () => {
    seen.aborted.length = 0;
    const lines: string[] = [];
    for await (const { data } of agent.containerLogs(AgentContainerLogsRequest.create())) {
      lines.push(data.toString());
      if (lines.length === 3) break;
    }
    assert.deepEqual(lines, ['0\n', '1\n', '2\n']);
    for (let wait = 0; wait < 50 && seen.aborted.length === 0; wait += 1) await sleep(10);
    assert.deepEqual(seen.aborted, ['logs']);
  });

  it('stops a producer whose consumer is slow, loses nothing, and ends with its error', async () => {
    const data = connectAgent(address, { kind: 'data' });
    let received = 0;
    let aheadMax = 0;
    try {
      const chunks = data.fetchCheckpoint(FetchCheckpointRequest.create());
      await assert.rejects(
        async () => {
          for await (const { offset, data } of chunks) {
            assert.equal(offset, BigInt(received));
            assert.equal(data[data.length - 1], received % 256);
            received += 1;
            if (received < 10) await sleep(20);
            aheadMax = Math.max(aheadMax, seen.chunksSent - received);
          }
        },
        { code: 'checkpoint.damaged' },
      );
    } finally {
      data.close();
    }
    assert.equal(received, 200);
    assert.ok(aheadMax < 80, `the producer was ${aheadMax} MiB ahead`);
  });

  it('ends an upload with the error of a server that stops reading', async () => {
    const endless = (async function* () {
      for (;;) {
        yield chunk();
        await sleep(1);
      }
    })();
    await assert.rejects(agent.storeCheckpoint(endless), { code: 'checkpoint.space' });
    assert.equal(seen.chunksReceived, 3);
  });

  it('cancels an upload whose source fails, with the error of the source', async () => {
    const broken = (async function* () {
      yield chunk();
      throw new FerryError('file.read', 'Disk error');
    })();
    seen.chunksReceived = 10;
    await assert.rejects(agent.storeCheckpoint(broken), { code: 'file.read' });
  });

  it('completes an upload', async () => {
    seen.chunksReceived = 10;
    const stored = await agent.storeCheckpoint([chunk(), chunk()]);
    assert.equal(stored.sizeBytes, 12n);
  });

  it('talks in both directions and ends with the error of the other side', async () => {
    const source = connectMigrationSource(address);
    const phases: string[] = [];
    const open = DestinationMessage.fromPartial({ message: { $case: 'open', value: {} } });
    const abort = DestinationMessage.fromPartial({ message: { $case: 'abort', value: {} } });
    try {
      await assert.rejects(
        async () => {
          for await (const { message } of source.session([open, open, abort])) {
            if (message?.$case === 'progress') phases.push(message.value.phase);
          }
        },
        { code: 'migrate.aborted' },
      );
    } finally {
      source.close();
    }
    assert.deepEqual(phases, ['open', 'open']);
  });

  it('says that nobody answers', async () => {
    const nobody = connectAgent('127.0.0.1:1');
    try {
      await assert.rejects(nobody.listContainers({}), {
        code: 'rpc.unavailable',
        message: /^Nobody answers at 127\.0\.0\.1:1 /,
      });
    } finally {
      nobody.close();
    }
  });

  it('refuses a message above the limit', async () => {
    const big = AgentStopContainerRequest.fromPartial({
      name: 'x'.repeat(limits.controlMessageBytes + 1),
    });
    await assert.rejects(agent.stopContainer(big), { code: 'rpc.tooLarge' });
  });
});
