import { IMAGE_FORMAT, Process, Registers, Thread, TreeImage, Vma } from '@ferry/image';

/** A thread of an image, blocked nowhere in particular. */
export function thread(tid: number, changes: Partial<Thread> = {}): Thread {
  return Thread.fromPartial({
    tid,
    comm: `thread${tid}`,
    registers: Registers.fromPartial({
      rip: 0x401000n,
      rsp: 0x7ffd00010000n,
      cs: 0x33n,
      ss: 0x2bn,
    }),
    xstate: Buffer.alloc(832),
    altstack: { address: 0n, size: 0n, flags: 2 },
    credentials: { capBounding: (1n << 41n) - 1n, capPermitted: 0n },
    timerSlackNs: 50_000n,
    ...changes,
  });
}

export function vma(start: bigint, end: bigint, changes: Partial<Vma> = {}): Vma {
  return Vma.fromPartial({ start, end, prot: 3, kind: 'anonymous', ...changes });
}

/** A process with a page of code, a page of data and a stack. */
export function process(pid: number, ppid: number, changes: Partial<Process> = {}): Process {
  return Process.fromPartial({
    pid,
    ppid,
    pgid: pid,
    sid: pid,
    state: 'running',
    comm: `process${pid}`,
    exitSignal: 17,
    hostPid: pid,
    threads: [thread(pid)],
    fs: { cwd: '/', root: '/', umask: 0o22 },
    attributes: { dumpable: 1, coredumpFilter: 0x33 },
    mm: {
      vmas: [
        vma(0x400000n, 0x402000n, {
          kind: 'file',
          prot: 5,
          file: {
            path: '/bin/app',
            device: 0n,
            inode: 7n,
            size: 8192n,
            mtimeNs: 0n,
            mode: 0,
            deleted: false,
          },
        }),
        vma(0x600000n, 0x601000n),
        vma(0x7ffd00000000n, 0x7ffd00020000n),
      ],
      runs: [{ address: 0x600000n, pages: 1n }],
      exe: { path: '/bin/app' },
      auxv: Buffer.alloc(32),
      syscallReturnAddress: 0x401010n,
      sigreturnAddress: 0x401020n,
    },
    ...changes,
  });
}

export function tree(processes: Process[], changes: Partial<TreeImage> = {}): TreeImage {
  return TreeImage.fromPartial({
    format: IMAGE_FORMAT,
    rootPid: processes[0]!.pid,
    processes,
    host: { architecture: 'x64', kernelRelease: '6.18' },
    ...changes,
  });
}
