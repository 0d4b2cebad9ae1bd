import type { ObjectProgram } from './table.js';

const mounts = [
  ...[
    'tmpfs',
    'bind',
    'propagation',
    'covered',
    'deleted',
    'overlay',
    'pivoted',
    'stale',
    'kernel',
  ],
] as const;

const withoutAdmin = 'a container may not make namespaces without CAP_SYS_ADMIN';

const nested = 'there the namespaces are nested, which is not carried yet';

const networks = [
  ...['lo', 'device', 'routes', 'veth', 'bridge', 'macvlan', 'tun', 'settings', 'filter'],
  ...['nexthop', 'promiscuous', 'segmentation', 'proxies', 'loopback-removed', 'vxlan'],
  ...['settings-of-devices', 'settings-of-tcp'],
] as const;

/** Programs that are tried in containers with a user namespace. */
const mapped: readonly (readonly [string, readonly string[]])[] = [
  ['credentials', ['ids']],
  ['credentials', ['capabilities']],
  ['heap', []],
  ['memory-shared', []],
  ['sharing-files', []],
  ['robust-list', []],
  ['threads', []],
  ['unix-named', []],
  ['files-deleted', []],
  ['sysv-ipc', []],
  ['sysv-shm', ['locked']],
  ['tcp-established', []],
];

