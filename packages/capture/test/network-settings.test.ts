import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { inNamespace } from '@ferry/linux';
import { captureNamespaces } from '../src/namespaces/namespaces.js';
import { changedSettings } from '../src/namespaces/settings.js';

const GIVEN = {
  device: 'eth0',
  mac: '02fe0a4d0005',
  addresses: [{ address: '0a4d0005', prefix: 24 }],
  gateways: ['0a4d0001'],
};
/** What a host notes of the namespace that it makes (container: network.ts). */
const INHERITED = ['net/ipv4/tcp_rmem', 'net/ipv4/tcp_wmem', 'net/ipv4/tcp_congestion_control'];
const SET_UP = (pid: number, doubled: number) => `ip link add fy0 type veth \
    peer name eth0 address 02:fe:0a:4d:00:05 netns ${pid}
  ip link set fy0 up
  nsenter -t ${pid} -n sh -ec 'echo ${doubled} > /proc/sys/net/ipv6/conf/eth0/accept_dad
  ip link set lo up
  ip addr add 10.77.0.5/24 brd + dev eth0
  ip link set eth0 up
  ip route add default via 10.77.0.1'`;

/** Never written here: it is the whole kernel's and cannot be switched off again (nf_hooks_lwtunnel.c). */
const NOT_TRIED = /\/nf_hooks_lwtunnel$/;
/** What only does something when it is written. */
const ACTIONS = /\/flush$/;
/** Other names of settings: in coarser units, or as a number. */
const OTHER_NAMES = [
  /\/(retrans_time|base_reachable_time|gc_min_interval)$/,
  /^net\/mptcp\/pm_type$/,
];
/** What has one value only here: no secret is for all devices, there is one scheduler, and no logger for these. */
const FIXED = [
  /^net\/ipv6\/conf\/all\/stable_secret$/,
  /^net\/mptcp\/scheduler$/,
  /^net\/netfilter\/nf_log\/\d+$/,
];
/** What does not stand in a container's way. */
const NOT_TOLD = [
  // Hosts take it along (container: network.ts).
  /^net\/ipv4\/tcp_fastopen_key$/,
  // It is as the kernel has it, and may be the host's of an earlier time.
  /^net\/ipv4\/conf\/all\/accept_source_route$/,
  // Told as the device's addrgenmode.
  /^net\/ipv6\/conf\/(eth0|lo)\/(addr_gen_mode|stable_secret)$/,
];

