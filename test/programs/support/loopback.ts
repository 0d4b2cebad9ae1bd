import { get } from 'node:http';
import { connect, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const startTimeoutMs = 20_000;

/** A loopback port that nothing uses at this moment. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('The server has no port');
  return address.port;
}

export interface Answer {
  readonly status: number;
  readonly body: Buffer;
}

/** One HTTP request over a connection of its own. */
export function fetchPage(port: number, path: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', port, path, agent: false, timeout: 10_000 };
    const request = get(options, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => {
        resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks) });
      });
    });
    request.on('timeout', () => request.destroy(new Error(`No answer from port ${port} in 10 s`)));
    request.on('error', reject);
  });
}

export async function fetchJson(port: number, path: string): Promise<unknown> {
  const { status, body } = await fetchPage(port, path);
  if (status !== 200) throw new Error(`${path}: status ${status}: ${body.toString()}`);
  return JSON.parse(body.toString());
}

/** Waits until a port accepts connections.
 *  @throws when it has not within 20 s */
export async function untilListens(port: number): Promise<void> {
  const deadline = performance.now() + startTimeoutMs;
  while (!(await listens(port))) {
    if (performance.now() > deadline) throw new Error(`Nothing listens at port ${port}`);
    await sleep(20);
  }
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}