/** Namespaces, control groups, security contexts. */
export const spacePrograms: readonly ObjectProgram[] = [
  ...['uts', 'ipc', 'several', 'user'].map((kind) => ({
    name: `namespace-${kind}`,
    source: 'namespaces',
    args: [kind],
    volatile: [/ fd \d+: was "net:/],
    hostOnly: nested,
  })),
  ...['memory', 'files', 'nested', 'login'].map((kind) => ({
    name: `user-root-${kind}`,
    source: 'user-root',
    args: [kind],
    isFirst: true,
    hostOnly: nested,
  })),
  ...['uts', 'ipc', 'net', 'net-held', 'mnt'].map((kind) => ({
    name: `nested-${kind}`,
    source: 'nested',
    args: [kind],
    volatile: [/ fd \d+: was "net:/],
    hostOnly: withoutAdmin,
  })),
  {
    name: 'nested-watch',
    source: 'unshown',
    args: ['watch-shared'],
    volatile: [/fdinfo \d+: was .*inotify wd/],
    hostOnly: withoutAdmin,
  },
  ...['bridge', 'siblings'].map((kind) => ({
    name: `nested-veth-${kind}`,
    source: 'nested-veth',
    args: [kind],
    hostOnly: withoutAdmin,
  })),
  ...['tree', 'deep', 'entered', 'unborn', 'over', 'mounted', 'signals'].map((kind) => ({
    name: `nested-pid-${kind}`,
    source: 'nested-pid',
    args: [kind],
    volatile: [/ fd \d+: was "pid:/],
    hostOnly: withoutAdmin,
  })),
  ...['children', 'entered'].map((kind) => ({
    name: `nested-time-${kind}`,
    source: 'nested-clocks',
    args: [kind],
    volatile: [/ fd \d+: was "time:/],
    hostOnly: withoutAdmin,
  })),
  ...['pids', 'unified'].map((kind) => ({
    name: `nested-cgroup-${kind}`,
    source: 'nested-cgroup',
    args: [kind],
    hostOnly: withoutAdmin,
  })),
  ...['unmapped', 'root', 'user', 'owning', 'pid-around'].map((kind) => ({
    name: `nested-user-${kind}`,
    source: 'nested-user',
    args: [kind],
    hostOnly: withoutAdmin,
    volatile: [/ fd \d+: was "pid:/],
  })),
  ...['files', 'mounts', 'nested', 'covered', 'denied'].map((kind) => ({
    name: `mapped-root-${kind}`,
    source: 'mapped-root',
    args: [kind],
    hostOnly: withoutAdmin,
    // As of files-deleted: what has no name is made under another.
    volatile: [/#\d+ \(deleted\)/, /\/\.ferry-/, /nameless \(deleted\)/, / fd \d+: was "uts:/],
  })),
  {
    name: 'nested-user-pid-owned',
    source: 'nested-user',
    args: ['pid-owned'],
    later: 'refused by name',
    blocker: /pid:\S+ one that belongs to a nested user namespace .*before the user namespace/,
  },
  ...['thread', 'named', 'sharing', 'sharing-user', 'segment'].map((kind) => ({
    name: `nested-${kind}`,
    source: 'nested',
    args: [kind],
    later: 'refused by name',
    blocker: {
      thread: /thread \d+ in net:/,
      named: /it is a name of net:/,
      sharing: /working directory shared with process .* in a nested mount namespace/,
      'sharing-user': /working directory shared with process .* in a nested user namespace/,
      segment: /1 segments of System V/,
    }[kind]!,
  })),
  ...networks.map((kind) => ({
    name: `network-${kind}`,
    source: 'network',
    args: [kind],
    hostOnly: nested,
  })),
  ...['own', 'given', 'persistent', 'queues', 'tap', 'unattached'].map((kind) => ({
    name: `tun-${kind}`,
    source: 'tun',
    args: [kind],
    // How much was read and written.
    volatile: [/fdinfo \d+: was "flags:\\t\d+; iff:/],
    ...(kind === 'given' ? {} : { hostOnly: nested }),
  })),
  ...['qdisc', 'ipsec', 'forwarding', 'labels', 'loopback-six', 'mptcp'].map((kind) => ({
    name: `network-${kind}`,
    source: 'network',
    args: [kind],
    later: 'refused by name',
    blocker: {
      qdisc: /tbf of lo/,
      ipsec: /IPsec/,
      'loopback-six': /lo without ::1/,
      labels: /prefix 2001:db8:\S+\/32 label 99/,
      forwarding: /00:07 of br0/,
      mptcp: /MPTCP endpoint 3 \(192\.0\.2\.1\)/,
    }[kind]!,
  })),
  {
    name: 'network-vlan',
    source: 'network',
    args: ['vlan'],
    hostOnly: nested,
    onlyByName: 'many kernels have no 802.1Q',
  },
  ...['pids', 'memory', 'unified'].map((hierarchy) => ({
    name: `cgroup-${hierarchy}`,
    source: 'cgroups',
    args: [hierarchy],
    hostOnly: 'a container may not make control groups',
  })),
  {
    name: 'cgroup-made',
    source: 'cgroup-made',
    hostOnly: 'a container may not make control groups',
  },
  {
    name: 'cgroup-contained',
    source: 'cgroups',
    args: ['pids'],
    hasGroups: true,
  },
  ...['pids', 'unified'].map((hierarchy) => ({
    name: `cgroup-threads-${hierarchy}`,
    source: 'cgroup-threads',
    args: [hierarchy],
    hostOnly: 'a container may not make control groups',
  })),
  ...mapped.map(([source, args]) => ({
    name: `mapped-${args[0] ?? source}`,
    source,
    args,
    isMapped: true,
    volatile: [
      // As of files-deleted itself: what has no name is made under another.
      ...(source === 'files-deleted'
        ? [/#\d+ \(deleted\)/, /\/\.ferry-/, /fdinfo 3: was "flags:\\t020300002/]
        : []),
      // Shared memory without a name has one where /proc/self/map_files is closed.
      /\/dev\/zero \(deleted\)/,
    ],
  })),
  ...['hidden', 'stale-used', 'huge-used'].map((kind) => ({
    name: `mount-${kind}`,
    source: 'mounts',
    args: [kind],
    later: 'refused by name',
    blocker: {
      hidden: /mounted over it/,
      'stale-used': /directories that it is made of are gone/,
      'huge-used': /files in a file system of type hugetlbfs/,
    }[kind]!,
  })),
  {
    name: 'mount-removed',
    source: 'mounts-changed',
    args: ['removed'],
    hostOnly: nested,
    volatile: [/\/\.ferry-/],
  },
  ...['removed-frozen', 'detached', 'marked'].map((kind) => ({
    name: `mount-${kind}`,
    source: 'mounts-changed',
    args: [kind],
    later: 'refused by name',
    blocker: {
      'removed-frozen': /name it was opened by is gone, and its file system .* read-only/,
      detached: /on a mount that was unmounted/,
      marked: /it watches a mount of a nested mount namespace/,
    }[kind]!,
  })),
  ...['files', 'stacked', 'read-only', 'device'].map((kind) => ({
    name: `mount-covered-${kind}`,
    source: 'mounts-covered',
    args: [kind],
    hostOnly: nested,
    volatile: [/ fd 3: was "\/null"/],
  })),
  ...mounts.map((kind) => ({
    name: `mount-${kind}`,
    source: 'mounts',
    args: [kind],
    hostOnly: nested,
  })),
];
