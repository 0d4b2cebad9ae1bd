import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { SourceMessage } from '@ferry/api';
import { changed, FaultyPort } from './support/faulty-port.js';
import { type HostName, TwoAgents } from './support/two-agents.js';

const IP = '/usr/sbin/ip';
const LOOP = 'while :; do read -t 1 x </dev/zero; done';

/** What a container sets, how it takes that back, and what is told of it. */
const sets: [string, string, string, RegExp][] = [
  [
    'an address',
    'addr add 10.77.9.9/32 dev eth0',
    'addr del 10.77.9.9/32 dev eth0',
    /address 10\.77\.9\.9\/32 of eth0/,
  ],
  [
    'a route',
    'route add 198.51.100.0/24 via 10.77.0.3',
    'route del 198.51.100.0/24',
    /route 198\.51\.100\.0\/24 via 10\.77\.0\.3 dev eth0/,
  ],
  [
    'a routing rule',
    'rule add fwmark 7 lookup main pref 70',
    'rule del pref 70',
    /routing rule 70/,
  ],
  [
    'an MTU',
    'link set eth0 mtu 1400',
    'link set eth0 mtu 1500',
    /network device eth0 with mtu 1400/,
  ],
];

function configOf(rootfs: string, args: string[]) {
  const capabilities = ['CAP_NET_ADMIN', 'CAP_KILL'];
  return {
    process: {
      user: { uid: 0, gid: 0 },
      ...{ args, cwd: '/' },
      capabilities: {
        bounding: capabilities,
        effective: capabilities,
        permitted: capabilities,
      },
    },
    root: { path: rootfs },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755'] },
      { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['ro', 'nosuid'] },
    ],
    linux: {
      namespaces: ['pid', 'network', 'mount', 'uts', 'ipc'].map((type) => ({ type })),
    },
  };
}

describe('agent: what a container sets in the network that it is given', function () {
  this.timeout(180_000);
  let two: TwoAgents;
  before(async () => {
    two = await TwoAgents.start();
    const rootfs = await two.rootfs(['/bin/bash', IP]);
    const bundle = join(two.folder.path, 'bundle');
    mkdirSync(bundle);
    const config = configOf(rootfs, ['/bin/bash', '-c', LOOP]);
    writeFileSync(join(bundle, 'config.json'), JSON.stringify(config));
    await two.run('h1', { name: 'setting', bundle });
  });
  after(async () => {
    assert.deepEqual(await two?.remove(), []);
  });

  async function ip(host: HostName, command: string): Promise<string> {
    const { stdout, stderr, status } = await two
      .at(host)
      .agent.host.exec('setting', [IP, ...command.split(' ')]);
    assert.equal(status, 0, stderr.toString());
    return stdout.toString();
  }

  for (const [what, set, takeBack, message] of sets) {
    it(`is told before it moves when that is ${what}, and it runs on where it is`, async () => {
      await ip('h1', set);
      const before = await ip('h1', 'addr show dev eth0');
      await assert.rejects(
        two.migrate('setting', 'h1', 'h2', `refused-${what.replaceAll(' ', '-')}`),
        (error: Error) => {
          assert.match(error.message, message);
          return true;
        },
      );
      assert.deepEqual(await two.states('h1'), { setting: 'running' });
      assert.deepEqual(await two.states('h2'), {});
      assert.equal(await ip('h1', 'addr show dev eth0'), before);
      await ip('h1', takeBack);
    });
  }

  it('is told before it moves when that is a setting that its host gave it', async () => {
    const file = '/proc/sys/net/ipv4/tcp_wmem';
    const pid = await two.at('h1').agent.host.initPid('setting');
    const sh = (command: string) =>
      execFileSync('nsenter', ['-t', String(pid), '-n', 'sh', '-ec', command])
        .toString()
        .trim();
    const before = sh(`cat ${file}`);
    sh(`echo 4096 77777 888888 > ${file}`);
    await assert.rejects(two.migrate('setting', 'h1', 'h2', 'refused-setting'), (error: Error) => {
      assert.match(error.message, /tcp_wmem is 4096 77777 888888/);
      return true;
    });
    assert.deepEqual(await two.states('h1'), { setting: 'running' });
    assert.deepEqual(await two.states('h2'), {});
    sh(`echo '${before}' > ${file}`);
  });

  it('is told too when it sets that after it was looked at, and it runs on', async () => {
    const pid = await two.at('h1').agent.host.initPid('setting');
    const address = ['10.77.9.9/32', 'dev', 'eth0'];
    two.wrapSource = (port) =>
      new FaultyPort(port, {
        session: (answers) =>
          changed<SourceMessage>(answers, (answer) => {
            if (answer.message?.$case === 'layout') {
              execFileSync('nsenter', ['-t', String(pid), '-n', 'ip', 'addr', 'add', ...address]);
            }
            return answer;
          }),
      });
    await assert.rejects(two.migrate('setting', 'h1', 'h2', 'meanwhile'), (error: Error) => {
      assert.match(error.message, /address 10\.77\.9\.9\/32 of eth0/);
      return true;
    });
    two.wrapSource = undefined;
    assert.deepEqual(await two.states('h1'), { setting: 'running' });
    assert.deepEqual(await two.states('h2'), {});
    await ip('h1', ['addr', 'del', ...address].join(' '));
  });

  it('moves there and back with what its hosts gave it, once', async () => {
    const show = async (host: HostName) =>
      (await ip(host, '-o -4 addr show dev eth0')) + (await ip(host, 'route show table all'));
    const key = async (host: HostName, command: string) => {
      const pid = String(await two.at(host).agent.host.initPid('setting'));
      const file = '/proc/sys/net/ipv4/tcp_fastopen_key';
      const shell = ['-t', pid, '-n', 'sh', '-ec', `${command} ${file}`];
      return execFileSync('nsenter', shell).toString().trim();
    };
    const cookies = '01234567-89abcdef-00000000-00000001';
    await key('h1', `echo ${cookies} >`);
    const before = await show('h1');
    await two.migrate('setting', 'h1', 'h2', 'there');
    assert.equal(await show('h2'), before);
    assert.equal(await key('h2', 'cat'), cookies);
    await two.migrate('setting', 'h2', 'h1', 'back');
    assert.equal(await show('h1'), before);
  });
});
