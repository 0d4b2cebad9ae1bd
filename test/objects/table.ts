/** One self-checking program and how it is tried. */
export interface ObjectProgram {
  readonly name: string;
  /** The C file without its suffix; the name by default. */
  readonly source?: string;
  readonly args?: readonly string[];
  /** Time the program needs after READY and after a restore until it waits; 50 by default. */
  readonly settleMs?: number;
  /** Runs with nothing beside it: it needs the memory or the processors. */
  readonly isAlone?: boolean;
  /** Also executed as a bare dump binary, without the command. */
  readonly isDirect?: boolean;
  /** Why Ferry need not carry it yet: then it must be carried faithfully or refused. */
  readonly later?: string;
  /** Why it only runs when FERRY_OBJECTS names it: it asks for more than the kernel promises. */
  readonly onlyByName?: string;
  /** Why it is not tried in a container. */
  readonly hostOnly?: string;
  /** What the refusal must say; the pid of one of its processes by default. */
  readonly blocker?: RegExp;
  /** Lines of `differences` that move by themselves in this program. */
  readonly volatile?: readonly RegExp[];
}

/** The system calls of blocked.c. */
const blockedCalls = [
  ...['read', 'write', 'nanosleep', 'clock_nanosleep', 'poll', 'poll-timeout', 'select'],
  ...['epoll_wait', 'futex', 'futex-timeout', 'accept', 'recv', 'waitpid', 'pause', 'sigsuspend'],
];

const laterDescriptors = [
  ...['inotify', 'pidfd', 'pty', 'in-flight', 'netlink', 'message-queue', 'io_uring'],
  ...['userfaultfd', 'proc-file'],
];

const running = /^\d+ State:/;

