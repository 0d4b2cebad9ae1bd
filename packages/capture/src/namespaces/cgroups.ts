import { existsSync, lstatSync, readdirSync, readFileSync } from 'node:fs';
import type { ControlGroup, ControlGroupFile, ControlGroupLevel } from '@ferry/image';
import { inNamespace, readLink, readProc, tryReadProc } from '@ferry/linux';
import { parseMountInfo } from './mountinfo.js';

/** Files that limit or describe a group, in an order in which they can be written. */
const PROPERTIES = [
  'cgroup.type',
  ...['cpuset.cpus', 'cpuset.mems', 'cpuset.cpu_exclusive', 'cpuset.memory_migrate'],
  ...['memory.limit_in_bytes', 'memory.memsw.limit_in_bytes', 'memory.soft_limit_in_bytes'],
  ...['memory.swappiness', 'memory.use_hierarchy', 'memory.oom_control'],
  ...['cpu.shares', 'cpu.cfs_period_us', 'cpu.cfs_quota_us', 'blkio.weight', 'pids.max'],
  ...['net_cls.classid', 'notify_on_release', 'cgroup.clone_children', 'devices.list'],
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
  return parseMemberships(readProc(`/proc/${pid}/cgroup`));
}

function parseMemberships(text: string): Membership[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [, controllers, ...path] = line.split(':');
      return { controllers: controllers!, path: path.join(':') };
    });
}

/** Where a hierarchy is mounted, and which of its groups is the root there. */
interface Hierarchy {
  readonly mountpoint: string;
  readonly root: string;
}

/** How somebody sees control groups. */
interface View {
  /** By their controllers; '' for cgroup v2. */
  readonly hierarchies: ReadonlyMap<string, Hierarchy>;
  /** In front of a mount point, for us to get there. */
  readonly prefix: string;
}

function hierarchiesIn(mountinfo: string): Map<string, Hierarchy> {
  const found = new Map<string, Hierarchy>();
  for (const { type, root, mountpoint, options, flags } of parseMountInfo(mountinfo)) {
    if (flags.includes('ro') || (type !== 'cgroup' && type !== 'cgroup2')) continue;
    const keys = type === 'cgroup2' ? [''] : options.split(',');
    for (const key of keys) {
      // What shows more of it is the better one.
      const before = found.get(key);
      if (before === undefined || root.length < before.root.length) {
        found.set(key, { mountpoint, root });
      }
    }
  }
  return found;
}

/** For whoever captures: only hierarchies that are mounted whole. */
function ownView(): View {
  const all = hierarchiesIn(readProc('/proc/self/mountinfo'));
  const whole = [...all].filter(([, { root }]) => root === '/');
  return { hierarchies: new Map(whole), prefix: '' };
}

/** Control groups of the processes and threads of a tree, as its root sees them: there they are joined again. */
export class ControlGroups {
  readonly #root: number;
  readonly #rootText: string;
  /** Of the process last asked for, which does not change while it stands: each of its threads is compared with it. */
  #last: { readonly hostPid: number; readonly text: string | undefined } | undefined;
  #view: View | undefined;

  constructor(root: number) {
    this.#root = root;
    this.#rootText = tryReadProc(`/proc/${root}/cgroup`) ?? '';
  }

