import { FerryError } from '@ferry/core';
import { chooseCapabilities, DEFAULT_CAPABILITIES, restoreCapabilities } from './capabilities.js';
import { type OciConfig, type OciMount, ociConfigSchema } from './oci-config.js';
import { defaultSeccomp } from './seccomp.js';
import type { CheckedSpec } from './spec.js';
import { checkMapped, hasUserNamespace } from './user-namespace.js';

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const CPU_PERIOD_US = 100_000;
const SHM_BYTES = 64 * 1024 * 1024;

/** Kernel files that tell about the host, or reach it: hidden, or read-only. */
const MASKED_PATHS = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/sys/firmware',
  '/sys/devices/virtual/powercap',
];
const READONLY_PATHS = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

/** What each container has mounted: the list of the OCI specification, without cgroup. */
const DEFAULT_MOUNTS: readonly OciMount[] = [
  { destination: '/proc', type: 'proc', source: 'proc' },
  {
    destination: '/dev',
    type: 'tmpfs',
    source: 'tmpfs',
    options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'],
  },
  {
    destination: '/dev/pts',
    type: 'devpts',
    source: 'devpts',
    options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
  },
  {
    destination: '/dev/shm',
    type: 'tmpfs',
    source: 'shm',
    options: ['nosuid', 'noexec', 'nodev', 'mode=1777', `size=${SHM_BYTES}`],
  },
  {
    destination: '/dev/mqueue',
    type: 'mqueue',
    source: 'mqueue',
    options: ['nosuid', 'noexec', 'nodev'],
  },
  {
    destination: '/sys',
    type: 'sysfs',
    source: 'sysfs',
    options: ['nosuid', 'noexec', 'nodev', 'ro'],
  },
];

/** What is the same on every host: the configuration of a container without paths of this host.
 *  Pure.
 *  @param base  the config.json of an OCI bundle, checked; left out for the other kinds of image
 *  @throws FerryError container.spec */
export function buildConfig(spec: CheckedSpec, base?: OciConfig): OciConfig {
  const args = spec.args ?? base?.process.args;
  if (args === undefined || args.length === 0) {
    throw new FerryError('container.spec', `The spec of ${spec.name} has no args`, {
      remedy: 'give the program and its arguments in "args"',
    });
  }
  const config: OciConfig = {
    ociVersion: '1.0.2',
    process: processPart(spec, args, base),
    root: { path: '', readonly: spec.readonly ?? base?.root.readonly ?? false },
    hostname: spec.hostname ?? base?.hostname ?? spec.name,
    mounts: [
      ...(base?.mounts ?? DEFAULT_MOUNTS).filter(isNotCgroup),
      ...spec.mounts.map(mountPart),
    ],
    ...(base?.annotations === undefined ? {} : { annotations: base.annotations }),
    linux: linuxPart(spec, base),
  };
  checkMapped(config);
  return config;
}

function processPart(
  spec: CheckedSpec,
  args: readonly string[],
  base: OciConfig | undefined,
): OciConfig['process'] {
  const own = base?.process;
  const capabilities = chooseCapabilities(
    own === undefined ? DEFAULT_CAPABILITIES : (own.capabilities?.bounding ?? []),
    spec.capabilities,
  );
  const ambient = own?.capabilities?.ambient.filter((name) => capabilities.includes(name)) ?? [];
  const env = new Map<string, string>([['PATH', PATH]]);
  for (const entry of own?.env ?? []) {
    const equals = entry.indexOf('=');
    if (equals > 0) env.set(entry.slice(0, equals), entry.slice(equals + 1));
  }
  for (const [key, value] of Object.entries(spec.env)) env.set(key, value);
  const rlimits = spec.rlimits ?? own?.rlimits;
  return {
    ...own,
    terminal: false,
    user: spec.user ?? own?.user ?? { uid: 0, gid: 0, additionalGids: [] },
    args: [...args],
    env: [...env].map(([key, value]) => `${key}=${value}`),
    cwd: spec.cwd ?? own?.cwd ?? '/',
    capabilities: {
      bounding: capabilities,
      effective: capabilities,
      permitted: capabilities,
      inheritable: ambient,
      ambient,
    },
    noNewPrivileges: spec.noNewPrivileges ?? own?.noNewPrivileges ?? true,
    ...(rlimits === undefined ? {} : { rlimits }),
  };
}

function linuxPart(spec: CheckedSpec, base: OciConfig | undefined): OciConfig['linux'] {
  const own = base?.linux;
  const seccomp = seccompPart(spec, base);
  const sysctl = { ...own?.sysctl, ...spec.sysctl };
  const isMapped = own?.uidMappings !== undefined && own.gidMappings !== undefined;
  const types = [...(isMapped ? ['user'] : []), 'pid', 'uts', 'ipc', 'network', 'mount'];
  return {
    namespaces: types.map((type) => ({ type })),
    ...(isMapped ? { uidMappings: own.uidMappings, gidMappings: own.gidMappings } : {}),
    resources: resourcesPart(spec, base),
    ...(own?.devices === undefined ? {} : { devices: own.devices }),
    ...(own?.mountLabel === undefined ? {} : { mountLabel: own.mountLabel }),
    ...(seccomp === undefined ? {} : { seccomp }),
    maskedPaths: own?.maskedPaths ?? MASKED_PATHS,
    readonlyPaths: own?.readonlyPaths ?? READONLY_PATHS,
    ...(Object.keys(sysctl).length === 0 ? {} : { sysctl }),
  };
}

