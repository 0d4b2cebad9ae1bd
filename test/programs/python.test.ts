import assert from 'node:assert/strict';
import { existsSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Trial } from '../objects/support/trial.js';
import { fetchJson, freePort, untilListens } from './support/loopback.js';
import { describeProgram } from './support/real-program.js';

/** Four threads count in step under a lock, one hands numbers to another through a queue, one
 *  sleeps on a condition; the main thread tells over HTTP what it sees. */
const script = `
import http.server, json, queue, sys, threading, time

port, threads, lock = int(sys.argv[1]), 4, threading.Lock()
counts, total, errors, passed = [0] * threads, 0, [], queue.Queue(maxsize=10)
received = 0
secret = {i: str(i) * 100 for i in range(10000)}
local = threading.local()

def count(index):
    global total
    local.index = index
    while True:
        with lock:
            counts[index] += 1
            total += 1
        if local.index != index:
            errors.append('thread local of %d' % index)
        time.sleep(0.002)

def produce():
    number = 0
    while True:
        passed.put(number)
        number += 1
        time.sleep(0.001)

def consume():
    global received
    while True:
        number = passed.get()
        if number != received:
            errors.append('got %d, want %d' % (number, received))
        received = number + 1

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with lock:
            state = {'counts': list(counts), 'total': total, 'received': received,
                     'errors': errors, 'secret': sum(map(len, secret.values())),
                     'threads': threading.active_count()}
        body = json.dumps(state).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass

for index in range(threads):
    threading.Thread(target=count, args=(index,), daemon=True).start()
threading.Thread(target=produce, daemon=True).start()
threading.Thread(target=consume, daemon=True).start()
http.server.ThreadingHTTPServer(('127.0.0.1', port), Handler).serve_forever()
`;

interface Counts {
  readonly counts: readonly number[];
  readonly total: number;
  readonly received: number;
  readonly errors: readonly string[];
  readonly secret: number;
  readonly threads: number;
}

interface State {
  readonly port: number;
  readonly before: Counts;
}

const ports = new Map<Trial, number>();
const python = existsSync('/usr/bin/python3') ? '/usr/bin/python3' : 'python3';

async function look(port: number): Promise<Counts> {
  const counts = (await fetchJson(port, '/')) as Counts;
  assert.deepEqual(counts.errors, []);
  const sum = counts.counts.reduce((a, b) => a + b, 0);
  assert.equal(sum, counts.total, 'the counts of the threads add up to the total');
  return counts;
}

describeProgram<State>({
  name: 'a threaded Python program',
  start: async (trial) => {
    const port = await freePort();
    ports.set(trial, port);
    writeFileSync(`${trial.directory}/program.py`, script);
    await trial.start([python, `${trial.directory}/program.py`, `${port}`], {
      isReady: () => true,
    });
    await untilListens(port);
  },
  use: async (trial) => {
    const port = ports.get(trial) ?? 0;
    await sleep(200);
    return { port, before: await look(port) };
  },
  check: async (_trial, { port, before }) => {
    const first = await look(port);
    await sleep(300);
    const second = await look(port);
    assert.equal(first.secret, before.secret);
    assert.equal(second.threads, before.threads, 'as many threads as before');
    for (const [i, count] of second.counts.entries()) {
      assert.ok((first.counts[i] ?? 0) >= (before.counts[i] ?? 0), `thread ${i} did not go back`);
      assert.ok(count > (first.counts[i] ?? 0), `thread ${i} goes on`);
    }
    assert.ok(second.received > first.received, 'the queue goes on');
  },
  volatile: [/^\d+ State:/],
});
