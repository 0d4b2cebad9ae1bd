import assert from 'node:assert/strict';
import { hostCapabilities } from '../src/capabilities.js';
import {
  buildConfig,
  checkSpec,
  hostPaths,
  placeConfig,
  restoreConfig,
  tmpfsMounts,
} from '../src/index.js';
import { ociConfigSchema } from '../src/oci-config.js';

const image = { kind: 'program' as const, programs: ['/bin/sh'] };
const minimal = { name: 'redis', image, args: ['/bin/sh'] };

describe('buildConfig', () => {
  it('gives the five namespaces, masked paths and the usual capabilities, and no path of a host', () => {
    const config = buildConfig(checkSpec(minimal));
    const types = config.linux.namespaces.map(({ type }) => type);
    assert.deepEqual(types, ['pid', 'uts', 'ipc', 'network', 'mount']);
    assert.ok(config.linux.maskedPaths?.includes('/proc/kcore'));
    assert.ok(config.process.capabilities?.bounding.includes('CAP_NET_BIND_SERVICE'));
    assert.ok(!config.process.capabilities?.bounding.includes('CAP_SYS_ADMIN'));
    assert.equal(config.process.noNewPrivileges, true);
    assert.equal(config.hostname, 'redis');
    assert.equal(config.root.path, '');
    assert.equal(config.linux.cgroupsPath, undefined);
  });

  const rows: [string, object, (config: ReturnType<typeof buildConfig>) => unknown, unknown][] = [
    ['memory', { memoryLimitBytes: 1 << 20 }, (c) => c.linux.resources?.memory?.limit, 1 << 20],
    ['cpus', { cpus: 0.5 }, (c) => c.linux.resources?.cpu?.quota, 50_000],
    ['pids', { pidsLimit: 7 }, (c) => c.linux.resources?.pids?.limit, 7],
    ['user', { user: { uid: 5, gid: 6 } }, (c) => c.process.user.uid, 5],
    ['env', { env: { A: 'b=c' } }, (c) => c.process.env.includes('A=b=c'), true],
    ['readonly', { readonly: true }, (c) => c.root.readonly, true],
    [
      'sysctl',
      { sysctl: { 'net.core.somaxconn': '9' } },
      (c) => c.linux.sysctl,
      { 'net.core.somaxconn': '9' },
    ],
    ['seccomp none', { seccomp: 'none' }, (c) => c.linux.seccomp, undefined],
    [
      'seccomp default',
      { seccomp: 'default' },
      (c) => c.linux.seccomp?.defaultAction,
      'SCMP_ACT_ALLOW',
    ],
    [
      'drop all, add one by its short name',
      { capabilities: { drop: ['ALL'], add: ['NET_ADMIN'] } },
      (c) => c.process.capabilities?.effective,
      ['CAP_NET_ADMIN'],
    ],
    [
      'tmpfs',
      { mounts: [{ kind: 'tmpfs', destination: '/data', sizeBytes: 4096 }] },
      (c) => c.mounts.at(-1)?.options,
      ['nosuid', 'nodev', 'mode=1777', 'size=4096'],
    ],
  ];
  for (const [name, more, pick, expected] of rows) {
    it(`takes over from the spec: ${name}`, () => {
      assert.deepEqual(pick(buildConfig(checkSpec({ ...minimal, ...more }))), expected);
    });
  }

  it('takes over the labels of a bundle', () => {
    const base = ociConfigSchema.parse({
      process: {
        user: { uid: 0, gid: 0 },
        args: ['/bin/sh'],
        cwd: '/',
        apparmorProfile: 'web',
        selinuxLabel: 'u:r:container_t:s0:c1',
      },
      root: {},
      linux: { mountLabel: 'u:r:container_file_t:s0:c1' },
    });
    const { process, linux } = buildConfig(checkSpec(minimal), base);
    assert.equal(process.apparmorProfile, 'web');
    assert.equal(process.selinuxLabel, 'u:r:container_t:s0:c1');
    assert.equal(linux.mountLabel, 'u:r:container_file_t:s0:c1');
  });

  it('lists what is bound to a host, and what content moves', () => {
    const mounts = [
      { kind: 'bind' as const, source: '/srv/x', destination: '/x', readonly: true },
      { kind: 'tmpfs' as const, destination: '/data' },
    ];
    const config = buildConfig(checkSpec({ ...minimal, mounts }));
    assert.deepEqual(hostPaths(config), ['/srv/x']);
    assert.deepEqual(tmpfsMounts(config), ['/dev/shm', '/data']);
  });

  const wrong: [string, object, RegExp][] = [
    ['a name with a slash', { name: 'a/b' }, /a name of/],
    [
      'a capability that is none',
      { capabilities: { add: ['CAP_FLY'] } },
      /CAP_FLY is not a capability/,
    ],
    ['a misspelled field', { memoryLimit: 5 }, /memoryLimit/],
    ['a relative working folder', { cwd: 'tmp' }, /absolute path/],
    [
      'a mount that leaves the root',
      { mounts: [{ kind: 'tmpfs', destination: '/../x' }] },
      /without/,
    ],
    ['no args', { args: [] }, /no args/],
  ];
  for (const [name, more, message] of wrong) {
    it(`refuses ${name}`, () => {
      assert.throws(() => buildConfig(checkSpec({ ...minimal, ...more } as typeof minimal)), {
        code: 'container.spec',
        message,
      });
    });
  }
});