function resourcesPart(spec: CheckedSpec, base: OciConfig | undefined) {
  const own = base?.linux.resources;
  return {
    ...own,
    devices: own?.devices ?? [{ allow: false, access: 'rwm' }],
    ...(spec.memoryLimitBytes === undefined ? {} : { memory: { limit: spec.memoryLimitBytes } }),
    ...(spec.cpus === undefined
      ? {}
      : { cpu: { quota: Math.round(spec.cpus * CPU_PERIOD_US), period: CPU_PERIOD_US } }),
    ...(spec.pidsLimit === undefined ? {} : { pids: { limit: spec.pidsLimit } }),
  };
}

function seccompPart(spec: CheckedSpec, base: OciConfig | undefined) {
  if (spec.seccomp === undefined) return base?.linux.seccomp;
  if (spec.seccomp === 'none') return undefined;
  if (spec.seccomp === 'default') return defaultSeccomp();
  return ociConfigSchema.shape.linux.shape.seccomp.parse(spec.seccomp);
}

function mountPart(mount: CheckedSpec['mounts'][number]): OciMount {
  if (mount.kind === 'bind') {
    return {
      destination: mount.destination,
      type: 'bind',
      source: mount.source,
      options: ['rbind', 'rprivate', mount.readonly ? 'ro' : 'rw'],
    };
  }
  const size = mount.sizeBytes === undefined ? [] : [`size=${mount.sizeBytes}`];
  return {
    destination: mount.destination,
    type: 'tmpfs',
    source: 'tmpfs',
    options: ['nosuid', 'nodev', `mode=${mount.mode.toString(8)}`, ...size],
  };
}

/** A cgroup mount shows paths of the host, which change when the container moves. */
function isNotCgroup(mount: OciMount): boolean {
  return mount.type !== 'cgroup' && mount.type !== 'cgroup2';
}

/** Where a container lives on one host. */
export interface HostPlaces {
  readonly rootfs: string;
  readonly cgroupsPath: string;
  readonly netns: string;
}

/** The config.json that the runtime gets on this host. What is in a user namespace has no power over a network that was
 *  made outside of it, and could not even mount /sys (fs/sysfs/mount.c): there the runtime makes the network. Pure. */
export function placeConfig(config: OciConfig, places: HostPlaces): OciConfig {
  const { netns } = places;
  const isMade = hasUserNamespace(config);
  return {
    ...config,
    root: { ...config.root, path: places.rootfs },
    linux: {
      ...config.linux,
      cgroupsPath: places.cgroupsPath,
      namespaces: config.linux.namespaces.map((namespace) =>
        namespace.type === 'network' && !isMade ? { type: 'network', path: netns } : namespace,
      ),
    },
  };
}

/** The same container with the restorer for its first program: `entry` runs as root with what it
 *  needs to build processes, and those then drop to what was recorded. Rlimits, seccomp, AppArmor and
 *  no_new_privs of the container are part of the recorded processes, so they must not bind the
 *  restorer; the SELinux label does, for all that is made keeps the label of its maker. Pure. */
export function restoreConfig(
  config: OciConfig,
  command: readonly string[],
  hostCapabilities: ReadonlySet<string>,
): OciConfig {
  const { rlimits: _rlimits, apparmorProfile: _profile, ...process } = config.process;
  const { seccomp: _seccomp, ...linux } = config.linux;
  const capabilities = restoreCapabilities(
    config.process.capabilities?.bounding ?? [],
    hostCapabilities,
  );
  return {
    ...config,
    process: {
      ...process,
      terminal: false,
      user: { uid: 0, gid: 0 },
      args: [...command],
      env: [],
      cwd: '/',
      capabilities: {
        bounding: capabilities,
        effective: capabilities,
        permitted: capabilities,
        inheritable: [],
        ambient: [],
      },
      noNewPrivileges: false,
    },
    linux,
  };
}

/** Folders and files of the host that the container sees through bind mounts: they must exist on a
 *  destination. */
export function hostPaths(config: OciConfig): string[] {
  return config.mounts
    .filter(
      (mount) => mount.type === 'bind' || mount.options?.some((o) => o === 'bind' || o === 'rbind'),
    )
    .map((mount) => mount.source ?? mount.destination);
}

/** Everything that the runtime mounts in the container, and whether it may bring more below it. */
export function givenMounts(config: OciConfig): { path: string; hasMore: boolean }[] {
  const { mounts, linux } = config;
  return [
    ...mounts.map(({ destination, type, options }) => ({
      path: destination.replace(/(?<=.)\/+$/, ''),
      hasMore: (type ?? '').startsWith('cgroup') || (options?.includes('rbind') ?? false),
    })),
    ...[...(linux.readonlyPaths ?? []), ...(linux.maskedPaths ?? [])].map((path) => ({
      path,
      hasMore: false,
    })),
  ];
}

/** What the runtime sets below /proc/sys, by path. A name with a slash has its dots as they are (sysctl(8)). */
export function givenSettings({ linux }: OciConfig): Record<string, string> {
  const pathOf = (name: string) => (name.includes('/') ? name : name.replaceAll('.', '/'));
  return Object.fromEntries(
    Object.entries(linux.sysctl ?? {}).map(([name, value]) => [pathOf(name), value]),
  );
}

/** Where the container has a tmpfs whose content is its own and moves with it; /dev is made anew by
 *  the runtime. */
export function tmpfsMounts(config: OciConfig): string[] {
  return config.mounts
    .filter((mount) => mount.type === 'tmpfs' && mount.destination !== '/dev')
    .map((mount) => mount.destination);
}