  /** Of the root itself, outside, where whoever captures is not in them. */
  ofRoot(): ControlGroup[] {
    if (this.#rootText === '') return [];
    return describe(parseMemberships(this.#rootText), memberships('self'), ownView);
  }

  /** Of the root itself, where it has left the groups that its container begins in. */
  ofRootInside(): ControlGroup[] {
    const inside = this.#inside(this.#root);
    if (inside.every(({ path }) => path === '/')) return [];
    const top = inside.map(({ controllers }) => {
      const { root = '/' } = this.#rootView().hierarchies.get(keyOf(controllers)) ?? {};
      return { controllers, path: root };
    });
    const groups = describe(inside, top, () => this.#rootView());
    return groups.map((group) => (group.unified ? this.#withTop(group) : group));
  }

  /** Of another process: where the root is not. */
  of(hostPid: number): ControlGroup[] {
    const text = this.#textOf(hostPid);
    if (text === undefined || text === this.#rootText) return [];
    return describe(this.#inside(hostPid), this.#inside(this.#root), () => this.#rootView());
  }

  /** Of a thread: where the first of its process is not. */
  ofThread(hostPid: number, hostTid: number): ControlGroup[] {
    const task = `${hostPid}/task/${hostTid}`;
    if (tryReadProc(`/proc/${task}/cgroup`) === this.#textOf(hostPid)) return [];
    return describe(this.#inside(task), this.#inside(hostPid), () => this.#rootView());
  }

  #textOf(hostPid: number): string | undefined {
    if (this.#last?.hostPid !== hostPid) {
      this.#last = { hostPid, text: tryReadProc(`/proc/${hostPid}/cgroup`) };
    }
    return this.#last.text;
  }

  /** Whether the root sees other groups as the first ones than we do. */
  get isApart(): boolean {
    const path = `/proc/${this.#root}/ns/cgroup`;
    return tryReadLink(path) !== tryReadLink('/proc/self/ns/cgroup');
  }

  #rootView(): View {
    this.#view ??= {
      hierarchies: hierarchiesIn(this.#asRoot(() => readProc(`/proc/${this.#root}/mountinfo`))),
      prefix: `/proc/${this.#root}/root`,
    };
    return this.#view;
  }

  #inside(task: number | string): Membership[] {
    return parseMemberships(this.#asRoot(() => tryReadProc(`/proc/${task}/cgroup`)) ?? '');
  }

  /** Paths of groups depend on the namespace of whoever reads them. */
  #asRoot<T>(action: () => T): T {
    if (!this.isApart) return action();
    return inNamespace('cgroup', `/proc/${this.#root}/ns/cgroup`, action);
  }

  /** What the first group of a container hands on to those below it, once nothing is in it any more. */
  #withTop(group: ControlGroup): ControlGroup {
    const folder = `${this.#rootView().prefix}${group.mountpoint}`;
    const properties = propertiesOf(folder, ['cgroup.subtree_control']);
    return { ...group, levels: [{ path: '/', properties, files: [] }, ...group.levels] };
  }
}

function tryReadLink(path: string): string {
  try {
    return readLink(path);
  } catch {
    return '';
  }
}

function keyOf(controllers: string): string {
  return controllers.split(',')[0]!;
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
  return describe(roots, memberships(others), ownView).map((group) => ({
    ...group,
    levels: group.levels.map(({ path: level, properties, files }) => ({
      path: level,
      files,
      properties: properties.filter(({ name }) => name !== 'cgroup.subtree_control'),
    })),
  }));
}

function describe(
  groups: readonly Membership[],
  others: readonly Membership[],
  viewOf: () => View,
): ControlGroup[] {
  const usual = new Map(others.map(({ controllers, path }) => [controllers, path]));
  const own = groups.filter(({ controllers, path }) => usual.get(controllers) !== path);
  // For most processes there is nothing to look for, and a host's list of mounts is long.
  if (own.length === 0) return [];
  const { hierarchies, prefix } = viewOf();
  return own.flatMap(({ controllers, path: whole }) => {
    const hierarchy = hierarchies.get(keyOf(controllers));
    const path = hierarchy && belowRoot(whole, hierarchy.root);
    // A group that was removed while the process ended, or one that nobody there can see.
    if (hierarchy === undefined || path === undefined || path.endsWith(' (deleted)')) return [];
    const { mountpoint, root } = hierarchy;
    const shared = belowRoot(usual.get(controllers) ?? '/', root) ?? '/';
    const folder = `${prefix}${mountpoint}`;
    const levels = levelsOf(folder, path, shared);
    const empty = path === '/' || path === shared ? [] : emptyBelow(folder, path);
    return [{ mountpoint, path, levels, unified: controllers === '', empty }];
  });
}

/** A path in a mount that shows the group `root` as its first; undefined for what it does not show. */
function belowRoot(path: string, root: string): string | undefined {
  if (path === '/..' || path.startsWith('/../')) return undefined;
  if (root === '/') return path;
  if (path === root) return '/';
  return path.startsWith(`${root}/`) ? path.slice(root.length) : undefined;
}

/** The group and those above it, from the top, with what is set in each. */
function levelsOf(folder: string, path: string, usual: string): ControlGroup['levels'] {
  const parts = path.split('/').filter((part) => part !== '');
  return parts.map((_, i) => {
    const level = `/${parts.slice(0, i + 1).join('/')}`;
    const isShared = usual === level || usual.startsWith(`${level}/`);
    return isShared ? { path: level, properties: [], files: [] } : levelAt(folder, level);
  });
}

function levelAt(folder: string, level: string): ControlGroupLevel {
  const properties = propertiesOf(`${folder}${level}`);
  return { path: level, properties, files: changedFiles(folder, level) };
}

const EMPTY_MAX = 256;

/** Groups below one that hold nobody, parents first. */
function emptyBelow(folder: string, path: string): ControlGroupLevel[] {
  const found: ControlGroupLevel[] = [];
  const visit = (level: string): void => {
    for (const entry of listed(`${folder}${level}`)) {
      if (!entry.isDirectory() || found.length >= EMPTY_MAX) continue;
      const below = `${level}/${entry.name}`;
      if (!isEmpty(`${folder}${below}`)) continue;
      found.push(levelAt(folder, below));
      visit(below);
    }
  };
  visit(path);
  return found;
}

function listed(folder: string) {
  try {
    return readdirSync(folder, { withFileTypes: true });
  } catch {
    return []; // it was removed meanwhile
  }
}

function isEmpty(folder: string): boolean {
  try {
    return readFileSync(`${folder}/cgroup.procs`, 'utf8') === '';
  } catch {
    return false; // threads only
  }
}

/** Those of a group that belong to somebody, or that have not the mode of the same file of the first group. */
function changedFiles(folder: string, level: string): ControlGroupFile[] {
  const names = listed(`${folder}${level}`).filter((entry) => !entry.isDirectory());
  return ['', ...names.map(({ name }) => name)].flatMap((name) => {
    try {
      const { mode, uid, gid } = lstatSync(`${folder}${level}/${name}`);
      const usual = lstatSync(`${folder}/${name}`, { throwIfNoEntry: false })?.mode ?? mode;
      if (uid === 0 && gid === 0 && mode === usual) return [];
      return [{ name, mode: mode & 0o7777, user: uid, group: gid }];
    } catch {
      return [];
    }
  });
}

function propertiesOf(
  folder: string,
  names: readonly string[] = PROPERTIES,
): { name: string; value: Buffer }[] {
  return names.flatMap((name) => {
    const path = `${folder}/${name}`;
    if (!existsSync(path)) return [];
    try {
      if (name === 'devices.list') return devicesOf(readFileSync(path, 'utf8'));
      const text = readFileSync(path, 'utf8').trim();
      // A domain is one by itself.
      if (name === 'cgroup.type' && text !== 'threaded') return [];
      return [{ name, value: written(name, text) }];
    } catch {
      return []; // cannot be read in the root group, or while its controller is off
    }
  });
}

/** What allows every device allows it as it is made; else each is allowed by itself: cgroup-v1/devices.rst. */
function devicesOf(list: string): { name: string; value: Buffer }[] {
  const lines = list.split('\n').filter((line) => line !== '');
  if (lines.includes('a *:* rwm')) return [];
  const allowed = lines.map((line) => ({ name: 'devices.allow', value: Buffer.from(line) }));
  return [{ name: 'devices.deny', value: Buffer.from('a') }, ...allowed];
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
