import { refuse } from './common.js';
import type { FileCapture } from './context.js';

interface Refusal {
  readonly link: RegExp;
  readonly code: string;
  readonly reason: string;
  readonly remedy: string;
}

/** Kinds that are known and not carried, each with what its user can do. */
const REFUSALS: readonly Refusal[] = [
  {
    link: /^anon_inode:\[?io_uring\]?$/,
    code: 'file.ioUring',
    reason: 'io_uring rings are shared memory with the kernel, which it gives no way to recreate',
    remedy:
      'turn io_uring off: UV_USE_IO_URING=0 for Node, a setting of the program, or ' +
      'kernel.io_uring_disabled=2',
  },
  {
    link: /^anon_inode:\[?perf_event\]?$/,
    code: 'file.perfEvent',
    reason: 'performance counters belong to the host they count on',
    remedy: 'stop profiling (perf, a profiler in the program)',
  },
  {
    link: /^anon_inode:\[?userfaultfd\]?$/,
    code: 'file.userfaultfd',
    reason: 'user space page fault handling cannot be carried',
    remedy: 'turn off the collector or profiler that uses it',
  },
  {
    link: /^anon_inode:\[?bpf[-_](?!map)/,
    code: 'file.bpf',
    reason: 'BPF programs belong to the kernel they are loaded into',
    remedy: 'unload them, or run the program that loads them outside the container',
  },
  {
    link: /^anon_inode:\[?kvm-/,
    code: 'file.kvm',
    reason: 'virtual machines cannot be carried with their process',
    remedy: "use the virtual machine monitor's own live migration",
  },
  {
    link: /^\/secretmem \(deleted\)$/,
    code: 'file.secretMemory',
    reason: 'memfd_secret(2) memory cannot be read from outside',
    remedy: 'turn off the use of secret memory in the program',
  },
  {
    link: /^anon_inode:(\[?landlock-ruleset\]?|seccomp notify)$/,
    code: 'file.sandbox',
    reason: 'descriptors of the sandbox cannot be carried',
    remedy: 'close it once the sandbox is set up',
  },
];

function refusalFor(link: string): Refusal | undefined {
  return REFUSALS.find((refusal) => refusal.link.test(link));
}

export const refusedCapture: FileCapture = {
  matches: (descriptor) => refusalFor(descriptor.link) !== undefined,
  capture(descriptor, ctx) {
    const { code, reason, remedy } = refusalFor(descriptor.link)!;
    return refuse(descriptor, ctx, { code, reason, remedy });
  },
};
