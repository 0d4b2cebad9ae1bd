import assert from 'node:assert/strict';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { Counter } from '../support/counter.js';
import { until } from '../support/shell.js';

/** A server that answers like Redis, but may lie: `next` gives the answer to the nth INCR. */
async function fakeRedis(next: (n: number, socket: Socket) => number): Promise<Server> {
  let n = 0;
  let value = 0;
  const server = createServer((socket) => {
    socket.on('data', (data) => {
      const request = data.toString();
      if (request.includes('CLIENT')) socket.write(':7\r\n');
      else if (request.includes('GET')) socket.write(`$${String(value).length}\r\n${value}\r\n`);
      else {
        n += 1;
        value = next(n, socket);
        socket.write(`:${value}\r\n`);
      }
    });
    socket.on('error', () => undefined);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return server;
}

async function countTo(replies: number, next: (n: number, socket: Socket) => number) {
  const server = await fakeRedis(next);
  try {
    const counter = await Counter.start('127.0.0.1', (server.address() as AddressInfo).port, 'key');
    await until('enough replies', () => {
      const { replies: seen, errors } = counter.report();
      return seen >= replies || errors.length > 0 ? true : undefined;
    });
    return await counter.stop('key');
  } finally {
    server.close();
  }
}

describe('the counting client', () => {
  it('finds nothing wrong with a server that counts', async () => {
    const { report, sameConnection } = await countTo(100, (n) => n);
    assert.equal(report.lostWrites, 0);
    assert.equal(report.duplicatedWrites, 0);
    assert.deepEqual(report.errors, []);
    assert.equal(sameConnection, true);
  });

  it('finds writes that are gone', async () => {
    const { report } = await countTo(100, (n) => (n < 50 ? n : n - 3));
    assert.equal(report.lostWrites, 3);
    assert.equal(report.duplicatedWrites, 0);
  });

  it('finds writes that were made twice', async () => {
    const { report } = await countTo(100, (n) => (n < 50 ? n : n + 2));
    assert.equal(report.duplicatedWrites, 2);
    assert.equal(report.lostWrites, 0);
  });

  it('takes a connection that ends for an error, and opens no other', async () => {
    const { report, sameConnection } = await countTo(100, (n, socket) => {
      if (n === 50) socket.destroy();
      return n;
    });
    assert.equal(report.errors.length, 1);
    assert.equal(sameConnection, false);
  });

  it('notes a long wait', async () => {
    const { report } = await countTo(100, (n) => {
      const end = Date.now() + (n === 50 ? 60 : 0);
      while (Date.now() < end) {
        // The whole server stands still.
      }
      return n;
    });
    assert.ok(report.longestStallMs >= 55, `${report.longestStallMs} ms`);
    assert.equal(report.stalls.length, 1);
  });
});
