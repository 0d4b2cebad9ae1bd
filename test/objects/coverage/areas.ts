/** Which source belongs to which area of the kernel's objects: the first pattern that matches. */
export const AREAS: readonly (readonly [string, RegExp])[] = [
  ['Namespaces and control groups', /^(namespaces|nested|network|mounts|cgroups|chroot)$/],
  ['Memory', /^(memory|mappings|madvise|mlock|heap|stack|aio|vdso)/],
  ['Signals and time', /^(signal|sigaltstack|itimers|posix-timers|timerfd|blocked|counting)/],
  ['Sockets', /^(tcp|udp|unix|socket|unaccepted)/],
  ['IPC', /^(sysv|posix-queues)/],
  ['Security contexts', /^(credentials|seccomp)/],
  [
    'Files',
    /^(file|directory|descriptors|devices|fds|pipe|fifo|eventfd|epoll|locks|notify|terminals|sharing-files)/,
  ],
  ['In the middle of work', /^busy/],
  ['Refused', /^refused/],
  ['Processes', /./],
];

export function areaOf(source: string): string {
  return AREAS.find(([, pattern]) => pattern.test(source))?.[0] ?? 'Processes';
}
