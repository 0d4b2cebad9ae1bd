import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { addressOf, call, inNamespace, OwnedFd } from '@ferry/linux';
import { captureNamespaces } from '../src/namespaces/namespaces.js';

const MAC = '02:fe:0a:4d:00:05';
const GIVEN = {
  device: 'eth0',
  mac: '02fe0a4d0005',
  addresses: [
    { address: '0a4d0005', prefix: 24 },
    { address: 'fd770000000000000000000000000005', prefix: 64 },
  ],
  gateways: ['0a4d0001', 'fd770000000000000000000000000001'],
};

/** As a host does (container: network.ts): the pair, then what belongs inside. */
const OUTSIDE = (pid: number) => `ip link add fy0 address fe:fe:0a:4d:00:05 type veth \
    peer name eth0 address ${MAC} netns ${pid}
  ip link set fy0 addrgenmode none up`;
const INSIDE = `echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
  ip link set lo up
  ip addr add 10.77.0.5/24 brd + dev eth0
  ip addr add fd77::5/64 dev eth0 nodad
  ip link set eth0 up
  ip route add default via 10.77.0.1
  ip route add default via fd77::1 dev eth0`;

async function namespace(): Promise<ChildProcess & { pid: number }> {
  const child = spawn('unshare', ['-n', 'sh', '-c', 'echo ready; exec sleep 60'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout!, 'data');
  return child as ChildProcess & { pid: number };
}

const run = ({ pid }: { pid: number }, command: string): Buffer =>
  execFileSync('nsenter', ['-t', String(pid), '-n', 'sh', '-ec', command]);

/** if_nametoindex(3), of the network namespace that the thread is in. */
function networkIndex(name: string): number {
  using socket = new OwnedFd(call('socket', 2, 2, 0));
  const request = Buffer.alloc(40);
  request.write(name, 0, 'latin1');
  call('ioctl', socket.number, 0x8933, request); // SIOCGIFINDEX
  return request.readInt32LE(16);
}

describe('the network that a container was given', () => {
  let host: ChildProcess & { pid: number };
  let container: ChildProcess & { pid: number };
  beforeEach(async () => {
    [host, container] = [await namespace(), await namespace()];
    run(host, OUTSIDE(container.pid));
    run(container, INSIDE);
  });
  afterEach(async () => {
    for (const child of [container, host]) {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  });

  function found(
    settings: Record<string, string> = {},
    { tunDevices = new Set<string>(), below = [] as { pid: number }[] } = {},
  ) {
    const processes = [container, ...below].map(({ pid: hostPid }) => ({ hostPid, command: 'sh' }));
    const { blockers, added } = captureNamespaces(processes, {
      ...{ scanning: true, rootGiven: true, givenSettings: settings, givenNetwork: GIVEN },
      ...{ held: [], tunDevices },
    });
    return [...blockers, ...added()];
  }
  const told = () => found().map(({ code, object }) => `${code}: ${object}`);

  it('blocks nothing while it is as its host has made it', () => {
    assert.deepEqual(found(), []);
  });

  it('blocks nothing with what the kernel has found, and with neighbours that go along', () => {
    run(
      container,
      `ip neigh add 10.77.0.9 lladdr 02:00:00:00:00:09 dev eth0
      ip neigh add 10.77.0.8 lladdr 02:00:00:00:00:08 dev eth0 nud stale
      ip -6 route add default via fe80::1 dev eth0 proto ra metric 1023`,
    );
    assert.deepEqual(found(), []);
  });

  it('blocks nothing with a link-local address that the kernel makes, or is told not to', () => {
    for (const name of ['addr_gen_mode', 'disable_ipv6']) {
      run(container, `echo 1 > /proc/sys/net/ipv6/conf/eth0/${name}`);
      assert.deepEqual(
        told().filter((each) => each.includes('fe80')),
        [],
      );
      run(container, `echo 0 > /proc/sys/net/ipv6/conf/eth0/${name}`);
    }
  });

  it('blocks nothing with what a router has told the given device', async () => {
    run(host, 'ip addr add fe80::1/64 dev fy0 nodad');
    const advertisement = Buffer.alloc(24);
    advertisement[0] = 134; // RFC 4861, 4.2: a hop limit, two times, and a unit of 1400 bytes
    advertisement[4] = 32;
    advertisement.writeUInt32BE(20000, 8);
    advertisement.writeUInt32BE(2000, 12);
    advertisement.set([5, 1], 16);
    advertisement.writeUInt32BE(1400, 20);
    const toAll = Buffer.alloc(28); // struct sockaddr_in6 of ff02::1
    toAll.writeUInt16LE(10, 0);
    toAll.set([0xff, 2], 8);
    toAll[23] = 1;
    inNamespace('net', host.pid, () => {
      toAll.writeUInt32LE(networkIndex('fy0'), 24);
      using socket = new OwnedFd(call('socket', 10, 3, 58));
      const hops = Buffer.alloc(4);
      hops.writeInt32LE(255);
      call('setsockopt', socket.number, 41, 18, hops, 4); // IPV6_MULTICAST_HOPS
      call('sendto', socket.number, advertisement, 24, 0, toAll, toAll.length);
    });
    const hopLimit = () =>
      run(container, 'cat /proc/sys/net/ipv6/conf/eth0/hop_limit').toString().trim();
    for (let i = 0; i < 100 && hopLimit() !== '32'; i++) await sleep(10);
    assert.equal(hopLimit(), '32');
    assert.deepEqual(found(), []);
  });

  it('blocks nothing with settings that are configured for new devices', () => {
    run(container, 'echo 2 > /proc/sys/net/ipv4/conf/default/rp_filter');
    assert.deepEqual(found({ 'net/ipv4/conf/default/rp_filter': '2' }), []);
  });

  it('blocks nothing with a tun device that its descriptor brings along', () => {
    run(
      container,
      `ip tuntap add dev t7 mode tun
      ip addr add 10.8.0.1/24 dev t7
      ip link set t7 up
      ip route add 198.51.100.0/24 dev t7`,
    );
    assert.deepEqual(found({}, { tunDevices: new Set(['t7']) }), []);
  });

  it('blocks with routes, but not with addresses, of a pair that a carried network brings along', async () => {
    const nested = await namespace();
    try {
      run(
        container,
        `ip link add out0 type veth peer name in0 netns ${nested.pid}
        ip addr add 10.9.0.1/24 dev out0
        ip link set out0 up`,
      );
      run(nested, 'ip link set lo up; ip link set in0 up');
      const below = [nested];
      assert.deepEqual(found({}, { below }), []);
      run(container, 'ip route add 198.51.100.0/24 dev out0');
      assert.deepEqual(
        found({}, { below }).map(({ object }) => object),
        ['route 198.51.100.0/24 dev out0'],
      );
    } finally {
      nested.kill('SIGKILL');
      await once(nested, 'exit');
    }
  });

  const added: [string, string, string[]][] = [
    ['an address', 'ip addr add 10.77.0.200/24 dev eth0', ['address 10.77.0.200/24 of eth0']],
    ['an address of lo', 'ip addr add 192.0.2.1/32 dev lo', ['address 192.0.2.1/32 of lo']],
    [
      'an IPv6 address',
      'ip addr add fd77::1:0:0:9/64 dev eth0 nodad',
      ['address fd77::1:0:0:9/64 of eth0'],
    ],
    ['a link-local address', 'ip addr add fe80::9/64 dev eth0', ['address fe80::9/64 of eth0']],
    [
      'a route',
      'ip route add 198.51.100.0/24 via 10.77.0.9 metric 7',
      ['route 198.51.100.0/24 via 10.77.0.9 dev eth0 metric 7'],
    ],
    [
      'an IPv6 route',
      'ip route add 2001:db8::/32 via fd77::9',
      ['route 2001:db8::/32 via fd77::9 dev eth0 metric 1024'],
    ],
    ['a blackhole', 'ip route add blackhole 203.0.113.7', ['route blackhole 203.0.113.7/32']],
    [
      'a second default route',
      'ip route add default via 10.77.0.9 metric 5',
      ['route default via 10.77.0.9 dev eth0 metric 5'],
    ],
    [
      'a rule and its table',
      `ip rule add from 10.77.0.5 lookup 100 pref 1000
      ip route add default via 10.77.0.9 table 100`,
      ['route default via 10.77.0.9 dev eth0 table 100', 'routing rule 1000 (ip rule)'],
    ],
    ['an IPv6 rule', 'ip -6 rule add fwmark 7 lookup 9 pref 50', ['routing rule 50 (ip -6 rule)']],
    [
      'neighbours that do not go along',
      `ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev lo
      ip neigh add 10.77.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud noarp`,
      // Whatever is entered there, the kernel has it for all (net/ipv4/arp.c: arp_constructor).
      ['neighbour 0.0.0.0 dev lo', 'neighbour 10.77.0.9 dev eth0'],
    ],
  ];
  for (const [what, command, objects] of added) {
    it(`blocks with ${what} that was added, until that is removed as told`, () => {
      run(container, command);
      const blockers = found();
      assert.deepEqual(blockers.map(({ object }) => object).sort(), objects);
      for (const { code, remedy } of blockers) {
        assert.equal(code, 'network.added');
        run(container, remedy.replace('remove it: ', ''));
      }
      assert.deepEqual(found(), []);
    });
  }

  const removed: [string, string, string[]][] = [
    ['the default route', 'ip route del default', ['route default via 10.77.0.1 dev eth0']],
    [
      'the default route of IPv6',
      'ip -6 route del default',
      ['route default via fd77::1 dev eth0'],
    ],
    ['a rule', 'ip rule del pref 32767', ['routing rule 32767 (ip rule)']],
    ['a rule of IPv6', 'ip -6 rule del pref 32766', ['routing rule 32766 (ip -6 rule)']],
    ['the IPv6 address', 'ip addr del fd77::5/64 dev eth0', ['address fd77::5/64 of eth0']],
    [
      'the link-local address',
      'ip addr del fe80::fe:aff:fe4d:5/64 dev eth0',
      ['address fe80::fe:aff:fe4d:5/64 of eth0'],
    ],
    ['the way to its link', 'ip -6 route del fe80::/64 dev eth0', ['route fe80::/64 dev eth0']],
    ['the way to its subnet', 'ip route del 10.77.0.0/24', ['route 10.77.0.0/24 dev eth0']],
  ];
  for (const [what, command, objects] of removed) {
    it(`blocks with ${what} removed, until it is given back as told`, () => {
      run(container, command);
      let blockers = found();
      assert.ok(blockers.some(({ object }) => object === `${objects[0]}, which is missing`));
      for (let i = 0; i < 3 && blockers.length > 0; i++) {
        assert.deepEqual([...new Set(blockers.map(({ code }) => code))], ['network.removed']);
        for (const { remedy } of blockers) run(container, remedy.replace('give it back: ', ''));
        blockers = found();
      }
      assert.deepEqual(blockers, []);
    });
  }

  it('blocks with MPTCP endpoints and limits, until those are taken back as told', function () {
    if (!existsSync('/proc/sys/net/mptcp')) this.skip();
    run(container, 'ip mptcp endpoint add 10.77.0.5 signal; ip mptcp limits set subflow 7');
    const blockers = found();
    assert.deepEqual(
      blockers.map(({ code }) => code),
      ['network.mptcp', 'network.mptcp'],
    );
    for (const { remedy } of blockers) {
      run(container, remedy.replace(/^(remove it|take them back): /, ''));
    }
    assert.deepEqual(found(), []);
  });

  it('blocks with a default route that is not as it was given', () => {
    run(container, 'ip route replace default via 10.77.0.1 mtu 1400');
    assert.deepEqual(told(), [
      'network.added: route default via 10.77.0.1 dev eth0',
      'network.removed: route default via 10.77.0.1 dev eth0, which is missing',
    ]);
  });

  const changed: [string, string, string][] = [
    ['another MTU', 'ip link set eth0 mtu 1400', 'network device eth0 with mtu 1400'],
    ['another MTU of lo', 'ip link set lo mtu 9000', 'network device lo with mtu 9000'],
    ['another queue', 'ip link set eth0 txqueuelen 7', 'network device eth0 with txqueuelen 7'],
    [
      'smaller segments',
      'ip link set eth0 gso_max_size 9000',
      'network device eth0 with gso_max_size 9000',
    ],
    [
      'fewer segments',
      'ip link set eth0 gso_max_segs 9',
      'network device eth0 with gso_max_segs 9',
    ],
    ['no ARP', 'ip link set eth0 arp off', 'network device eth0 with no ARP'],
    ['no multicast', 'ip link set eth0 multicast off', 'network device eth0 with no multicast'],
    ['lo down', 'ip link set lo down', 'network device lo with down'],
    ['a group', 'ip link set eth0 group 7', 'network device eth0 with a group'],
    ['an alias', 'ip link set eth0 alias mine', 'network device eth0 with an alias'],
    [
      'another hardware address',
      'ip link set eth0 address 02:00:00:00:00:01',
      'network device eth0 with another hardware address',
    ],
    [
      'a group that it listens to',
      'ip maddr add 01:00:5e:00:00:77 dev eth0',
      'network device eth0 that listens to 01:00:5e:00:00:77',
    ],
    ['a token', 'ip token set ::7 dev eth0', 'network device eth0 with a token'],
  ];
  for (const [what, command, object] of changed) {
    it(`blocks with ${what}, until that is taken back as told`, () => {
      run(container, command);
      const blockers = found();
      assert.deepEqual(
        blockers.map((each) => `${each.code}: ${each.object}`),
        [`network.changed: ${object}`],
      );
      run(container, blockers[0]!.remedy.replace(/^(take it back|give back its own): /, ''));
      assert.deepEqual(found(), []);
    });
  }

  it('blocks with an offload that was switched off, until it is on again', () => {
    const setSegmentation = (value: number): void =>
      inNamespace('net', `/proc/${container.pid}/ns/net`, () => {
        using socket = new OwnedFd(call('socket', 2, 2, 0));
        const wish = Buffer.alloc(8);
        wish.writeUInt32LE(0x1f, 0); // ETHTOOL_STSO
        wish.writeUInt32LE(value, 4);
        const request = Buffer.alloc(40);
        request.write('eth0', 0, 'latin1');
        request.writeBigUInt64LE(addressOf(wish), 16);
        call('ioctl', socket.number, 0x8946, request); // SIOCETHTOOL
      });
    setSegmentation(0);
    assert.deepEqual(told(), ['network.changed: network device eth0 with tso switched off']);
    setSegmentation(1);
    assert.deepEqual(found(), []);
  });

  it('blocks with a device that was given and has another name', () => {
    run(container, 'ip link set eth0 down; ip link set eth0 name eth1');
    assert.ok(
      told().includes('network.changed: network device eth0, which has another name or is gone'),
    );
  });

  it('blocks with a device of the host that was moved there', () => {
    run(host, `ip link add d1 type veth peer name d2; ip link set d2 netns ${container.pid}`);
    assert.deepEqual(told(), ['network.added: network device d2 (veth)']);
  });

  it('blocks with what it took over from its host and has set anew, until that is as it was', () => {
    const value = inNamespace('net', container.pid, () =>
      readFileSync('/proc/sys/net/ipv4/tcp_rmem', 'utf8').trim(),
    );
    const given = { 'net/ipv4/tcp_rmem': value };
    assert.deepEqual(found(given), []);
    run(container, 'echo 4096 77777 888888 > /proc/sys/net/ipv4/tcp_rmem');
    const [blocker, ...others] = found(given);
    assert.deepEqual(others, []);
    assert.equal(blocker?.object, '/proc/sys/net/ipv4/tcp_rmem is 4096 77777 888888');
    run(container, blocker.remedy.replace('set it back: ', ''));
    assert.deepEqual(found(given), []);
  });

  const settings: [string, string, string][] = [
    ['a setting of its device', 'net/ipv4/conf/eth0/rp_filter', '1'],
    ['an IPv6 setting of its device', 'net/ipv6/conf/eth0/accept_ra', '0'],
    ['privacy addresses', 'net/ipv6/conf/eth0/use_tempaddr', '2'],
    ['looks for doubled addresses', 'net/ipv6/conf/eth0/accept_dad', '1'],
    ['a setting of lo', 'net/ipv4/conf/lo/route_localnet', '1'],
    ['a setting for all devices', 'net/ipv4/conf/all/arp_ignore', '1'],
    ['a setting for new devices', 'net/ipv4/conf/default/arp_announce', '2'],
    ['another hop limit of lo', 'net/ipv6/conf/lo/hop_limit', '7'],
    ['another hop limit', 'net/ipv6/conf/eth0/hop_limit', '7'],
    ['smaller packets of IPv6', 'net/ipv6/conf/eth0/mtu', '1400'],
    ['smaller packets of IPv6 at lo', 'net/ipv6/conf/lo/mtu', '1400'],
    ['a time of IPv6 neighbours', 'net/ipv6/neigh/eth0/retrans_time_ms', '400'],
    ['a policy that is not asked', 'net/ipv4/conf/eth0/disable_policy', '1'],
    ['a policy that lo is asked', 'net/ipv4/conf/lo/disable_policy', '0'],
    ['a policy that new devices are not asked', 'net/ipv4/conf/default/disable_policy', '1'],
    ['a time of neighbours', 'net/ipv4/neigh/eth0/retrans_time_ms', '400'],
    ['a setting of neighbours of lo', 'net/ipv6/neigh/lo/gc_stale_time', '77'],
    ['a setting of neighbours', 'net/ipv4/neigh/eth0/gc_stale_time', '77'],
  ];
  for (const [what, name, value] of settings) {
    it(`blocks with ${what}, until that is set back as told`, () => {
      run(container, `echo ${value} > /proc/sys/${name}`);
      const blockers = found();
      assert.deepEqual(
        blockers.map((each) => `${each.code}: ${each.object}`),
        [`namespace.setting: /proc/sys/${name} is ${value}`],
      );
      run(container, blockers[0]!.remedy.replace('set it back: ', ''));
      assert.deepEqual(found(), []);
    });
  }
});
