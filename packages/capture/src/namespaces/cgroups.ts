import { existsSync, readFileSync } from 'node:fs';
import type { ControlGroup } from '@ferry/image';
import { inNamespace, readProc, tryReadProc } from '@ferry/linux';
import { parseMountInfo } from './mountinfo.js';

/** Files that limit or describe a group, in an order in which they can be written. */
const PROPERTIES = [
  ...['cpuset.cpus', 'cpuset.mems', 'cpuset.cpu_exclusive', 'cpuset.memory_migrate'],
  ...['memory.limit_in_bytes', 'memory.memsw.limit_in_bytes', 'memory.soft_limit_in_bytes'],
  ...['memory.swappiness', 'memory.use_hierarchy', 'memory.oom_control'],
  ...['cpu.shares', 'cpu.cfs_period_us', 'cpu.cfs_quota_us', 'blkio.weight', 'pids.max'],
  ...['net_cls.classid', 'notify_on_release', 'cgroup.clone_children'],
  ...['memory.min', 'memory.low', 'memory.high', 'memory.max', 'memory.swap.max'],
  ...['memory.oom.group', 'cpu.weight', 'cpu.max', 'io.weight', 'io.max', 'cpuset.cpus.partition'],
  ...['cgroup.max.depth', 'cgroup.max.descendants', 'cgroup.subtree_control'],
];

interface Membership {
  /** "cpu,cpuacct", "name=systemd", or "" for cgroup v2. */
  readonly controllers: string;
  readonly path: string;
}

function memberships(pid: number | 'self'): Membership[] {
  return readProc(`/proc/${pid}/cgroup`)
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [, controllers, ...path] = line.split(':');
      return { controllers: controllers!, path: path.join(':') };
    });
}

/** Where hierarchies are mounted for whoever captures, by their controllers. */
function hierarchies(): Map<string, string> {
  const found = new Map<string, string>();
  for (const { type, root, mountpoint, options } of parseMountInfo(
    readProc('/proc/self/mountinfo'),
  )) {
    if (root !== '/' || (type !== 'cgroup' && type !== 'cgroup2')) continue;
    if (type === 'cgroup2') found.set('', mountpoint);
    else for (const option of options.split(',')) found.set(option, mountpoint);
  }
  return found;
}

/** The control groups of a process that `others` (whoever captures, or the root) is not in. */
export function controlGroupsOf(hostPid: number, others: number | 'self'): ControlGroup[] {
  if (tryReadProc(`/proc/${hostPid}/cgroup`) === undefined) return [];
  return describe(memberships(hostPid), others);
}

/** What a control group namespace shows as roots, by one of its processes.
 *  @param path  of the namespace
 *  @returns undefined when that process has left what the namespace shows */
export function groupRoots(
  hostPid: number,
  path: string,
  others: number | 'self',
): ControlGroup[] | undefined {
  const inside = new Map(
    inNamespace('cgroup', path, () => memberships(hostPid)).map((each) => [each.controllers, each]),
  );
  const roots: Membership[] = [];
  for (const { controllers, path: whole } of memberships(hostPid)) {
    const shown = inside.get(controllers)?.path ?? '/';
    const below = shown === '/' ? '' : shown;
    if (!whole.endsWith(below)) return undefined;
    roots.push({ controllers, path: whole.slice(0, whole.length - below.length) || '/' });
  }
  // A group that hands its controllers on takes no processes: that is set when those below are made.
  return describe(roots, others).map((group) => ({
    ...group,
    levels: group.levels.map(({ path: level, properties }) => ({
      path: level,
      properties: properties.filter(({ name }) => name !== 'cgroup.subtree_control'),
    })),
  }));
}

function describe(groups: readonly Membership[], others: number | 'self'): ControlGroup[] {
  const usual = new Map(memberships(others).map(({ controllers, path }) => [controllers, path]));
  const own = groups.filter(({ controllers, path }) => usual.get(controllers) !== path);
  // For most processes there is nothing to look for, and a host's list of mounts is long.
  if (own.length === 0) return [];
  const mounted = hierarchies();
  return own.flatMap(({ controllers, path }) => {
    const mountpoint = mounted.get(controllers === '' ? '' : controllers.split(',')[0]!);
    // A group that was removed while the process ended, or one that nobody here can see.
    if (mountpoint === undefined || path.endsWith(' (deleted)') || path.startsWith('/..'))
      return [];
    return [
      { mountpoint, path, levels: levelsOf(mountpoint, path, usual.get(controllers) ?? '/') },
    ];
  });
}

/** The group and those above it, from the top, with what is set in each. */
function levelsOf(mountpoint: string, path: string, usual: string): ControlGroup['levels'] {
  const parts = path.split('/').filter((part) => part !== '');
  return parts.map((_, i) => {
    const level = `/${parts.slice(0, i + 1).join('/')}`;
    const isShared = usual === level || usual.startsWith(`${level}/`);
    return { path: level, properties: isShared ? [] : propertiesOf(`${mountpoint}${level}`) };
  });
}

function propertiesOf(folder: string): { name: string; value: Buffer }[] {
  return PROPERTIES.flatMap((name) => {
    const path = `${folder}/${name}`;
    if (!existsSync(path)) return [];
    try {
      return [{ name, value: written(name, readFileSync(path, 'utf8').trim()) }];
    } catch {
      return []; // cannot be read in the root group, or while its controller is off
    }
  });
}

function written(name: string, text: string): Buffer {
  if (name === 'memory.oom_control')
    return Buffer.from(/oom_kill_disable (\d)/.exec(text)?.[1] ?? '0');
  if (name === 'cgroup.subtree_control') {
    const words = text.split(/\s+/).filter((word) => word !== '');
    return Buffer.from(words.map((word) => `+${word}`).join(' '));
  }
  return Buffer.from(text);
}
