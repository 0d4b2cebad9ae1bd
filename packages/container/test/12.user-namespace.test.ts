import assert from 'node:assert/strict';
import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makingAs } from '../src/archive/file-maker.js';
import {
  buildConfig,
  checkSpec,
  hasUserNamespace,
  parseTransfer,
  placeConfig,
} from '../src/index.js';
import { type OciConfig, ociConfigSchema } from '../src/oci-config.js';
import { hostRoot, letRootReach } from '../src/user-namespace.js';

const image = { kind: 'bundle' as const, path: '/srv/bundle' };
const ROOT = { uid: 100_000, gid: 200_000 };

function bundle(more: object = {}) {
  return {
    process: { user: { uid: 0, gid: 0 }, args: ['/bin/sh'], cwd: '/' },
    root: { path: 'rootfs' },
    linux: {
      namespaces: [{ type: 'user' }, { type: 'pid' }],
      uidMappings: [
        { containerID: 5, hostID: 7, size: 1 },
        { containerID: 0, hostID: ROOT.uid, size: 5 },
      ],
      gidMappings: [{ containerID: 0, hostID: ROOT.gid, size: 10 }],
      ...more,
    },
  };
}

function built(base: object = bundle(), spec: object = {}): OciConfig {
  return buildConfig(checkSpec({ name: 'x', image, ...spec }), ociConfigSchema.parse(base));
}

describe('a user namespace in a configuration', () => {
  it('is kept with its maps, and the runtime makes the network in it', () => {
    const config = built();
    assert(hasUserNamespace(config));
    assert.deepEqual(hostRoot(config), ROOT);
    const { uidMappings, gidMappings } = bundle().linux;
    const { linux } = placeConfig(config, { rootfs: '/r', cgroupsPath: '/c', netns: '/n' });
    assert.deepEqual([linux.uidMappings, linux.gidMappings], [uidMappings, gidMappings]);
    const network = linux.namespaces.find(({ type }) => type === 'network');
    assert.deepEqual(network, { type: 'network' });
  });

  it('is none where a bundle has none', () => {
    const config = built({ ...bundle(), linux: {} });
    assert.equal(hasUserNamespace(config), false);
    assert.equal(hostRoot(config), undefined);
  });

  it('must map whom the spec wants the program to be', () => {
    built(bundle(), { user: { uid: 5, gid: 9 } });
    for (const user of [
      { uid: 6, gid: 0 },
      { uid: 0, gid: 10 },
      { uid: 0, gid: 0, additionalGids: [10] },
    ]) {
      assert.throws(() => built(bundle(), { user }), { code: 'container.spec', message: /map/ });
    }
  });

  it('is not taken from another host with maps that are hostile', () => {
    const transfer = {
      ...{ version: 1, name: 'x', id: '0'.repeat(32), epoch: 1, createdAt: '' },
      ...{ layers: [`sha256:${'0'.repeat(64)}`], ownState: {}, config: built() },
      spec: checkSpec({ name: 'x', image }),
      network: { address: '10.0.0.1', prefix: 8, mac: '02:00:00:00:00:01' },
    };
    parseTransfer(transfer);
    const range = { containerID: 0, hostID: 0, size: 0xffffffff };
    const all = [range];
    const linux = transfer.config.linux;
    parseTransfer({
      ...transfer,
      config: { ...transfer.config, linux: { ...linux, uidMappings: all } },
    });
    for (const uidMappings of [
      undefined,
      'all',
      [],
      [{ ...range, size: 0x100000000 }],
      [{ ...range, size: 1.5 }],
      [{ ...range, hostID: 1 }],
      [...all, { containerID: 0, hostID: 1, size: 1 }],
      [{ containerID: 0, hostID: 2 ** 53, size: 1 }],
    ]) {
      const config = { ...transfer.config, linux: { ...linux, uidMappings } };
      assert.throws(
        () => parseTransfer({ ...transfer, config }),
        { code: 'container.transfer' },
        JSON.stringify(uidMappings),
      );
    }
  });
});

describe('the root of a user namespace', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'ferry-user-namespace-'));
    chmodSync(folder, 0o711);
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  const places = () => {
    const stateDir = join(folder, 'state');
    const containers = join(stateDir, 'containers');
    const own = join(containers, 'x');
    mkdirSync(own, { recursive: true, mode: 0o700 });
    return { stateDir, above: [containers], folder: own };
  };

  it('may go to its files, and others no further than to where containers are', async () => {
    const { stateDir, above, folder: own } = places();
    await letRootReach(ROOT, { stateDir, above, folder: own });
    const modes = [stateDir, ...above, own].map((path) => statSync(path).mode & 0o7777);
    assert.deepEqual(modes, [0o701, 0o701, 0o710]);
    assert.equal(statSync(own).gid, ROOT.gid);
  });

  it('is told of a folder above that is closed to it, before anything is changed', async () => {
    const all = places();
    chmodSync(folder, 0o700);
    await assert.rejects(letRootReach(ROOT, all), {
      code: 'container.host',
      message: `Folder ${folder} lets user 100000 not pass, who is root in the container`,
    });
    assert.equal(statSync(all.stateDir).mode & 0o7777, 0o700);
    chownSync(folder, 0, ROOT.gid);
    chmodSync(folder, 0o710);
    await letRootReach(ROOT, all);
  });

  it('is who makes files, with the privileges of this process, for as long as that takes', () => {
    const status = () =>
      readFileSync('/proc/thread-self/status', 'utf8')
        .split('\n')
        .filter((line) => /^(Uid|Gid|Cap)/.test(line));
    const before = status();
    const closed = join(folder, 'closed');
    mkdirSync(closed, { mode: 0o700 });
    makingAs(ROOT, () => writeFileSync(join(closed, 'file'), ''));
    const { uid, gid } = statSync(join(closed, 'file'));
    assert.deepEqual({ uid, gid }, ROOT);
    assert.throws(() => makingAs(ROOT, () => assert.fail('in the middle')), /in the middle/);
    assert.deepEqual(status(), before);
    makingAs(undefined, () => writeFileSync(join(folder, 'mine'), ''));
    assert.equal(statSync(join(folder, 'mine')).uid, 0);
  });
});