export const programs: readonly ObjectProgram[] = [
  { name: 'counting', isDirect: true, volatile: [running, /^\d+ fdinfo 3:/] },
  { name: 'registers-general', source: 'registers', args: ['general'], volatile: [running] },
  { name: 'registers-sse', source: 'registers', args: ['sse'], volatile: [running] },
  { name: 'registers-avx', source: 'registers', args: ['avx'], volatile: [running] },
  { name: 'registers-avx512', source: 'registers', args: ['avx512'], volatile: [running] },
  { name: 'registers-x87', source: 'registers', args: ['x87'], volatile: [running] },
  { name: 'fork-tree', isDirect: true },
  { name: 'forks-many' },
  { name: 'sessions' },
  {
    name: 'groups-leaderless',
    later: 'issue 2 names groups and sessions, not those whose leader has ended',
  },
  { name: 'zombie', later: 'issue 2 does not name children that wait to be reaped' },
  { name: 'identity', isDirect: true },
  { name: 'proc-title' },
  { name: 'proc-title-moved', source: 'proc-title', args: ['moved'] },
  { name: 'chroot' },
  { name: 'rlimits' },
  { name: 'credentials-ids', source: 'credentials', args: ['ids'] },
  { name: 'credentials-plain', source: 'credentials', args: ['plain'] },
  { name: 'credentials-capabilities', source: 'credentials', args: ['capabilities'] },
  { name: 'seccomp' },
  { name: 'seccomp-threads', source: 'seccomp', args: ['threads'] },
  { name: 'scheduling', later: 'issue 2 does not name nice values, policies and affinity' },
  { name: 'vdso' },
  { name: 'rseq' },
  { name: 'robust-list' },
  { name: 'threads', isDirect: true },
  { name: 'threads-many', volatile: [running] },
  { name: 'leader-exited', later: 'issue 2 does not name a main thread that has ended' },
  { name: 'signal-dispositions' },
  { name: 'signal-pending' },
  { name: 'signal-handler' },
  { name: 'sigaltstack' },
  { name: 'sigaltstack-in-use', source: 'sigaltstack', args: ['in-use'] },
  { name: 'itimers' },
  { name: 'itimers-ticking', source: 'itimers', args: ['ticking'], volatile: [running] },
  // Its periodic timers keep signals pending that come and go.
  { name: 'posix-timers', volatile: [/(SigPnd|ShdPnd|SigQ)/] },
  { name: 'memory-private', isDirect: true },
  { name: 'memory-shared' },
  { name: 'memory-file' },
  { name: 'memory-protection' },
  { name: 'memory-cow' },
  { name: 'memory-big', isAlone: true },
  { name: 'mappings-many' },
  { name: 'madvise' },
  { name: 'mlock' },
  { name: 'mlockall', source: 'mlock', args: ['all'] },
  { name: 'heap' },
  { name: 'stack-growth' },
  { name: 'file-position' },
  { name: 'files-shared' },
  { name: 'directory' },
  { name: 'devices' },
  { name: 'fds-many' },
  { name: 'pipe-content' },
  { name: 'pipe-across', isDirect: true, volatile: [running] },
  { name: 'pipe-half-closed' },
  { name: 'fifo' },
  { name: 'eventfd' },
  { name: 'epoll' },
  { name: 'epoll-closed-fd', later: 'the member has no descriptor to add it by' },
  { name: 'timerfd' },
  { name: 'signalfd' },
  { name: 'unix-pairs' },
  { name: 'unix-named' },
  { name: 'unix-unaccepted', source: 'unix-named', args: ['unaccepted'] },
  {
    name: 'unix-unaccepted-data',
    source: 'unix-named',
    args: ['unaccepted-data'],
    later: 'what was sent on a connection before accept cannot be read without accepting it',
  },
  { name: 'tcp-listening', args: ['4'] },
  { name: 'tcp6-listening', source: 'tcp-listening', args: ['6'] },
  {
    name: 'tcp-unaccepted',
    source: 'tcp-listening',
    args: ['4', 'unaccepted'],
    later: 'issue 2 names listening and established connections, not those between',
  },
  { name: 'tcp-established', args: ['4', 'quiet'] },
  { name: 'tcp6-established', source: 'tcp-established', args: ['6', 'quiet'] },
  { name: 'tcp-full', source: 'tcp-established', args: ['4', 'full'] },
  { name: 'tcp-running', source: 'tcp-established', args: ['4', 'running'], volatile: [running] },
  { name: 'tcp6-running', source: 'tcp-established', args: ['6', 'running'], volatile: [running] },
  { name: 'tcp-options' },
  { name: 'tcp-half-closed', args: ['half'] },
  { name: 'tcp-closed-by-peer', source: 'tcp-half-closed', args: ['closed'] },
  {
    name: 'tcp-shut-both',
    source: 'tcp-half-closed',
    args: ['both'],
    later: 'issue 2 names established connections; this one is over but not yet read',
  },
  {
    name: 'tcp-reset',
    source: 'tcp-half-closed',
    args: ['reset'],
    later: 'issue 2 names established connections; this one has ended with an error',
  },
  { name: 'udp', args: ['4'] },
  { name: 'udp6', source: 'udp', args: ['6'] },
  ...blockedCalls.map((call) => ({
    name: `blocked-${call}`,
    source: 'blocked',
    args: [call],
    // The calls with a time limit may end, and their thread with them, on a machine that is busy.
    volatile: [/^\d+ (Threads|thread \d+):/],
  })),
  {
    name: 'blocked-epoll_wait-strict',
    source: 'blocked',
    args: ['epoll_wait-strict'],
    onlyByName: 'the kernel itself ends epoll_wait with EINTR when its thread is stopped',
  },
  ...['unlinked', 'tmpfile', 'memfd', 'cwd', 'mapped'].map((kind) => ({
    name: `later-${kind}`,
    source: 'later-files',
    args: [kind],
    later: 'issue 2 does not name files without a name',
    // O_TMPFILE says how a file was made: one that is carried was made otherwise.
    volatile: [/^\d+ fdinfo 3: was "flags:\\t020300002/],
  })),
  ...['flock', 'posix', 'ofd'].map((kind) => ({
    name: `later-lock-${kind}`,
    source: 'later-locks',
    args: [kind],
    later: 'issue 2 does not name file locks',
  })),
  ...laterDescriptors.map((kind) => ({
    name: `later-${kind}`,
    source: 'later-descriptors',
    args: [kind],
    later: 'issue 2 does not name this kind of descriptor',
  })),
  { name: 'later-shared-memory', later: 'issue 2 does not name System V IPC' },
];
