import { morePrograms } from './table-more.js';
import { spacePrograms } from './table-spaces.js';

/** One self-checking program and how it is tried. */
export interface ObjectProgram {
  readonly name: string;
  /** The C file without its suffix; the name by default. */
  readonly source?: string;
  readonly args?: readonly string[];
  /** Time the program needs after READY and after a restore until it waits; 50 by default. */
  readonly settleMs?: number;
  /** A feature of the processor (/proc/cpuinfo, `flags`) without which there is nothing to try. */
  readonly cpuFlag?: string;
  /** It is about a 32-bit program, which not every machine runs. */
  readonly is32Bit?: boolean;
  /** An option that the kernel must be built with (CONFIG_…). */
  readonly kernelOption?: string | undefined;
  /** Runs with nothing beside it: it needs the memory or the processors. */
  readonly isAlone?: boolean;
  /** Also executed as a bare dump binary, without the command. */
  readonly isDirect?: boolean;
  /** Why Ferry need not carry it yet: then it must be carried faithfully or refused. */
  readonly later?: string;
  /** Why it only runs when FERRY_OBJECTS names it: it asks for more than the kernel promises. */
  readonly onlyByName?: string;
  /** It is the first process of a PID namespace, and has mounts of its own. */
  readonly isFirst?: boolean;
  /** Why it is not tried in a container. */
  readonly hostOnly?: string;
  /** Its containers have a user namespace of their own. */
  readonly isMapped?: boolean;
  /** Its containers may make control groups below their own. */
  readonly hasGroups?: boolean;
  /** Flavours in which Ferry does not carry it yet, and what is missing: known gaps, for the list of what comes next. */
  readonly missing?: Readonly<Partial<Record<'tree' | 'containerMove' | 'twoPhase', string>>>;
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

/** The descriptors of descriptors-kinds.c. */
const descriptorKinds = ['pidfd', 'pty', 'in-flight', 'netlink', 'message-queue', 'proc-file'];

/** The objects of refused.c, and what the refusal says. */
const refused: readonly (readonly [string, RegExp])[] = [
  ['sem-undo-shared', /semaphores: it may use SEM_UNDO together with others/],
  ['packet-ring', /mapping [\da-f]+-[\da-f]+ \(socket:\[\d+\]\): packets went through/],
  ['sealed', /the mapping is sealed/],
  ['shared-memory', /memory shared with process \d+/],
  ['compat', /its code: it is a 32-bit program/],
  ['segments', /its local descriptor table: segments of its own/],
  ['landlock', /its Landlock domain: the program has restricted itself/],
  ['landlock-seccomp', /its Landlock domain: the program has restricted itself/],
  ['dispatch', /its system calls: the program intercepts its own system calls/],
  ['minor-faults', /mapping \S+ \([^)]*\(?[^)]*\)?\): the range is registered/],
];

/** The mappings of memory-kinds.c. */
const memoryKinds = [
  ...['sealed', 'executable', 'memfd-private', 'read-only', 'zero-shared', 'zero-private'],
  ...['truncated', 'past-end', 'prot-none', 'exec-only', 'dontfork', 'wipeonfork', 'guard'],
  ...['shared-fork', 'moved', 'droppable'],
];

/** The trees of sessions-orphans.c. */
const orphans = [
  ...['dead-leader', 'living-leader', 'zombie-leader', 'deep', 'left-group', 'dead-groups'],
];

/** The attributes of process-flags.c. */
const processFlags = [
  ...['dumpable', 'mce', 'tsc', 'mdwe', 'memory-merge', 'autogroup', 'loginuid', 'oom'],
  ...['personality', 'deadline', 'thp', 'thp-advised', 'membarrier'],
];

const running = /^\d+ State:/;
const hugeSegment = 'a System V segment of huge pages in an IPC namespace of its own';
const stoppedTwice = 'a futex with a time limit, made by syscall(2) and stopped twice, gives EINTR';

