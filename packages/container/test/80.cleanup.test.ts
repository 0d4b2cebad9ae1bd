import assert from 'node:assert/strict';
import { chmodSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ContainerHost, type HostConfig, mustRun, type RunSpec } from '../src/index.js';
import { shellSpec, TestHosts, traces } from './support.js';

/** All that a container can leave: devices, mounts, cgroups, files, processes. */
async function inventory(hosts: TestHosts, config: HostConfig): Promise<string[]> {
  const links = await mustRun('nsenter', [`--net=${hosts.netns()}`, 'ip', '-br', 'link']);
  const mounts = await mustRun('/bin/sh', [
    '-c',
    'grep -cF "$0" /proc/self/mountinfo; true',
    hosts.folder,
  ]);
  const shims = await mustRun('/bin/sh', ['-c', 'pgrep -fc "ferry-shim.*$0"; true', hosts.folder]);
  const names = (folder: string) => readdirSync(join(config.stateDir, folder)).sort().join();
  return [
    links.stdout.toString().replace(/ .*$/gm, '').split('\n').join(),
    ...[mounts.stdout.toString(), shims.stdout.toString(), names('containers')],
    ...(await traces(`${config.nodeId}/`)),
    ...(await traces('nosuchcontainer')),
    readdirSync(join(config.stateDir, 'layers'))
      .filter((name) => name.startsWith('.'))
      .join(),
  ];
}

describe('cleanup', () => {
  let hosts: TestHosts;

  before(async () => {
    hosts = await TestHosts.make(1);
  });
  after(async () => {
    assert.deepEqual(await hosts.remove(), []);
  });

  /** A host like the first, changed. */
  async function variant(change: Partial<HostConfig>): Promise<[ContainerHost, HostConfig]> {
    const config = { ...(hosts.configs[0] as HostConfig), ...change };
    await hosts.host().close();
    return [await ContainerHost.open(config), config];
  }

  /** A runtime that fails at one verb, saying so. */
  function failingRuntime(verb: string): string {
    const path = join(hosts.folder, 'state0', `runc-${verb}`);
    const lines = [
      '#!/bin/sh',
      `for word in "$@"; do if [ "$word" = ${verb} ]; then`,
      '  echo "the disk is on fire" >&2; exit 1; fi; done',
      'exec runc "$@"',
    ];
    writeFileSync(path, `${lines.join('\n')}\n`);
    chmodSync(path, 0o755);
    return path;
  }

  const network = (change: object) => () => ({
    network: { ...(hosts.configs[0] as HostConfig).network, ...change },
  });
  const rows: [string, () => Partial<HostConfig>, Partial<RunSpec>, RegExp][] = [
    [
      'the runtime fails to create',
      () => ({ runc: failingRuntime('create') }),
      {},
      /disk is on fire/,
    ],
    [
      'the runtime fails to start',
      () => ({ runc: failingRuntime('start') }),
      {},
      /disk is on fire/,
    ],
    ['there is no runtime', () => ({ runc: '/no/such/runc' }), {}, /no\/such\/runc/],
    [
      'there is no bridge',
      network({ bridge: 'br-missing' }),
      {},
      /br-missing|No such device|ENODEV/,
    ],
    ['no address is free', network({ range: '10.77.0.1-10.77.0.1' }), {}, /No address is free/],
    [
      'a program is missing',
      () => ({}),
      { image: { kind: 'program', programs: ['/no/x'] } },
      /\/no\/x/,
    ],
    ['the program is not in the image', () => ({}), { args: ['/bin/absent'] }, /\/bin\/absent/],
    [
      'a folder to bind is missing',
      () => ({}),
      { mounts: [{ kind: 'bind', source: '/nosuchcontainer', destination: '/x' }] },
      /nosuchcontainer/,
    ],
    [
      'a capability is not to be had',
      () => ({}),
      { capabilities: { add: ['SYS_RESOURCE'] } },
      /CAP_SYS_RES/,
    ],
  ];
  for (const [name, change, spec, message] of rows) {
    it(`leaves nothing when ${name}`, async function () {
      const [host, config] = await variant(change());
      try {
        if (name.startsWith('a capability')) {
          const { hostCapabilities } = await import('../src/index.js');
          if (hostCapabilities().has('CAP_SYS_RESOURCE')) this.skip();
        }
        const before = await inventory(hosts, config);
        await assert.rejects(host.run(shellSpec('doomed', 'sleep 100', spec)), { message });
        assert.deepEqual(await inventory(hosts, config), before);
      } finally {
        await host.close();
        hosts.hosts[0] = await ContainerHost.open(hosts.configs[0] as HostConfig);
      }
    });
  }

  it('leaves nothing, and says so, whenever it is aborted', async function () {
    this.timeout(60_000);
    const config = hosts.configs[0] as HostConfig;
    const before = await inventory(hosts, config);
    const start = performance.now();
    await hosts.host().run(shellSpec('aborted', 'sleep 100'));
    const wholeMs = performance.now() - start;
    await hosts.host().remove('aborted');
    for (let step = 0; step < 16; step++) {
      const abort = new AbortController();
      const timer = setTimeout(() => abort.abort(new Error('aborted')), (wholeMs * step) / 15);
      const outcome = await hosts
        .host()
        .run(shellSpec('aborted', 'sleep 100'), { signal: abort.signal })
        .then(
          () => 'made',
          (error: Error) => error.message,
        );
      clearTimeout(timer);
      // It may be ready before, now and then.
      if (outcome === 'made') await hosts.host().remove('aborted');
      else assert.match(outcome, /aborted/, `at ${step} of 15`);
      assert.deepEqual(await inventory(hosts, config), before, `at ${step} of 15`);
    }
  });

  it('forgets what is removed while others look at it', async function () {
    this.timeout(30_000);
    const host = hosts.host();
    for (let round = 0; round < 3; round++) {
      await host.run(shellSpec('looked-at', 'sleep 100'));
      let isGoing = true;
      const look = async () => {
        while (isGoing) await host.get('looked-at').catch(() => undefined);
      };
      const looks = Array.from({ length: 8 }, look);
      await host.remove('looked-at');
      isGoing = false;
      await Promise.all(looks);
      await assert.rejects(host.get('looked-at'), { code: 'container.notFound' });
    }
  });

  it('removes what an agent had half made when it crashed', async () => {
    const config = hosts.configs[0] as HostConfig;
    const before = await inventory(hosts, config);
    const host = hosts.host();
    await host.run(shellSpec('crashed', 'sleep 100'));
    const path = join(config.stateDir, 'containers', 'crashed', 'record.json');
    const { record } = await host.get('crashed');
    writeFileSync(path, JSON.stringify({ ...record, phase: 'creating' }));
    await hosts.reopen();
    assert.deepEqual(await hosts.host().list(), []);
    assert.deepEqual(await inventory(hosts, config), before);
  });

  it('removes a frozen container, a created one, one that has ended, and none at all', async () => {
    const config = hosts.configs[0] as HostConfig;
    const before = await inventory(hosts, config);
    const host = hosts.host();
    await host.run(shellSpec('frozen', 'sleep 100'));
    await host.freeze('frozen');
    await host.create(shellSpec('created', 'sleep 100'));
    await host.run(shellSpec('ended', 'exit 0'));
    await host.waitExit('ended');
    for (const name of ['frozen', 'created', 'ended', 'never-was', 'ended'])
      await host.remove(name);
    assert.deepEqual(await inventory(hosts, config), before);
  });
});
