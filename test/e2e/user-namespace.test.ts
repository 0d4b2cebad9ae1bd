import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as actions from '../support/actions.js';
import type { ClientMachine } from '../support/client-machine.js';
import { Cluster } from '../support/cluster.js';
import { tryRun } from '../support/shell.js';

const KEYS = 5_000;
const ROOT = 500_000;
const REDIS_UID = 33;

/** A bundle in which Redis is an ordinary user, of whom the host has never heard. */
function config(rootfs: string) {
  const map = [{ containerID: 0, hostID: ROOT, size: 65_536 }];
  return {
    ociVersion: '1.0.2',
    process: {
      user: { uid: REDIS_UID, gid: REDIS_UID },
      args: [
        ...['/usr/bin/redis-server', '--port', String(actions.REDIS_PORT), '--dir', '/data'],
        ...['--protected-mode', 'no', '--save', '', '--enable-debug-command', 'yes'],
      ],
      cwd: '/',
    },
    root: { path: rootfs },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs' },
      { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['ro', 'nosuid'] },
    ],
    linux: {
      namespaces: ['user', 'pid', 'network', 'mount', 'uts', 'ipc'].map((type) => ({ type })),
      uidMappings: map,
      gidMappings: map,
    },
  };
}

describe('a container in a user namespace moves with its connections', function () {
  this.timeout(120_000);
  let cluster: Cluster;
  let client: ClientMachine;
  let address: string;

  before(async () => {
    cluster = await Cluster.start({ hosts: ['h1', 'h2'] });
    const { redis } = await actions.makeRootfsFolders(cluster.folder.path);
    await tryRun('chown', ['-R', `${ROOT}:${ROOT}`, redis]);
    const bundle = join(cluster.folder.path, 'bundle');
    mkdirSync(bundle);
    writeFileSync(join(bundle, 'config.json'), JSON.stringify(config(redis)));
    await cluster.ferryJson(['run', '--name', 'mapped', '--node', 'h1', '--bundle', bundle]);
    ({ address } = await actions.containerNamed(cluster, 'mapped'));
    client = await cluster.client();
    await client.call('fill', address, actions.REDIS_PORT, KEYS);
  });
  afterEach(function () {
    if (this.currentTest?.state === 'failed') console.error(cluster.logTails());
  });
  after(async () => {
    await cluster?.remove();
  });

  /** Who it is, on the host, and where its connections are. */
  const isMapped = async () => {
    const { pid } = await actions.containerNamed(cluster, 'mapped');
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    const id = ROOT + REDIS_UID;
    assert.match(status, new RegExp(`^Uid:\\t${id}\\t${id}\\t${id}\\t${id}$`, 'm'));
    assert.match(readFileSync(`/proc/${pid}/uid_map`, 'utf8'), /^\s*0\s+500000\s+65536\n$/);
  };

  it('there and back, its client noticing nothing', async () => {
    await isMapped();
    await client.call('startCounter', address, actions.REDIS_PORT, 'counter');
    for (const to of ['h2', 'h1']) {
      assert.equal((await actions.migrate(cluster, 'mapped', to)).mode, 'pre-copy');
      await isMapped();
    }
    const { report, sameConnection } = await client.call('stopCounter', 'counter');
    assert.equal(sameConnection, true);
    assert.deepEqual([report.errors, report.lostWrites, report.duplicatedWrites], [[], 0, 0]);
    await client.call('command', address, actions.REDIS_PORT, 'DEL', 'counter');
  });

  it('to a file, and from it to another host', async () => {
    const data = await actions.dataOf(client, address);
    const file = join(cluster.folder.path, 'mapped.ferry');
    await cluster.ferryJson(['checkpoint', 'mapped', '--plain', '--out', file]);
    await cluster.ferryJson(['restore', file, '--node', 'h2']);
    await isMapped();
    assert.deepEqual(await actions.dataOf(client, address), data);
    await cluster.ferryJson(['stop', 'mapped']);
    assert.deepEqual(await cluster.shutDown(), []);
  });
});
