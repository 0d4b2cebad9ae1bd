import type { ObjectProgram } from './table.js';

const answers = /messages that were sent to it alone.* wait to be read/;
const passes = 'the kernel does not give it back: refused until it has passed';

/** The objects of unshown.c, and what the refusal says. */
const unshown: readonly (readonly [string, RegExp])[] = [
  ['automount', /mount at \S+\/auto: it stands for a mount \(autofs\)/],
  ['namespace-name', /mount at \S+\/name: it alone keeps net:/],
  ['signed', /keys that sign its segments \(TCP_MD5SIG\)/],
  ['signed-listening', /keys that sign its segments \(TCP_MD5SIG\)/],
  ['signed-bound', /keys that sign its segments \(TCP_MD5SIG\)/],
  ['signed-unbound', /keys that sign its segments \(TCP_MD5SIG\)/],
  ['signed-ao', /keys that sign its segments \(TCP-AO\)/],
  ['reuse-port', /a BPF program chooses among the sockets of its port/],
  ['reuse-port-listening', /a BPF program chooses among the sockets of its port/],
  ['watch-nested', /watches a file .* that is only in a nested mount namespace/],
];

/** Objects of kinds that most programs never meet. */
export const morePrograms: readonly ObjectProgram[] = [
  ...[
    ...['deleted-device', 'fifo-upon-socket', 'socket-upon-socket', 'lease-read-broken'],
    ...['lease-write-broken', 'lease-write-lowered', 'leases-shared', 'zombie-files'],
    ...['dead-folder', 'folder-made-anew'],
  ].map((kind) => ({
    name: `file-${kind}`,
    source: 'files-special',
    args: [kind],
    // What has no name is made under another one while something else has it.
    volatile: [/\/\.ferry-/],
  })),
  ...[
    ...['syn-sent', 'closing', 'corked', 'reuseport', 'refused', 'mapped', 'ended'],
    ...['mptcp'],
  ].map((kind) => ({ name: `tcp-${kind}`, source: 'tcp-states', args: [kind] })),
  {
    name: 'tcp-last-ack',
    source: 'tcp-states',
    args: ['last-ack'],
    missing: { twoPhase: 'memory that goes away while its pages are read' },
  },
  ...['urgent', 'urgent-inline', 'urgent-read'].map((kind) => ({
    name: `tcp-${kind}`,
    source: 'tcp-states',
    args: [kind],
    later: passes,
    blocker: /urgent data/,
  })),
  { name: 'tcp-unaccepted-closed', source: 'tcp-states', args: ['unaccepted-closed'] },
  ...['stream', 'packets', 'waiting', 'tcp', 'tcp6', 'tcp-full'].map((kind) => ({
    name: `unaccepted-${kind}`,
    source: 'unaccepted',
    args: [kind],
  })),
  {
    name: 'unaccepted-rights',
    source: 'unaccepted',
    args: ['rights'],
    later: passes,
    blocker: /nobody has accepted yet/,
  },
  ...['freebind', 'freebind6', 'headers', 'udp-reuseport', 'filter-locked'].map((kind) => ({
    name: `socket-${kind}`,
    source: 'socket-states',
    args: [kind],
  })),
  ...['options', 'listening', 'datagram-end', 'stream-end', 'old-packet'].map((kind) => ({
    name: `socket-kept-${kind}`,
    source: 'socket-kept',
    args: [kind],
  })),
  {
    name: 'socket-packet-ring',
    source: 'socket-states',
    args: ['packet-ring'],
    // The socket that is mapped is another one.
    volatile: [/socket:\[\d+\]/],
  },
  {
    name: 'socket-broadcast',
    source: 'socket-states',
    args: ['broadcast'],
    hostOnly: 'there is no network in it',
  },
  ...['seqpacket-unaccepted', 'unix-lost-folder', 'unix-abstract', 'unix-senders'].map((kind) => ({
    name: kind,
    source: 'socket-states',
    args: [kind],
  })),
  ...['memfd', 'held', 'deleted'].map((kind) => ({
    name: `executable-${kind}`,
    source: 'executables',
    args: [kind],
    ...(kind === 'deleted'
      ? { missing: { twoPhase: 'the content of what is executed, which nobody may write' } }
      : {}),
  })),
  ...['full', 'lowered'].map((kind) => ({
    name: `descriptor-limit-${kind}`,
    source: 'descriptor-limit',
    args: [kind],
  })),
  ...['content', 'many', 'unnamed', 'processes', 'silent'].map((kind) => ({
    name: `mqueue-${kind}`,
    source: 'posix-queues',
    args: [kind],
    // One that has no name is made under another.
    volatile: [/"\/ferry-test-\d+ \(deleted\)"/],
  })),
  {
    name: 'mqueue-notify',
    source: 'posix-queues',
    args: ['notify'],
    later: 'the kernel does not show the value that comes with the signal',
    blocker: /is to be told of its next message/,
  },
  {
    name: 'socket-unix-urgent',
    source: 'socket-states',
    args: ['unix-urgent'],
    later: passes,
    blocker: /urgent data/,
  },
  {
    name: 'socket-udp-corked',
    source: 'socket-states',
    args: ['udp-corked'],
    later: passes,
    blocker: /not complete yet/,
  },
  { name: 'socket-netlink-notice', source: 'socket-states', args: ['netlink-notice'] },
  ...['netlink-answer', 'netlink-member'].map((kind) => ({
    name: `socket-${kind}`,
    source: 'socket-states',
    args: [kind],
    later: passes,
    blocker: answers,
  })),
  {
    name: 'socket-filter-ebpf',
    source: 'socket-states',
    args: ['filter-ebpf'],
    later: passes,
    blocker: /eBPF/,
  },
  ...[
    ...[
      'threads',
      'thread-chains',
      'forks',
      'execs',
      'unix',
      'tcp',
      'pipes',
      'terminals',
      'mappings',
      'netlink',
    ],
    ...[
      'aio',
      'aio-anew',
      'epoll',
      'inotify',
      'files',
      'signals',
      'segments',
      'pipe-echo',
      'futex-echo',
    ],
    ...['queue-echo', 'semaphore-echo'],
  ].map((kind) => ({
    name: `busy-${kind}`,
    source: 'busy',
    args: [kind],
    volatile: [/.*/],
    ...(kind === 'netlink' ? { later: passes, blocker: answers } : {}),
  })),
  ...unshown.map(([kind, blocker]) => ({
    name: `unshown-${kind}`,
    source: 'unshown',
    args: [kind],
    kernelOption: kind === 'signed-ao' ? 'CONFIG_TCP_AO' : undefined,
    later: 'the kernel does not show it, or nobody may look at it',
    blocker,
  })),
];
