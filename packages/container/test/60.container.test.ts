import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ContainerHost, type HostConfig } from '../src/index.js';
import { gather, shellSpec, TestHosts, until } from './support.js';

describe('container on one host', () => {
  let hosts: TestHosts;
  let tag: string;

  before(async () => {
    hosts = await TestHosts.make(1);
    tag = hosts.configs[0]?.nodeId ?? '';
  });
  after(async () => {
    assert.deepEqual(await hosts.remove(), [], 'the hosts left something behind');
  });
  afterEach(async () => {
    for (const { record } of await hosts.host().list()) await hosts.host().remove(record.name);
  });

  it('writes what it says into the log, stream by stream, whatever the bytes', async () => {
    const host = hosts.host();
    const script = [
      'echo plain; echo error >&2',
      'printf "quote \\" back \\\\\\\\ tab\\t\\n"',
      'printf "\\377\\376 euro \\342\\202\\254\\n"',
      'n=0; while [ $n -lt 2000 ]; do printf 0123456789; n=$((n+1)); done; echo',
      'printf unfinished; exit 7',
    ].join('; ');
    await host.run(shellSpec('log', script));
    assert.equal((await host.waitExit('log'))?.status, 7);
    const lines = await gather(host.readLog('log', { follow: true }));
    const out = lines.filter(({ stream }) => stream === 'stdout').map(({ line }) => line);
    assert.deepEqual(out, [
      ...['plain', 'quote " back \\ tab\t', '\ufffd\ufffd euro €'],
      ...['0123456789'.repeat(2000), 'unfinished'],
    ]);
    const error = lines.filter(({ stream }) => stream === 'stderr').map(({ line }) => line);
    assert.deepEqual(error, ['error']);
    for (const { time } of lines) assert.match(time, /^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
    assert.deepEqual(await gather(host.readLog('log', { tail: 2 })), lines.slice(-2));
    const status = await host.get('log');
    assert.equal(status.state, 'stopped');
    assert.equal(status.exit?.status, 7);
    assert.equal(status.pid, undefined);
  });

  it('survives a program that opens /dev/stderr anew, and one that ends by a signal', async () => {
    const host = hosts.host();
    await host.run(
      shellSpec(
        'again',
        'echo one > /proc/self/fd/2; echo two > /proc/self/fd/2; kill -9 $$; sleep 5',
        {
          args: [
            '/bin/sh',
            '-c',
            '/bin/sh -c "echo one > /proc/self/fd/2; echo two > /proc/self/fd/2"; sleep 9',
          ],
        },
      ),
    );
    await until('both lines', async () => (await gather(host.readLog('again'))).length === 2);
    await host.kill('again', 'SIGKILL');
    assert.equal((await host.waitExit('again'))?.signal, 9);
  });

  it('runs further programs inside, with environment, user, folder, input and status', async () => {
    const host = hosts.host();
    await host.run(
      shellSpec('exec', 'sleep 100', { env: { FROM_SPEC: 'yes' }, hostname: 'inside' }),
    );
    const script =
      'cat; echo $FROM_SPEC $EXTRA $PWD; cat /proc/sys/kernel/hostname; echo no >&2; exit 5';
    const result = await host.exec('exec', ['/bin/sh', '-c', script], {
      ...{ env: { EXTRA: 'more' }, cwd: '/tmp', user: { uid: 33, gid: 33 }, input: 'input\n' },
    });
    assert.deepEqual(
      [result.status, result.stdout.toString(), result.stderr.toString()],
      [5, 'input\nyes more /tmp\ninside\n', 'no\n'],
    );
  });

  it('has the limits of its spec, its processes are known, and it can be frozen', async () => {
    const host = hosts.host();
    const counter = 'n=0; while :; do n=$((n+1)); echo $n > /dev/shm/n; sleep 0.01; done';
    await host.run(shellSpec('limits', counter, { memoryLimitBytes: 64 << 20, readonly: true }));
    const memory = await host.memory('limits');
    assert.equal(memory.limitBytes, 64 << 20);
    assert.ok(memory.usageBytes > 0);
    const pid = await host.initPid('limits');
    assert.ok(host.pids('limits').includes(pid));
    const count = () => readFileSync(`/proc/${pid}/root/dev/shm/n`, 'utf8');
    await until('it counts', async () => Number(count()) > 2);

    await host.freeze('limits');
    const frozen = count();
    await sleep(60);
    assert.equal(count(), frozen, 'it ran on while frozen');
    await host.thaw('limits');
    await until('it counts again', async () => count() !== frozen && count() !== '');

    const written = await host.exec('limits', ['/bin/sh', '-c', 'echo x > /file']);
    assert.match(written.stderr.toString(), /Read-only/);
  });

  it('gives back what an aborted or expired freeze has stopped', async () => {
    const host = hosts.host();
    await host.run(shellSpec('thawed', 'sleep 100'));
    const signal = AbortSignal.abort(new Error('changed my mind'));
    // The group may be frozen before the signal is looked at: both are right, frozen halfway is
    // not.
    await host
      .freeze('thawed', { signal })
      .catch((error: Error) => assert.match(error.message, /changed/));
    await host.thaw('thawed');
    assert.equal(host.cgroups.isFrozen(`/ferry-${tag}/thawed`), false);
  });

  it('goes on while its agent is away: no line is lost, and its end is known afterwards', async () => {
    let host = hosts.host();
    const script = 'n=0; while [ $n -lt 60 ]; do n=$((n+1)); echo $n; sleep 0.005; done; exit 3';
    await host.run(shellSpec('agentless', script));
    host = await hosts.reopen();
    assert.equal((await host.get('agentless')).record.phase, 'running');
    assert.equal((await host.waitExit('agentless'))?.status, 3);
    const lines = await gather(host.readLog('agentless', { follow: true }));
    assert.deepEqual(
      lines.map(({ line }) => Number(line)),
      Array.from({ length: 60 }, (_, index) => index + 1),
    );
  });

  it('follows a log until it is told to stop', async () => {
    const host = hosts.host();
    await host.run(shellSpec('follow', 'while :; do echo tick; sleep 0.02; done'));
    const stop = new AbortController();
    let seen = 0;
    await assert.rejects(async () => {
      for await (const { line } of host.readLog('follow', { follow: true, signal: stop.signal })) {
        assert.equal(line, 'tick');
        if (++seen === 5) stop.abort(new Error('enough'));
      }
    }, /enough/);
  });

  it('is stopped by its signal, and killed when that does not help', async () => {
    const host = hosts.host();
    await host.run(
      shellSpec('polite', 'trap "echo bye; exit 4" USR1; while :; do sleep 0.02; done', {
        stopSignal: 'SIGUSR1',
      }),
    );
    await until('its trap is set', async () => host.pids('polite').length > 1);
    assert.equal((await host.stop('polite', { timeoutMs: 2000 }))?.status, 4);
    await host.run(shellSpec('deaf', 'trap "" TERM; while :; do sleep 1; done'));
    assert.equal((await host.stop('deaf', { timeoutMs: 50 }))?.signal, 9);
  });

  it('runs an OCI bundle with its own configuration, under the spec', async () => {
    const host = hosts.host();
    await host.run(shellSpec('donor', 'sleep 100'));
    const bundle = join(hosts.configs[0]?.stateDir ?? '', 'test-bundle');
    mkdirSync(bundle);
    const [layer = ''] = (await host.get('donor')).record.layers;
    const config = {
      ociVersion: '1.0.2',
      process: {
        ...{
          terminal: true,
          user: { uid: 33, gid: 33 },
          cwd: '/tmp',
          env: ['A=bundle', 'B=bundle'],
        },
        args: ['/bin/sh', '-c', 'echo $A $B $PWD; cat /proc/self/status'],
        capabilities: { bounding: ['CAP_KILL'], effective: ['CAP_KILL'], permitted: ['CAP_KILL'] },
      },
      root: { path: host.layers.treePath(layer) },
      mounts: [{ destination: '/proc', type: 'proc', source: 'proc' }],
      linux: { namespaces: [{ type: 'pid' }, { type: 'mount' }] },
    };
    writeFileSync(join(bundle, 'config.json'), JSON.stringify(config));
    const image = { kind: 'bundle' as const, path: bundle };
    await host.run({ name: 'bundle', image, env: { B: 'spec' } });
    await host.waitExit('bundle');
    const lines = (await gather(host.readLog('bundle'))).map(({ line }) => line);
    assert.equal(lines[0], 'bundle spec /tmp');
    assert.ok(lines.some((line) => /^Uid:\s+33\s/.test(line)));
    assert.ok(lines.some((line) => /^CapBnd:\s+0000000000000020$/.test(line)));

    const hooked = { ...config, hooks: { prestart: [{ path: '/bin/true' }] } };
    writeFileSync(join(bundle, 'config.json'), JSON.stringify(hooked));
    await assert.rejects(host.run({ name: 'hooked', image }), {
      code: 'container.image',
      message: /hooks/,
    });
  });

  it('refuses a second container of its name or address, and a second agent', async () => {
    const host = hosts.host();
    await host.run(shellSpec('first', 'sleep 100', { network: { address: '10.77.0.30' } }));
    await assert.rejects(host.create(shellSpec('first', 'true')), { code: 'container.exists' });
    const same = shellSpec('second', 'true', { network: { address: '10.77.0.30' } });
    await assert.rejects(host.create(same), { code: 'container.address' });
    await assert.rejects(ContainerHost.open(hosts.configs[0] as HostConfig), {
      code: 'container.host',
      message: /another agent/,
    });
    assert.equal((await host.list()).length, 1);
    assert.equal(await host.find('second'), undefined);
    await assert.rejects(host.get('second'), { code: 'container.notFound' });
  });

  it('gives different addresses to containers made at the same time', async () => {
    const host = hosts.host();
    const names = ['p1', 'p2', 'p3'];
    const made = await Promise.all(names.map((name) => host.create(shellSpec(name, 'sleep 9'))));
    assert.equal(new Set(made.map(({ record }) => record.network.address)).size, 3);
    assert.equal(new Set(made.map(({ record }) => record.network.mac)).size, 3);
    assert.deepEqual(
      made.map(({ state }) => state),
      ['created', 'created', 'created'],
    );
  });
});
