import { existsSync, readdirSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { removeOnSignal } from '../../../test/support/on-signal.js';
import { makeRunFolder, removeRun } from '../../../test/support/run-folder.js';
import { traceLines, tracesOf } from '../../../test/support/traces.js';
import {
  ContainerHost,
  ensureBridge,
  type HostConfig,
  mustRun,
  type RunSpec,
} from '../src/index.js';
import { createNetns, releaseNetns } from '../src/netns.js';

/** Real hosts for tests: each a network namespace with a bridge, joined by a veth pair, and a state
 *  folder. */

export const PROGRAMS = ['sh', 'cat', 'sleep', 'ls', 'mkdir', 'rm', 'ln', 'mkfifo', 'setsid'].map(
  (name) => (existsSync(`/bin/${name}`) ? `/bin/${name}` : `/usr/bin/${name}`),
);

export class TestHosts {
  readonly folder: string;
  readonly configs: readonly HostConfig[];
  readonly hosts: ContainerHost[] = [];
  readonly #id: string;
  readonly #netns: readonly string[];
  readonly #unguard: () => void;

  private constructor(id: string, folder: string, netns: readonly string[]) {
    this.folder = folder;
    this.#id = id;
    this.#netns = netns;
    this.#unguard = removeOnSignal(id);
    this.configs = netns.map((hostNetns, index) => ({
      ...{ nodeId: `${id}-${index}`, stateDir: join(folder, `state${index}`) },
      runDir: join(folder, `run${index}`),
      network: {
        ...{ bridge: 'br0', hostNetns, subnet: '10.77.0.0/24', subnet6: 'fd77::/64' },
        range: `10.77.0.${10 + index * 50}-10.77.0.${40 + index * 50}`,
      },
    }));
  }

  static async make(count: number): Promise<TestHosts> {
    const { id, path } = await makeRunFolder();
    const folder = join(path, 'hosts');
    const netns = Array.from({ length: count }, (_, index) => join(folder, `net${index}`));
    const made = new TestHosts(id, folder, netns);
    try {
      await made.#connect();
      for (const config of made.configs) made.hosts.push(await ContainerHost.open(config));
      return made;
    } catch (error) {
      await made.remove();
      throw error;
    }
  }

  host(index = 0): ContainerHost {
    const host = this.hosts[index];
    if (host === undefined) throw new Error(`There is no host ${index}`);
    return host;
  }

  /** What a restarted agent does. */
  async reopen(index = 0): Promise<ContainerHost> {
    await this.host(index).close();
    const host = await ContainerHost.open(this.configs[index] as HostConfig);
    this.hosts[index] = host;
    return host;
  }

  /** Files that keep the hosts' network namespaces. */
  netns(index = 0): string {
    return this.#netns[index] as string;
  }

  /** Removes all, and returns what the hosts left behind. */
  async remove(): Promise<string[]> {
    const left: string[] = [];
    for (const host of this.hosts) {
      await host.destroy().catch((error: unknown) => left.push(String(error)));
    }
    for (const path of this.#netns) await releaseNetns(path);
    left.push(...readdirSync(this.folder, { recursive: true, encoding: 'utf8' }));
    left.push(...traceLines({ ...tracesOf(this.#id), files: [] }));
    this.#unguard();
    await removeRun(this.#id);
    return left;
  }

  async #connect(): Promise<void> {
    for (const [index, path] of this.#netns.entries()) {
      await mkdir(this.folder, { recursive: true });
      await createNetns(path);
      await ensureBridge('br0', { address: `10.77.0.${1 + index}/24`, hostNetns: path });
      if (index === 0) continue;
      const first = ['nsenter', `--net=${this.#netns[0]}`, 'ip', 'link'];
      const [program = '', ...rest] = first;
      const pair = ['add', `up${index}`, 'type', 'veth', 'peer', 'name', 'uplink', 'netns', path];
      await mustRun(program, [...rest, ...pair]);
      await mustRun(program, [...rest, 'set', `up${index}`, 'master', 'br0', 'up']);
      const inside = [`--net=${path}`, 'ip', 'link', 'set', 'uplink', 'master', 'br0', 'up'];
      await mustRun('nsenter', inside);
    }
  }
}

/** What of ours is on the machine: mounts, cgroups, devices, processes that carry `tag` in their
 *  name or path. */
export async function traces(tag: string): Promise<string[]> {
  const find = [
    '-c',
    'find /sys/fs/cgroup -type d -name "*$0*"; grep -F "$0" /proc/self/mountinfo; true',
    tag,
  ];
  const text = (await mustRun('/bin/sh', find)).stdout.toString('utf8');
  return text.split('\n').filter((line) => line !== '');
}

export function shellSpec(name: string, script: string, more: Partial<RunSpec> = {}): RunSpec {
  const image = { kind: 'program' as const, programs: PROGRAMS };
  return { name, image, args: ['/bin/sh', '-c', script], ...more };
}

/** Builds the static test program. */
export async function buildPeer(folder: string): Promise<string> {
  const target = join(folder, 'peer');
  const source = join(import.meta.dirname, 'peer.c');
  await mustRun('cc', ['-static', '-O1', '-Wall', '-Werror', '-o', target, source]);
  return target;
}

export async function gather<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

/** Waits until `condition` holds; fails after two seconds. */
export async function until(what: string, condition: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + 2000;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`Not within two seconds: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
