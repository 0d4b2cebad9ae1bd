// The program of a client machine: does over TCP, from its own network namespace, what its parent asks over IPC.
import { Counter } from './counter.js';
import { Echo, type EchoReport } from './echo.js';
import { fill, wrongValues } from './redis-fill.js';
import { RespClient } from './resp.js';
import { Writers, type WritersOptions, type WritersReport } from './writers.js';

export interface ClientCalls {
  fill(host: string, port: number, count: number): Promise<void>;
  check(host: string, port: number, count: number, samples: number): Promise<string[]>;
  command(host: string, port: number, ...args: string[]): Promise<unknown>;
  startCounter(host: string, port: number, key: string, pauseMs?: number): Promise<void>;
  counterReport(): Promise<ReturnType<Counter['report']>>;
  resetStalls(): Promise<void>;
  stopCounter(key: string): ReturnType<Counter['stop']>;
  startWriters(host: string, port: number, options: WritersOptions): Promise<void>;
  writersReport(): Promise<ReturnType<Writers['report']>>;
  stopWriters(): Promise<WritersReport>;
  startEcho(host: string, port: number, connections: number): Promise<void>;
  echoReport(): Promise<EchoReport>;
  resetEcho(): Promise<void>;
  stopEcho(): Promise<EchoReport>;
}

let counter: Counter | undefined;
let writers: Writers | undefined;
let echo: Echo | undefined;

function running(): Counter {
  if (counter === undefined) throw new Error('No counter was started');
  return counter;
}

function writing(): Writers {
  if (writers === undefined) throw new Error('No writers were started');
  return writers;
}

function echoing(): Echo {
  if (echo === undefined) throw new Error('No echo was started');
  return echo;
}

async function withClient<T>(
  host: string,
  port: number,
  body: (client: RespClient) => Promise<T>,
): Promise<T> {
  const client = await RespClient.open(host, port);
  try {
    return await body(client);
  } finally {
    client.close();
  }
}

const calls: ClientCalls = {
  fill: (host, port, count) =>
    withClient(host, port, (client) =>
      fill(client, count, (done) => void process.send?.({ progress: done })),
    ),
  check: (host, port, count, samples) =>
    withClient(host, port, (client) => wrongValues(client, count, samples)),
  command: (host, port, ...args) => withClient(host, port, (client) => client.command(...args)),
  startCounter: async (host, port, key, pauseMs) => {
    counter = await Counter.start(host, port, key, pauseMs);
  },
  counterReport: async () => running().report(),
  resetStalls: async () => running().resetStalls(),
  stopCounter: (key) => running().stop(key),
  startWriters: async (host, port, options) => {
    writers = await Writers.start(host, port, options);
  },
  writersReport: async () => writing().report(),
  stopWriters: () => writing().stop(),
  startEcho: async (host, port, connections) => {
    echo = await Echo.start(host, port, connections);
  },
  echoReport: async () => echoing().report(),
  resetEcho: async () => echoing().reset(),
  stopEcho: () => echoing().stop(),
};

process.on('message', (message: { id: number; name: keyof ClientCalls; args: unknown[] }) => {
  const call = calls[message.name] as (...args: unknown[]) => Promise<unknown>;
  call(...message.args).then(
    (value) => process.send?.({ id: message.id, value }),
    (error: unknown) => process.send?.({ id: message.id, error: String(error) }),
  );
});
process.on('disconnect', () => process.exit(0));
process.send?.({ ready: true });