describe('placeConfig', () => {
  it('puts in the paths of one host, and changes nothing else', () => {
    const config = buildConfig(checkSpec(minimal));
    const placed = placeConfig(config, { rootfs: '/r', cgroupsPath: '/ferry-h/x', netns: '/n' });
    assert.equal(placed.root.path, '/r');
    assert.equal(placed.linux.cgroupsPath, '/ferry-h/x');
    assert.deepEqual(placed.linux.namespaces[3], { type: 'network', path: '/n' });
    assert.deepEqual(placed.process, config.process);
    assert.equal(config.root.path, '');
  });
});

describe('restoreConfig', () => {
  it('widens what binds the restorer and keeps what the container sees', () => {
    const config = buildConfig(
      checkSpec({
        ...{ ...minimal, seccomp: 'default', user: { uid: 33, gid: 33 } },
        rlimits: [{ type: 'RLIMIT_NOFILE', soft: 10, hard: 10 }],
      }),
    );
    const host = new Set(['CAP_CHECKPOINT_RESTORE', 'CAP_SYS_ADMIN', 'CAP_CHOWN']);
    Object.assign(config.process, { apparmorProfile: 'web', selinuxLabel: 'u:r:t:s0' });
    const restore = restoreConfig(config, ['/proc/self/fd/3'], host);
    assert.deepEqual(restore.process.args, ['/proc/self/fd/3']);
    assert.deepEqual(restore.process.user, { uid: 0, gid: 0 });
    assert.deepEqual(restore.process.capabilities?.effective, [
      'CAP_CHOWN',
      'CAP_SYS_ADMIN',
      'CAP_CHECKPOINT_RESTORE',
    ]);
    assert.equal(restore.process.noNewPrivileges, false);
    assert.equal(restore.process.rlimits, undefined);
    assert.equal(restore.process.apparmorProfile, undefined);
    assert.equal(restore.process.selinuxLabel, 'u:r:t:s0');
    assert.equal(restore.linux.seccomp, undefined);
    assert.deepEqual(restore.mounts, config.mounts);
    assert.deepEqual(restore.linux.maskedPaths, config.linux.maskedPaths);
    assert.ok(config.linux.seccomp !== undefined);
  });
});

describe('hostCapabilities', () => {
  it('reads the bounding set', () => {
    const found = hostCapabilities('Name: x\nCapBnd:\t0000010000000001\n');
    assert.deepEqual([...found], ['CAP_CHOWN', 'CAP_CHECKPOINT_RESTORE']);
  });
});