async function namespace(): Promise<ChildProcess & { pid: number }> {
  const child = spawn('unshare', ['-n', 'sh', '-c', 'echo ready; exec sleep 60'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout!, 'data');
  return child as ChildProcess & { pid: number };
}

/** Files below a folder of /proc/sys that may be written. */
function writable(name: string): string[] {
  const path = `/proc/sys/${name}`;
  const stat = statSync(path);
  if (stat.isDirectory()) return readdirSync(path).flatMap((each) => writable(`${name}/${each}`));
  const isLeftOut = [NOT_TRIED, ACTIONS, ...OTHER_NAMES].some((pattern) => pattern.test(name));
  return (stat.mode & 0o200) === 0 || isLeftOut ? [] : [name];
}

function read(name: string): string {
  try {
    return readFileSync(`/proc/sys/${name}`, 'utf8').trim();
  } catch {
    return ''; // a secret that nobody has set
  }
}

function write(name: string, value: string): void {
  try {
    writeFileSync(`/proc/sys/${name}`, `${value}\n`);
  } catch {
    // Not a value of this one.
  }
}

/** Values that may be another one of a setting. */
function candidates(name: string, value: string): string[] {
  const available = read('net/ipv4/tcp_available_congestion_control').split(' ');
  const numbers = value.split(/\s+/);
  const others = [1, -1, 10, -10, 1000].map((step) =>
    numbers.map((each) => String(Number(each) + step)).join(' '),
  );
  return [
    ...(name.endsWith('congestion_control') ? available : []),
    ...(/^-?\d+(\s+-?\d+)*$/.test(value) ? others : []),
    ...['1', '0', '2', '4', '7777', '100 200', 'none', 'NONE', 'nf_log_syslog', 'userspace'],
    ...['00000001-00000002-00000003-00000004', '2001:db8::7'],
  ];
}

/** Gives settings another value, in the namespace that the thread is in.
 *  @returns names of those that took one */
function change(names: readonly string[], outside: (name: string) => string): string[] {
  return names.filter((name) => {
    const [before, elsewhere] = [read(name), outside(name)];
    for (const value of candidates(name, before)) {
      if (value === before) continue;
      write(name, value);
      if (read(name) !== before) break;
    }
    if (read(name) === before) return false;
    if (outside(name) === elsewhere) return true;
    write(name, before); // one of the whole kernel
    return false;
  });
}

describe('settings of a network namespace', function () {
  this.timeout(120_000);
  let host: ChildProcess & { pid: number };
  let container: ChildProcess & { pid: number };
  let noted: Record<string, string>;

  async function start({ doubled }: { doubled: number }): Promise<void> {
    [host, container] = [await namespace(), await namespace()];
    const script = SET_UP(container.pid, doubled);
    execFileSync('nsenter', ['-t', String(host.pid), '-n', 'sh', '-ec', script]);
    noted = inside(() => Object.fromEntries(INHERITED.map((name) => [name, read(name)])));
  }
  async function stop(): Promise<void> {
    for (const child of [container, host]) {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  }
  const inside = <T>(work: () => T): T => inNamespace('net', container.pid, work);
  const outside = (name: string): string => inNamespace('net', host.pid, () => read(name));

  function told(): Set<string> {
    const { blockers, added } = captureNamespaces([{ hostPid: container.pid, command: 'sh' }], {
      ...{ scanning: true, rootGiven: true, givenSettings: noted, givenNetwork: GIVEN },
      ...{ held: [], tunDevices: new Set<string>() },
    });
    return new Set(
      [...blockers, ...added()].map(({ object }) => object.replace(/^.proc.sys.| is .*/g, '')),
    );
  }

  /** Changes each setting there is, those of a folder at once, and asks what of that is seen. */
  async function unseen(options: { doubled: number; seen: () => ReadonlySet<string> }) {
    await start(options);
    const names = inside(() => writable('net'));
    await stop();
    const found = { changed: 0, unseen: [] as string[], unchanged: [] as string[] };
    for (const folder of new Set(names.map((name) => dirname(name)))) {
      await start(options);
      try {
        const all = names.filter((name) => dirname(name) === folder);
        const changed = inside(() => change(all, outside));
        const seen = options.seen();
        found.changed += changed.length;
        found.unseen.push(...changed.filter((name) => !seen.has(name)));
        found.unchanged.push(...all.filter((name) => !changed.includes(name)));
      } finally {
        await stop();
      }
    }
    return found;
  }

  const except = (names: readonly string[], exceptions: readonly RegExp[]): string[] =>
    names.filter((name) => !exceptions.some((pattern) => pattern.test(name)));

  it('are left to the next host while they are as a new namespace and its devices have them', async () => {
    await start({ doubled: 1 });
    try {
      const changed = changedSettings('net', `/proc/${container.pid}/ns/net`);
      // It follows that of the device.
      const ofDevice = 'net/ipv6/conf/eth0/mtu';
      assert.deepEqual(
        changed.map(({ name }) => name).filter((name) => name !== ofDevice),
        [],
      );
    } finally {
      await stop();
    }
  });

  it('are carried with a tree, whichever was changed', async () => {
    const seen = () =>
      new Set(changedSettings('net', `/proc/${container.pid}/ns/net`).map(({ name }) => name));
    const found = await unseen({ doubled: 1, seen });
    assert.ok(found.changed > 300, `only ${found.changed} settings were changed`);
    assert.deepEqual(found.unseen, []);
    assert.deepEqual(except(found.unchanged, FIXED), []);
  });

  it('block a container, whichever it has changed', async () => {
    const found = await unseen({ doubled: 0, seen: told });
    assert.ok(found.changed > 300, `only ${found.changed} settings were changed`);
    assert.deepEqual(except(found.unseen, NOT_TOLD), []);
    assert.deepEqual(except(found.unchanged, FIXED), []);
  });
});
