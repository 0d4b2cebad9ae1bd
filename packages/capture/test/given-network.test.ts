import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { captureNamespaces } from '../src/namespaces/namespaces.js';

/** Codes of what stands in the way of a container whose network was changed by a command. */
async function refused(
  command: string,
  tunDevices: ReadonlySet<string> = new Set(),
): Promise<string[]> {
  const child = spawn('unshare', ['-n', 'sh', '-c', 'echo ready; exec sleep 60'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    await once(child.stdout!, 'data');
    const hostPid = child.pid!;
    execFileSync('nsenter', ['-t', String(hostPid), '-n', 'sh', '-c', command]);
    const { blockers, added, namespaces } = captureNamespaces([{ hostPid, command: 'sh' }], {
      scanning: true,
      rootGiven: true,
      givenSettings: { 'net/ipv4/ip_default_ttl': '77' },
      held: [],
      tunDevices,
    });
    assert.equal(namespaces.length, 0);
    return [...blockers, ...added()].map(({ code, object }) => `${code}: ${object}`);
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
}

describe('the network that a container is given', () => {
  it('is made anew, so that nothing of it blocks while it is as it was given', async () => {
    assert.deepEqual(await refused('ip link set lo up'), []);
  });

  it('blocks with a setting that was changed inside, unless it is configured so', async () => {
    const set = 'sysctl -qw net.ipv4.ip_default_ttl=';
    assert.deepEqual(await refused(`${set}77`), []);
    assert.deepEqual(await refused(`${set}78`), [
      'namespace.setting: /proc/sys/net/ipv4/ip_default_ttl is 78',
    ]);
  });

  it('blocks with a device that was made inside', async () => {
    assert.deepEqual(await refused('ip link add br7 type bridge'), [
      'network.added: network device br7 (bridge)',
    ]);
  });

  it('blocks with a tun device that was made inside, unless it comes with a descriptor', async () => {
    const command = 'ip tuntap add dev t7 mode tun';
    assert.deepEqual(await refused(command), ['network.added: network device t7 (tun)']);
    assert.deepEqual(await refused(command, new Set(['t7'])), []);
  });

  it('blocks with nexthop objects that were made inside', async () => {
    assert.deepEqual(await refused('ip link set lo up && ip nexthop add id 5 dev lo'), [
      'network.added: 1 nexthop objects',
    ]);
  });

  it('blocks with a packet filter that was set inside', async () => {
    assert.deepEqual(await refused('nft add table inet own'), [
      'network.added: 1 tables of nftables',
    ]);
  });

  it('blocks with a queueing discipline that was set inside', async () => {
    const command = 'tc qdisc add dev lo root tbf rate 1mbit burst 10k latency 10ms';
    assert.deepEqual(await refused(command), ['network.qdisc: queueing discipline tbf of lo']);
  });

  it('blocks with devices that were told to take everything, and with proxied neighbours', async () => {
    const command = `ip link set lo up promisc on allmulticast on
      ip neigh add proxy 10.1.2.77 dev lo`;
    assert.deepEqual(await refused(command), [
      'network.added: network device lo takes everything (promisc)',
      'network.added: network device lo takes everything (allmulticast)',
      'network.added: 1 neighbours that are answered for',
    ]);
  });

  it('blocks with IPv6 address labels that were changed inside', async () => {
    const command = `ip addrlabel add prefix 2001:db8::/32 label 99
      ip addrlabel del prefix 2002::/16 label 2`;
    assert.deepEqual(await refused(command), [
      'network.addressLabel: IPv6 address label prefix 2001:db8:0:0:0:0:0:0/32 label 99',
      'network.addressLabel: IPv6 address label prefix 2002:0:0:0:0:0:0:0/16 label 2 (removed)',
    ]);
  });

  it('blocks with MPTCP endpoints and limits that were set inside', async function () {
    if (!existsSync('/proc/sys/net/mptcp')) this.skip();
    const command = `ip mptcp endpoint add 192.0.2.1 id 3 signal
      ip mptcp endpoint add 2001:db8::1 id 200 subflow
      ip mptcp limits set subflow 5 add_addr_accepted 4`;
    assert.deepEqual(await refused(command), [
      'network.mptcp: MPTCP endpoint 3 (192.0.2.1)',
      'network.mptcp: MPTCP endpoint 200 (2001:db8::1)',
      'network.mptcp: MPTCP limits subflow 5 add_addr_accepted 4',
    ]);
  });

  it('blocks with a connection whose port is translated', async () => {
    const command = `ip link set lo up
      nft 'add table ip nat; add chain ip nat out { type nat hook output priority -100; }'
      nft add rule ip nat out udp dport 7000 redirect to :7001
      bash -c 'echo > /dev/udp/127.0.0.1/7000'`;
    assert.deepEqual(await refused(command), [
      'network.translation: 1 connections with translated addresses',
      'network.added: 1 tables of nftables',
    ]);
  });
});
