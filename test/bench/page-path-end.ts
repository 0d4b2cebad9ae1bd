// One end of the page path, as in an agent: a process of its own that test/bench/page-path.ts starts. It is told by its
// parent what to do, and answers once: `serve` (source) or `pull` (destination).
import { once } from 'node:events';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { bidiStream, connect, createServer, MigrationSourceService, startServer } from '@ferry/api';
import {
  Credits,
  type OutgoingChunk,
  PageReader,
  PageWriter,
  pageLimits,
  SegmentTable,
} from '@ferry/pages';
import {
  chunkSent,
  connectPages,
  sourceServiceDefinition,
} from '../../services/agent/src/page-codec.js';

const MESSAGES_OF_A_POOL = 8;

interface Request {
  readonly migrationId: string;
  readonly creditBytes: bigint;
}

/** What the parent wants of a `pull`. */
export interface PullOrder {
  readonly address: string;
  /** The segment table in base64; empty for the bare stream. */
  readonly table: string;
  /** Of the bare stream: bytes of a message, and of them all. */
  readonly messageBytes: number;
  readonly totalBytes: number;
}

export interface EndFigures {
  readonly seconds: number;
  readonly raw: number;
  readonly wire: number;
  /** Of this process: CPU seconds, longest delay of the event loop in ms, most memory held in bytes. */
  readonly cpuSeconds: number;
  readonly loopDelayMsMax: number;
  readonly loopDelayMsP99: number;
  readonly residentBytesMax: number;
}

/** Watches this process from now on. */
function watch(): () => Omit<EndFigures, 'raw' | 'wire'> {
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  const cpu = process.cpuUsage();
  const before = performance.now();
  return () => {
    const { user, system } = process.cpuUsage(cpu);
    delay.disable();
    return {
      seconds: (performance.now() - before) / 1000,
      cpuSeconds: (user + system) / 1e6,
      loopDelayMsMax: delay.max / 1e6,
      loopDelayMsP99: delay.percentile(99) / 1e6,
      residentBytesMax: process.resourceUsage().maxRSS * 1024,
    };
  };
}

/** Messages that are all alike, sent as fast as they are taken: what gRPC alone can do. */
async function* bare(messageBytes: number, totalBytes: number): AsyncGenerator<OutgoingChunk> {
  const pool = Array.from({ length: MESSAGES_OF_A_POOL }, () =>
    Buffer.allocUnsafeSlow(messageBytes).fill(0x5a),
  );
  for (let at = 0, i = 0; at < totalBytes; at += messageBytes, i++) {
    const message = pool[i % MESSAGES_OF_A_POOL];
    yield { message: () => message, release: () => {} } as unknown as OutgoingChunk;
  }
}

async function serve(): Promise<void> {
  const server = createServer();
  let report = watch();
  let counters = { raw: 0, wire: 0 };
  const pullPages = bidiStream(async function* (requests: AsyncIterable<Request>) {
    report = watch();
    const iterator = requests[Symbol.asyncIterator]();
    const first: Request = (await iterator.next()).value;
    const [kind, ...rest] = first.migrationId.split(':');
    if (kind === 'bare') {
      yield* bare(Number(rest[0]), Number(rest[1]));
      return;
    }
    const credits = new Credits();
    credits.grant(Number(first.creditBytes));
    const granting = (async () => {
      for (let next = await iterator.next(); !next.done; next = await iterator.next())
        credits.grant(Number(next.value.creditBytes));
    })();
    const reader = new PageReader(SegmentTable.decode(Buffer.from(rest[0] ?? '', 'base64')));
    const never = new AbortController().signal;
    for await (const chunk of reader.chunks()) {
      if (chunk.head.pages > 0) await credits.take(chunk.length, never);
      yield chunk;
    }
    counters = reader.counters;
    await granting;
  }, chunkSent);
  const service = { pullPages: sourceServiceDefinition.pullPages };
  server.addService(service as never, { pullPages } as never);
  const port = await startServer(server, '127.0.0.1:0');
  process.send?.({ port });
  while (true) {
    await once(process, 'message');
    process.send?.({ ...report(), ...counters } satisfies EndFigures);
  }
}

/** Messages as they are, of whatever kind. */
const bareDefinition = {
  pullPages: {
    ...MigrationSourceService.pullPages,
    responseDeserialize: (bytes: Buffer): Buffer => bytes,
  },
} as const;

async function pull(order: PullOrder): Promise<void> {
  const report = watch();
  let counters = { raw: 0, wire: 0 };
  const { messageBytes, totalBytes } = order;
  if (order.table === '') {
    const requests = [
      { migrationId: `bare:${messageBytes}:${totalBytes}`, creditBytes: 1n, round: 0 },
    ];
    const client = connect(bareDefinition, order.address, {
      kind: 'data',
      expected: { role: 'agent' },
    });
    for await (const bytes of client.pullPages(requests)) counters.wire += bytes.length;
    counters.raw = counters.wire;
  } else {
    counters = await write(connectPages(order.address, {}), order.table);
  }
  process.send?.({ ...report(), ...counters } satisfies EndFigures, () => process.exit(0));
}

async function write(client: ReturnType<typeof connectPages>, encoded: string) {
  const table = SegmentTable.decode(Buffer.from(encoded, 'base64'));
  const grants: bigint[] = [BigInt(pageLimits.windowBytes)];
  let wake = () => {};
  let over = false;
  const requests = (async function* () {
    while (true) {
      for (const creditBytes of grants.splice(0))
        yield { migrationId: `pages:${encoded}`, creditBytes, round: 0 };
      if (over) return;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  })();
  const writer: PageWriter = new PageWriter(
    table,
    (pid) => pid,
    (bytes) => {
      if (writer.counters.raw < table.totalBytes) grants.push(BigInt(bytes));
      else over = true;
      wake();
    },
  );
  for await (const chunk of client.pullPages(requests)) await writer.write(chunk);
  await writer.finish();
  return writer.counters;
}

if (process.argv[2] === 'serve') await serve();
else if (process.argv[2] === 'pull') {
  const [order] = (await once(process, 'message')) as [PullOrder];
  await pull(order);
}
