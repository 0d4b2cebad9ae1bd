import { strict as assert } from 'node:assert';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Tracer } from '../src/tracer.js';
import type { TracerRequest } from '../src/tracer-protocol.js';
import { Tracers } from '../src/tracers.js';

const command = {
  execArgv: [],
  script: join(import.meta.dirname, '../../../dist/ferry-tracer.mjs'),
};
const logger = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

/** A pipe to whoever runs the tests could not be captured. */
const ALONE = `
  for fd in /proc/$BASHPID/fd/*; do n=\${fd##*/}; [ "$n" -gt 2 ] && eval "exec $n>&-"; done
  exec /bin/sleep 1000`;

describe('migration: tracers that have done their work', function () {
  this.timeout(120_000);
  let tracers: Tracers;
  const programs: ChildProcess[] = [];
  const taken: Tracer[] = [];
  const take = (): Tracer => {
    const tracer = tracers.take();
    taken.push(tracer);
    return tracer;
  };
  beforeEach(() => {
    // A busy host rehearses nothing: what is there is what was given back.
    tracers = new Tracers({ command, logger, rehearse: true, isBusy: () => true });
  });
  afterEach(async () => {
    for (const tracer of taken.splice(0)) await tracer.close();
    await tracers.close();
    for (const program of programs.splice(0)) program.kill('SIGKILL');
  });

  async function program(): Promise<ChildProcess> {
    const child = spawn('/bin/bash', ['-c', ALONE], { stdio: 'ignore' });
    programs.push(child);
    while (readFileSync(`/proc/${child.pid}/comm`, 'utf8') !== 'sleep\n') await sleep(5);
    return child;
  }

  async function does(
    tracer: Tracer,
    { pid }: ChildProcess,
    ...methods: TracerRequest['method'][]
  ): Promise<void> {
    await tracer.ask({
      ...{ method: 'open', hostPid: pid ?? 0, externalInodes: [], givenMounts: [] },
      ...{ givenSettings: {}, reconnection: undefined as never },
    });
    for (const method of methods) await tracer.ask({ method } as TracerRequest);
  }

  const tracerOf = ({ pid }: ChildProcess): string | undefined =>
    /^TracerPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];

  it('are taken again for another container, whatever became of the one before', async () => {
    const first = take();
    const [thawed, killed, third] = [await program(), await program(), await program()];
    await does(first, thawed, 'scan', 'track', 'round', 'makeReady', 'freeze', 'capture', 'thaw');
    await tracers.giveBack(first);
    assert.equal(tracerOf(thawed), '0');
    const again = take();
    assert.equal(again.pid, first.pid);
    const ended = once(killed, 'exit');
    await does(again, killed, 'scan', 'track', 'round', 'makeReady', 'freeze', 'capture', 'kill');
    await ended;
    await tracers.giveBack(again);
    const last = take();
    assert.equal(last.pid, first.pid);
    await does(last, third, 'scan', 'track', 'round', 'freeze', 'capture', 'thaw');
  });

  it('capture no socket before the network is cut, or known not to be', async () => {
    const tracer = take();
    await does(tracer, await program(), 'freeze');
    const capture = (cut: number) => tracer.ask({ method: 'capture', later: false, cut });
    const refused = tracer.newCut();
    const fails = assert.rejects(capture(refused), { code: 'tracer.network' });
    tracer.networkIsCut({ cut: refused, done: false });
    await fails;
    await tracer.ask({ method: 'thaw' });
    await tracer.ask({ method: 'freeze' });
    // Of a capture that failed before it came to its sockets.
    tracer.networkIsCut({ cut: tracer.newCut(), done: true });
    const cut = tracer.newCut();
    let isCut = false;
    const captured = capture(cut).then(() => assert.ok(isCut));
    await sleep(200);
    isCut = true;
    tracer.networkIsCut({ cut, done: true });
    await captured;
    await tracer.ask({ method: 'thaw' });
  });

  it('end when they still hold one, which runs on', async () => {
    const tracer = take();
    const held = await program();
    await does(tracer, held, 'freeze');
    assert.equal(tracerOf(held), String(tracer.pid));
    await tracers.giveBack(tracer);
    assert(tracer.hasEnded);
    assert.equal(tracerOf(held), '0');
    const next = take();
    assert.notEqual(next.pid, tracer.pid);
  });
});
