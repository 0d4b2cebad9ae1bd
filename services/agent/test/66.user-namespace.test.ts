import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import { chownSync, lchownSync, lstatSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { compiled, says } from './support/said.js';
import { type HostName, TwoAgents } from './support/two-agents.js';

/** The host's ids of the container's root. */
const USERS = 300_000;
const GROUPS = 400_000;
const there: [HostName, HostName] = ['h1', 'h2'];
const back: [HostName, HostName] = ['h2', 'h1'];

/** Gives a tree to the container's root. */
function giveAway(path: string): void {
  lchownSync(path, USERS, GROUPS);
  if (!lstatSync(path).isDirectory()) return;
  for (const name of readdirSync(path)) giveAway(join(path, name));
}

function configOf(rootfs: string, program: string) {
  const inMemory = (destination: string) => ({
    ...{ destination, type: 'tmpfs', source: 'tmpfs' },
    options: ['nosuid', 'mode=755', 'size=64m'],
  });
  const capabilities = [
    ...['CAP_CHOWN', 'CAP_DAC_OVERRIDE', 'CAP_FOWNER', 'CAP_SETUID', 'CAP_SETGID'],
    ...['CAP_KILL', 'CAP_SYS_ADMIN'],
  ];
  return {
    process: {
      user: { uid: 0, gid: 0 },
      ...{ args: [program], cwd: '/' },
      capabilities: { bounding: capabilities },
      rlimits: [{ type: 'RLIMIT_NOFILE', soft: 500, hard: 1000 }],
      noNewPrivileges: true,
    },
    root: { path: rootfs },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      ...[inMemory('/dev'), inMemory('/dev/shm'), inMemory('/scratch')],
      { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['ro', 'nosuid'] },
      {
        ...{ destination: '/dev/pts', type: 'devpts', source: 'devpts' },
        options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
      },
      { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid'] },
      { destination: '/sys/fs/cgroup', type: 'cgroup', source: 'cgroup', options: ['ro'] },
    ],
    linux: {
      namespaces: ['pid', 'user', 'network', 'mount', 'uts', 'ipc'].map((type) => ({ type })),
      uidMappings: [{ containerID: 0, hostID: USERS, size: 65_536 }],
      gidMappings: [
        { containerID: 0, hostID: GROUPS, size: 100 },
        { containerID: 1000, hostID: GROUPS + 1000, size: 1000 },
      ],
      maskedPaths: ['/proc/kcore', '/proc/keys', '/sys/firmware'],
      readonlyPaths: ['/proc/sys', '/proc/irq', '/proc/sysrq-trigger'],
      seccomp: {
        defaultAction: 'SCMP_ACT_ALLOW',
        syscalls: [{ names: ['kexec_load'], action: 'SCMP_ACT_ERRNO' }],
      },
      sysctl: { 'net.core.somaxconn': '77' },
    },
  };
}

type Config = ReturnType<typeof configOf>;

const hostile: [string, (config: Config) => void, RegExp][] = [
  [
    'a range beyond the last id',
    ({ linux }) => linux.uidMappings.push({ containerID: 4e9, hostID: 4e9, size: 3e8 }),
    /beyond the last id/,
  ],
  [
    'an id of the host for two of theirs',
    ({ linux }) => linux.gidMappings.push({ containerID: 90_000, hostID: GROUPS + 50, size: 1 }),
    /an id of the host is mapped twice/,
  ],
  [
    'two users for one',
    ({ linux }) => linux.uidMappings.push({ containerID: 65_535, hostID: 1_000_000, size: 10 }),
    /an id of the container is mapped twice/,
  ],
  [
    'no user for root',
    ({ linux }) => {
      linux.uidMappings[0]!.containerID = 1;
    },
    /id 0 is not mapped/,
  ],
  [
    'a negative id',
    ({ linux }) => {
      linux.uidMappings[0]!.hostID = -1;
    },
    /uidMappings\[0\]\.hostID/,
  ],
  [
    'an empty range',
    ({ linux }) => {
      linux.gidMappings[0]!.size = 0;
    },
    /gidMappings\[0\]\.size/,
  ],
  [
    'more ranges than the kernel takes',
    ({ linux }) => {
      const each = (_: unknown, i: number) => ({ containerID: i, hostID: USERS + 2 * i, size: 1 });
      linux.uidMappings = Array.from({ length: 341 }, each);
    },
    /uidMappings/,
  ],
  [
    'maps of groups only',
    ({ linux }) => Reflect.deleteProperty(linux, 'uidMappings'),
    /needs uidMappings and gidMappings/,
  ],
  [
    'maps and no user namespace',
    ({ linux }) => linux.namespaces.splice(1, 1),
    /id mappings without a user namespace/,
  ],
  [
    'the user namespace of somebody else',
    ({ linux }) => {
      Object.assign(linux.namespaces[1]!, { path: '/proc/1/ns/user' });
    },
    /joins a user namespace/,
  ],
  [
    'a user whom they do not map',
    ({ process }) => {
      process.user = { uid: 70_000, gid: 500 };
    },
    /user 70000, group 500, and its user namespace does not map that/,
  ],
];

describe('agent: containers in a user namespace', function () {
  this.timeout(180_000);
  let two: TwoAgents;
  let config: ReturnType<typeof configOf>;
  let moves = 0;
  before(async () => {
    two = await TwoAgents.start();
    const program = compiled(two, 'owners');
    const rootfs = await two.rootfs([program, '/usr/bin/stat']);
    mkdirSync(join(rootfs, 'image'));
    for (const name of ['root', 'user', 'given']) writeFileSync(join(rootfs, 'image', name), name);
    giveAway(rootfs);
    chownSync(join(rootfs, 'image/user'), USERS + 1000, GROUPS + 1001);
    config = configOf(rootfs, program);
    await two.run('h1', { name: 'owners', bundle: bundle('owners', config) });
    await says(two, { host: 'h1', name: 'owners' });
  });
  after(async () => {
    assert.deepEqual(await two?.remove(), []);
  });

  function bundle(name: string, content: object): string {
    const folder = join(two.folder.path, `bundle-${name}`);
    mkdirSync(folder);
    writeFileSync(join(folder, 'config.json'), JSON.stringify(content));
    return folder;
  }
  const move = (route: [HostName, HostName], wishes = {}, name = 'owners') => {
    moves += 1;
    return two.migrate(name, ...route, `owners-${moves}`, wishes);
  };
  /** Ids as the host sees them, of what is in the container and of its first process. */
  async function seenBy(host: HostName) {
    const root = `/proc/${await two.at(host).agent.host.initPid('owners')}`;
    return ['root', 'root/dev/shm/of-1000', 'root/scratch/of-0', 'root/data/of-1000'].map(
      (path) => {
        const text = execFileSync('stat', ['-L', '-c', '%u:%g', join(root, path)]);
        return text.toString().trim();
      },
    );
  }

  it('move there and back, with their users and the owners of their files', async () => {
    const owners = await seenBy('h1');
    const user = `${USERS + 1000}:${GROUPS + 1001}`;
    const root = `${USERS}:${GROUPS}`;
    assert.deepEqual(owners, [root, user, root, user]);
    for (const route of [there, back, there, back]) {
      const result = await move(route);
      assert.equal(result.mode, 'pre-copy', result.warnings.join('; '));
      await says(two, { host: route[1], name: 'owners' }, { more: 2 });
      assert.deepEqual(await seenBy(route[1]), owners);
    }
  });

  it('move too where all of their memory does so while they stand', async () => {
    await move(there, { mode: 'stop-copy' });
    await says(two, { host: 'h2', name: 'owners' }, { more: 2 });
  });

  it('wait for all of their memory, whose processes could not do without', async () => {
    const result = await move(back, { mode: 'post-copy' });
    assert.match(result.warnings.join('; '), /user namespace cannot run while memory .* missing/);
    assert.equal(result.mode, 'pre-copy');
    await says(two, { host: 'h1', name: 'owners' }, { more: 2 });
  });

  it('come back from a checkpoint', async () => {
    const owners = await seenBy('h1');
    const request = {
      ...{ operationId: 'c1', name: 'owners', checkpointId: 'c1', leaveRunning: false },
      sealFor: Buffer.alloc(0),
    };
    const { client } = two.at('h1');
    for await (const _ of client.checkpointContainer(request));
    assert.deepEqual(await two.states('h1'), {});
    const again = { operationId: 'r1', checkpointId: 'c1', name: 'owners', epoch: 40n };
    for await (const _ of client.restoreContainer(again));
    await says(two, { host: 'h1', name: 'owners' }, { more: 2 });
    assert.deepEqual(await seenBy('h1'), owners);
  });

  it('run programs for others, who are their users as well', async () => {
    const { host } = two.at('h1').agent;
    const user = { uid: 1000, gid: 1001 };
    const owner = [
      '/usr/bin/stat',
      '-L',
      '-c',
      '%u:%g',
      '/proc/self',
      '/data/of-1000',
      '/image/root',
    ];
    const { stdout, stderr } = await host.exec('owners', owner, { user });
    assert.equal(stdout.toString(), '1000:1001\n1000:1001\n0:0\n', stderr.toString());
  });

  it('run on where they are when they have a user namespace in theirs, and it is told why', async () => {
    const nested = structuredClone(config);
    nested.process.args.push('nested');
    await two.run('h1', { name: 'nested', bundle: bundle('nested', nested) });
    await says(two, { host: 'h1', name: 'nested' });
    await assert.rejects(move(there, {}, 'nested'), (error: Error & { code: string }) => {
      assert.equal(error.code, 'migrate.preflight');
      assert.match(error.message, /user:\S+ .*user namespaces nested in one .* not carried yet/);
      return true;
    });
    await says(two, { host: 'h1', name: 'nested' });
    assert.deepEqual(await two.states('h2'), {});
    await two.at('h1').agent.host.remove('nested');
  });

  for (const [what, change, message] of hostile) {
    it(`are not made with ${what}, and nothing is left of them`, async () => {
      const changed = structuredClone(config);
      change(changed);
      const name = what.replaceAll(/[^a-z]+/g, '-');
      await assert.rejects(
        two.run('h1', { name, bundle: bundle(name, changed) }),
        ({ code, message: text }: Error & { code: string }) => {
          assert.match(code, /^container\.(image|spec)$/);
          assert.match(text, message);
          return true;
        },
      );
      assert.deepEqual(await two.states('h1'), { owners: 'running' });
    });
  }
});