export const programs: readonly ObjectProgram[] = [
  { name: 'counting', isDirect: true, volatile: [running, /^\d+ fdinfo 3:/] },
  { name: 'registers-general', source: 'registers', args: ['general'], volatile: [running] },
  { name: 'registers-sse', source: 'registers', args: ['sse'], volatile: [running] },
  { name: 'registers-avx', source: 'registers', args: ['avx'], volatile: [running] },
  {
    name: 'registers-avx512',
    source: 'registers',
    args: ['avx512'],
    cpuFlag: 'avx512bw',
    volatile: [running],
  },
  { name: 'registers-x87', source: 'registers', args: ['x87'], volatile: [running] },
  ...['permission', 'used', 'busy', 'held'].map((kind) => ({
    name: `tiles-${kind}`,
    source: 'tiles',
    args: [kind],
    cpuFlag: 'amx_tile',
    ...(kind === 'busy' ? { volatile: [running] } : {}),
    ...(kind === 'held' ? { later: 'they hold what is being computed', blocker: /AMX tiles/ } : {}),
  })),
  { name: 'fork-tree', isDirect: true },
  { name: 'forks-many' },
  { name: 'sessions' },
  { name: 'groups-leaderless' },
  { name: 'sharing' },
  {
    name: 'sharing-session',
    source: 'sharing',
    args: ['session'],
    later: 'only its parent can make a process that shares with it',
    blocker: /working directory shared with process .* in session \d+, which its parent is not in/,
  },
  { name: 'sharing-files' },
  { name: 'vfork', volatile: [running, /.*/] },
  ...orphans.map((kind) => ({
    name: `sessions-${kind}`,
    source: 'sessions-orphans',
    args: [kind],
  })),
  { name: 'zombie' },
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
  { name: 'scheduling' },
  { name: 'vdso' },
  { name: 'rseq' },
  { name: 'robust-list' },
  { name: 'threads', isDirect: true },
  { name: 'threads-many', volatile: [running] },
  { name: 'leader-exited' },
  {
    name: 'leader-exited-family',
    source: 'leader-exited',
    args: ['family'],
    volatile: [/(SigPnd|ShdPnd|SigQ)/],
  },
  { name: 'signal-dispositions' },
  { name: 'signal-pending' },
  { name: 'signal-handler' },
  { name: 'sigaltstack' },
  { name: 'sigaltstack-in-use', source: 'sigaltstack', args: ['in-use'] },
  { name: 'itimers' },
  {
    name: 'itimers-ticking',
    source: 'itimers',
    args: ['ticking'],
    volatile: [running, /(SigPnd|ShdPnd|SigQ)/],
  },
  // Its periodic timers keep signals pending that come and go.
  { name: 'posix-timers', volatile: [/(SigPnd|ShdPnd|SigQ)/] },
  { name: 'posix-timers-clocks', volatile: [/(SigPnd|ShdPnd|SigQ)/] },
  { name: 'signals-queued' },
  {
    name: 'stopped',
    volatile: [running],
  },
  // A real-time policy needs CAP_SYS_NICE.
  { name: 'thread-identity', hostOnly: 'a container may not choose a real-time policy' },
  ...processFlags.map((flag) => ({
    name: `process-${flag}`,
    source: 'process-flags',
    args: [flag],
  })),
  { name: 'memory-private', isDirect: true },
  { name: 'memory-shared' },
  { name: 'memory-file' },
  { name: 'memory-protection' },
  { name: 'memory-cow' },
  { name: 'memory-big', isAlone: true },
  { name: 'mappings-many' },
  ...['private', 'shared', 'recreated', 'forked', 'open'].map((kind) => ({
    name: `memory-deleted-${kind}`,
    source: 'memory-deleted',
    args: [kind],
    // Where another file has its name, it is made under one of ours.
    ...(kind === 'recreated' ? { volatile: [/\/mapped \(deleted\)/] } : {}),
  })),
  ...['private', 'shared', 'memfd', 'sysv'].map((kind) => ({
    name: `memory-hugetlb-${kind}`,
    source: 'memory-hugetlb',
    args: [kind],
    isAlone: true, // the pages of this machine are few
    ...(kind === 'sysv' ? { missing: { containerMove: hugeSegment, twoPhase: hugeSegment } } : {}),
  })),
  { name: 'aio' },
  ...memoryKinds.map((kind) => ({
    name: `memory-${kind}`,
    source: 'memory-kinds',
    args: [kind],
    // The mapping was made before the seal, which no mapping made after it shows.
    ...(kind === 'sealed' ? { volatile: [/ map .*memfd:object.*\(rd sh mr me ms\)/] } : {}),
  })),
  ...['kept', 'removed', 'locked', 'processes', 'first'].map((kind) => ({
    name: `sysv-shm-${kind}`,
    source: 'sysv-shm',
    args: [kind],
  })),
  {
    name: 'sysv-shm-fleeting',
    source: 'sysv-shm',
    args: ['fleeting'],
    later: 'refused by name',
    blocker: /System V segment \d+.*nobody has it attached/,
  },
  { name: 'sysv-queue', source: 'sysv-ipc', args: ['queue'] },
  { name: 'sysv-semaphores', source: 'sysv-ipc', args: ['semaphores'] },
  { name: 'sysv-sem-undo', source: 'sysv-ipc', args: ['undo'] },
  { name: 'madvise' },
  { name: 'mlock' },
  { name: 'mlockall', source: 'mlock', args: ['all'] },
  { name: 'heap' },
  { name: 'stack-growth' },
  { name: 'file-position' },
  {
    name: 'files-deleted',
    // A file that never had a name has its inode's number for one; one whose name is taken gets another.
    volatile: [/#\d+ \(deleted\)/, /\/\.ferry-/, /fdinfo 3: was "flags:\\t020300002/],
  },
  { name: 'files-shared' },
  { name: 'directory' },
  {
    name: 'terminals',
    missing: { twoPhase: 'a controlling terminal reaches only the leader of its session' },
  },
  // The removed file is another one afterwards, which its handle shows.
  { name: 'descriptors-more', volatile: [/^\d+ fd(info)? \d+: .*pidfd/, /map_id/] },
  { name: 'unix-more' },
  { name: 'notify', volatile: [/fdinfo \d+: was .*inotify wd/] },
  {
    name: 'notify-unread',
    source: 'notify',
    args: ['unread'],
    volatile: [/fdinfo \d+: was .*inotify wd/],
  },
  { name: 'devices' },
  { name: 'fds-many' },
  { name: 'pipe-content' },
  { name: 'pipe-across', isDirect: true, volatile: [running] },
  { name: 'pipe-half-closed' },
  { name: 'fifo' },
  { name: 'eventfd' },
  { name: 'epoll' },
  { name: 'epoll-closed-fd' },
  { name: 'timerfd' },
  { name: 'signalfd' },
  { name: 'unix-pairs' },
  { name: 'unix-named' },
  { name: 'unix-unaccepted', source: 'unix-named', args: ['unaccepted'] },
  { name: 'unix-unaccepted-data', source: 'unix-named', args: ['unaccepted-data'] },
  { name: 'tcp-listening', args: ['4'] },
  { name: 'tcp6-listening', source: 'tcp-listening', args: ['6'] },
  { name: 'tcp-unaccepted', source: 'tcp-listening', args: ['4', 'unaccepted'] },
  { name: 'tcp-established', args: ['4', 'quiet'] },
  { name: 'tcp6-established', source: 'tcp-established', args: ['6', 'quiet'] },
  {
    name: 'tcp-full',
    source: 'tcp-established',
    args: ['4', 'full'],
    missing: { twoPhase: 'memory that goes away while its pages are read' },
  },
  { name: 'tcp-running', source: 'tcp-established', args: ['4', 'running'], volatile: [running] },
  { name: 'tcp6-running', source: 'tcp-established', args: ['6', 'running'], volatile: [running] },
  { name: 'tcp-options' },
  { name: 'tcp-half-closed', args: ['half'] },
  { name: 'tcp-closed-by-peer', source: 'tcp-half-closed', args: ['closed'] },
  { name: 'tcp-shut-both', source: 'tcp-half-closed', args: ['both'] },
  { name: 'tcp-reset', source: 'tcp-half-closed', args: ['reset'] },
  { name: 'sockets-other' },
  { name: 'udp', args: ['4'] },
  { name: 'udp6', source: 'udp', args: ['6'] },
  ...blockedCalls.map((call) => ({
    name: `blocked-${call}`,
    source: 'blocked',
    args: [call],
    ...(call === 'futex-timeout' ? { missing: { twoPhase: stoppedTwice } } : {}),
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
    name: `nameless-${kind}`,
    source: 'files-nameless',
    args: [kind],
    // O_TMPFILE says how a file was made: one that is carried was made otherwise.
    volatile: [/^\d+ fdinfo 3: was "flags:\\t020300002/, /#\d+ \(deleted\)/, /\.ferry-/],
  })),
  ...['flock', 'posix', 'ofd'].map((kind) => ({
    name: `lock-${kind}`,
    source: 'locks',
    args: [kind],
  })),
  ...descriptorKinds.map((kind) => ({
    name: `descriptor-${kind}`,
    source: 'descriptors-kinds',
    args: [kind],
    // A queue that has no name is made under another.
    volatile: [/"\/ferry-test-\d+ \(deleted\)"/],
  })),
  ...['io_uring', 'userfaultfd'].map((kind) => ({
    name: `descriptor-${kind}`,
    source: 'descriptors-kinds',
    args: [kind],
    later: 'refused by name',
  })),
  ...refused.map(([kind, blocker]) => ({
    name: `refused-${kind}`,
    source: 'refused',
    is32Bit: kind === 'compat',
    args: [kind],
    later: 'the kernel does not show what would have to be carried',
    blocker,
    volatile: [running],
  })),
  ...spacePrograms,
  ...morePrograms,
];
