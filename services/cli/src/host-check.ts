import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { arch, release } from 'node:os';
import { OwnedFd, Pagemap, securityModules, sys } from '@ferry/linux';

/** One thing that Ferry looks for on a host. */
export interface CheckResult {
  readonly name: string;
  readonly ok: boolean;
  /** Without it Ferry does not work at all; else something is missing or slower. */
  readonly needed: boolean;
  readonly found: string;
  readonly consequence: string;
  readonly remedy: string;
}

const CAPABILITIES: readonly [number, string, boolean, string][] = [
  [21, 'CAP_SYS_ADMIN', true, 'seccomp filters and namespaces cannot be read or made'],
  [19, 'CAP_SYS_PTRACE', true, 'no process can be captured'],
  [12, 'CAP_NET_ADMIN', true, 'TCP connections and container networks cannot be moved'],
  [40, 'CAP_CHECKPOINT_RESTORE', true, 'PIDs cannot be chosen'],
  [
    24,
    'CAP_SYS_RESOURCE',
    false,
    'hard limits cannot be raised, oom_score_adj cannot be lowered: they stay as the restoring side has them',
  ],
];

/** Looks at kernel, CPU, privileges and runc. Changes nothing. */
export function checkHost(): CheckResult[] {
  return [
    check('architecture', arch() === 'x64', arch(), 'nothing works', 'use an x86-64 host'),
    kernel(),
    ...capabilities(),
    pagemapScan(),
    userfaultfd(),
    pidfdGetfd(),
    cgroups(),
    xsave(),
    securityLabels(),
    program(
      'runc',
      ['--version'],
      'containers cannot be run or restored',
      'install runc (apt-get install runc)',
    ),
    program(
      'ip',
      ['-V'],
      'containers have no network',
      'install iproute2 (apt-get install iproute2)',
    ),
  ];
}

function check(
  name: string,
  ok: boolean,
  found: string,
  consequence: string,
  remedy: string,
  needed = true,
): CheckResult {
  return { name, ok, needed, found, consequence, remedy };
}

function kernel(): CheckResult {
  const [major, minor] = release().split('.').map(Number) as [number, number];
  const ok = major > 6 || (major === 6 && minor >= 7);
  return check(
    'kernel',
    ok,
    release(),
    'PAGEMAP_SCAN is missing: memory cannot be listed',
    'use Linux 6.7 or newer',
  );
}

function capabilities(): CheckResult[] {
  const status = readFileSync('/proc/self/status', 'latin1');
  const effective = BigInt(`0x${/^CapEff:\s+(\w+)/m.exec(status)?.[1] ?? '0'}`);
  return CAPABILITIES.map(([bit, name, needed, consequence]) => {
    const ok = (effective & (1n << BigInt(bit))) !== 0n;
    return check(
      name,
      ok,
      ok ? 'held' : 'not held',
      consequence,
      `run as root with ${name}`,
      needed,
    );
  });
}

function pagemapScan(): CheckResult {
  try {
    using pagemap = new Pagemap(process.pid);
    pagemap.privatePages(0n, 0x10000n);
    return check('PAGEMAP_SCAN', true, 'works', '', '');
  } catch (error) {
    return check(
      'PAGEMAP_SCAN',
      false,
      String(error),
      'memory cannot be listed',
      'use Linux 6.7 or newer, as root',
    );
  }
}

function userfaultfd(): CheckResult {
  const fd = sys('userfaultfd', 0o2000000);
  if (fd >= 0) sys('close', fd);
  const remedy = 'sysctl vm.unprivileged_userfaultfd=1, or run with CAP_SYS_PTRACE';
  return check(
    'userfaultfd',
    fd >= 0,
    fd >= 0 ? 'works' : `errno ${-fd}`,
    'live migration must stop the container for the whole copy',
    remedy,
    false,
  );
}

function pidfdGetfd(): CheckResult {
  const pidfd = sys('pidfd_open', process.pid, 0);
  if (pidfd < 0)
    return check(
      'pidfd_getfd',
      false,
      `errno ${-pidfd}`,
      'descriptors cannot be captured',
      'use Linux 5.6 or newer',
    );
  using own = new OwnedFd(pidfd);
  const copy = sys('pidfd_getfd', own.number, 0, 0);
  if (copy >= 0) sys('close', copy);
  return check(
    'pidfd_getfd',
    copy !== -38,
    copy === -38 ? 'missing' : 'works',
    'descriptors cannot be captured',
    'use Linux 5.6 or newer',
  );
}

function cgroups(): CheckResult {
  const paths = ['/sys/fs/cgroup/cgroup.controllers', '/sys/fs/cgroup/unified/cgroup.controllers'];
  const found = paths.find((path) => existsSync(path));
  const text =
    found === undefined
      ? 'no cgroup v2 tree'
      : found.includes('unified')
        ? 'hybrid (v1 with a v2 tree)'
        : 'v2';
  return check(
    'cgroup v2',
    found !== undefined,
    text,
    'containers are frozen by ptrace alone',
    'mount cgroup2, or boot with systemd.unified_cgroup_hierarchy=1',
    false,
  );
}

function xsave(): CheckResult {
  const flags = /^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'latin1'))?.[1] ?? '';
  const ok = / xsave( |$)/.test(flags);
  const wide = ['avx', 'avx2', 'avx512f', 'amx_tile'].filter((flag) =>
    flags.split(' ').includes(flag),
  );
  return check(
    'XSAVE',
    ok,
    ok ? `yes (${wide.join(', ') || 'SSE only'})` : 'no',
    'registers cannot be carried',
    'use a CPU with XSAVE',
  );
}

function securityLabels(): CheckResult {
  const names = { apparmor: 'AppArmor', selinux: 'SELinux' };
  const found = securityModules().map((module) => names[module]);
  return check('security labels', true, found.join(', ') || 'none', '', '', false);
}

function program(name: string, args: string[], consequence: string, remedy: string): CheckResult {
  const result = spawnSync(name, args, { encoding: 'utf8' });
  const ok = result.error === undefined;
  const found = ok ? (`${result.stdout}${result.stderr}`.split('\n')[0] ?? '') : 'not found';
  return check(name, ok, found, consequence, remedy, false);
}
