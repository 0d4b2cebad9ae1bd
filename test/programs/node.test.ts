import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Trial } from '../objects/support/trial.js';
import { fetchJson, freePort, untilListens } from './support/loopback.js';
import { describeProgram } from './support/real-program.js';

/** A server with state, a timer, a worker thread and work on libuv's pool. */
const script = `
import { createServer } from 'node:http';
import { createHash, randomBytes } from 'node:crypto';
import { promises as files } from 'node:fs';
import { Worker } from 'node:worker_threads';

const secret = randomBytes(64).toString('hex');
const visits = [];
let ticks = 0;
let fromWorker = 0;
let errors = 0;
setInterval(() => { ticks += 1; }, 10);
const worker = new Worker(
  "const { parentPort } = require('node:worker_threads');" +
  "let n = 0; setInterval(() => parentPort.postMessage(++n), 10);", { eval: true });
worker.on('message', (n) => { if (n !== fromWorker + 1) errors += 1; fromWorker = n; });
worker.on('error', () => { errors += 1; });
createServer(async (request, response) => {
  visits.push(request.url);
  const own = await files.readFile(process.argv[1], 'utf8');
  const hash = createHash('sha256').update(own).digest('hex');
  response.end(JSON.stringify({ secret, visits, ticks, fromWorker, errors, hash, pid: process.pid }));
}).listen(Number(process.argv[2]), '127.0.0.1');
`;

interface Answer {
  readonly secret: string;
  readonly visits: readonly string[];
  readonly ticks: number;
  readonly fromWorker: number;
  readonly errors: number;
  readonly hash: string;
  readonly pid: number;
}

interface State {
  readonly port: number;
  readonly before: Answer;
}

const ports = new Map<Trial, number>();

describeProgram<State>({
  name: 'a Node HTTP server',
  start: async (trial) => {
    const port = await freePort();
    ports.set(trial, port);
    writeFileSync(`${trial.directory}/server.mjs`, script);
    await trial.start([process.execPath, `${trial.directory}/server.mjs`, `${port}`], {
      isReady: () => true,
    });
    await untilListens(port);
  },
  use: async (trial) => {
    const port = ports.get(trial) ?? 0;
    await sleep(300);
    return { port, before: (await fetchJson(port, '/first')) as Answer };
  },
  check: async (trial, { port, before }) => {
    const first = (await fetchJson(port, '/second')) as Answer;
    await sleep(300);
    const second = (await fetchJson(port, '/third')) as Answer;
    assert.equal(second.secret, before.secret, 'its memory');
    assert.deepEqual(second.visits, ['/first', '/second', '/third']);
    assert.equal(second.pid, trial.pid);
    assert.equal(second.hash, before.hash, 'work on the pool');
    assert.equal(second.errors, 0, 'messages of the worker in order');
    assert.ok(first.ticks >= before.ticks && second.ticks > first.ticks, 'its timer goes on');
    assert.ok(second.fromWorker > first.fromWorker, 'its worker goes on');
  },
  // Its garbage collector makes and drops parts of the heap whenever it runs, and its threads wake each other.
  volatile: [
    /^\d+ State:/,
    /^\d+ map .*"(rw-p|---p) 0 00:00 0 {2}/,
    /^\d+ fdinfo \d+: was "(.*eventfd-count: +)\d+(.*)", is "\1\d+\2"$/,
  ],
});
