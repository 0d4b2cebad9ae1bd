import type { Blocker } from '@ferry/core';
import { type Mapping, readLink, sys, tryReadProc } from '@ferry/linux';
import { describeMapping } from './memory.js';
import type { CaptureContext } from './process.js';

const KCMP = { vm: 1, files: 2, fs: 3 } as const;

/** One process of the tree, as the search for blockers sees it. */
export interface BlockerInput {
  readonly hostPid: number;
  readonly rootHostPid: number;
  readonly pid: number;
  readonly command: string;
  readonly mappings: readonly Mapping[];
  readonly context: CaptureContext;
}

type Found = Omit<Blocker, 'pid' | 'command'>;

/** What of a process, besides its descriptors, cannot be carried. The process runs and is not disturbed. */
export function findBlockers(input: BlockerInput): Blocker[] {
  const found: Found[] = [
    ...mappingBlockers(input),
    ...taskBlockers(input),
    ...namespaceBlockers(input),
  ];
  return found.map((blocker) => ({ ...blocker, pid: input.hostPid, command: input.command }));
}

function mappingText(mapping: Mapping): string {
  return `mapping ${mapping.start.toString(16)}-${mapping.end.toString(16)} (${mapping.name || 'anonymous'})`;
}

function mappingBlockers(input: BlockerInput): Found[] {
  return input.mappings.flatMap((mapping) => {
    const blocker = mappingBlocker(mapping) ?? fileBlocker(input, mapping);
    return blocker === undefined ? [] : [{ ...blocker, object: mappingText(mapping) }];
  });
}

function mappingBlocker(mapping: Mapping): Omit<Found, 'object'> | undefined {
  const { name, flags } = mapping;
  if (name.startsWith('anon_inode:[io_uring]') || name.startsWith('anon_inode:[io_uring')) {
    return {
      code: 'memory.ioUring',
      reason: 'io_uring rings cannot be moved',
      remedy:
        'switch io_uring off in the program (Node: UV_USE_IO_URING=0), or in the container by a seccomp filter',
    };
  }
  if (name.startsWith('/SYSV')) {
    return {
      code: 'memory.sysvShm',
      reason: 'System V shared memory cannot be carried yet',
      remedy: 'detach it (shmdt), or let the program use POSIX shared memory',
    };
  }
  if (name.startsWith('/anon_hugepage') || flags.includes('ht')) {
    return {
      code: 'memory.hugetlb',
      reason: 'huge pages of hugetlbfs cannot be carried yet',
      remedy: 'let the program use transparent huge pages (madvise) in place of MAP_HUGETLB',
    };
  }
  if (name.startsWith('/[aio]')) {
    return {
      code: 'memory.aio',
      reason: 'kernel AIO rings cannot be carried yet',
      remedy: 'switch native AIO off in the program',
    };
  }
  if (flags.includes('um') || flags.includes('uw')) {
    return {
      code: 'memory.userfaultfd',
      reason: 'the range is registered with a userfaultfd',
      remedy: 'end the use of userfaultfd in the program first',
    };
  }
  if (!name.startsWith('[v') && (flags.includes('pf') || flags.includes('io'))) {
    return {
      code: 'memory.device',
      reason: 'memory of a device cannot be moved to another host',
      remedy: 'close the device in the program first',
    };
  }
  return undefined;
}

function fileBlocker(input: BlockerInput, mapping: Mapping): Omit<Found, 'object'> | undefined {
  if (mapping.inode === 0n) return undefined;
  const vma = describeMapping(
    input.hostPid,
    mapping,
    input.context.objects,
    input.context.references,
  );
  if (vma.kind !== 'file') return undefined;
  if (vma.file === undefined) {
    return {
      code: 'memory.unknownFile',
      reason: 'the mapped file cannot be found',
      remedy: 'run as root with CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE',
    };
  }
  if (vma.file.deleted) {
    return {
      code: 'memory.deletedFile',
      reason: 'the mapped file was deleted or replaced (an upgraded package?)',
      remedy: 'restart the program so that it maps the current file',
    };
  }
  return undefined;
}

function taskBlockers({ hostPid, rootHostPid }: BlockerInput): Found[] {
  const found: Found[] = [];
  const status = tryReadProc(`/proc/${hostPid}/status`) ?? '';
  const tracer = /^TracerPid:\s+(\d+)/m.exec(status)?.[1] ?? '0';
  if (tracer !== '0') {
    found.push({
      code: 'process.traced',
      object: `traced by process ${tracer}`,
      reason: 'a process that is being traced cannot be traced by a second one',
      remedy: `end the debugger or tracer (process ${tracer})`,
    });
  }
  for (const name of ['cwd', 'root'] as const) {
    const path = readLink(`/proc/${hostPid}/${name}`);
    if (!path.endsWith(' (deleted)')) continue;
    found.push({
      code: `process.deleted_${name}`,
      object: `${name === 'cwd' ? 'working' : 'root'} directory ${path}`,
      reason: 'the directory was deleted while the process is in it',
      remedy: 'let the program change to a directory that exists',
    });
  }
  const parent = Number(/^PPid:\s+(\d+)/m.exec(status)?.[1] ?? 0);
  if (hostPid === rootHostPid || parent === 0) return found;
  for (const [what, type] of Object.entries(KCMP)) {
    if (sys('kcmp', hostPid, parent, type, 0, 0) !== 0) continue;
    found.push({
      code: `process.shared_${what}`,
      object: `${what} shared with its parent ${parent}`,
      reason:
        'processes that share memory, descriptors or file system state without being threads are not carried yet',
      remedy: 'try again: a vfork child has it only until it executes its program',
    });
  }
  return found;
}

function namespaceBlockers({ hostPid, rootHostPid }: BlockerInput): Found[] {
  if (hostPid === rootHostPid) return [];
  const link = (pid: number, name: string): string => {
    try {
      return readLink(`/proc/${pid}/ns/${name}`);
    } catch {
      return '';
    }
  };
  return ['pid', 'mnt', 'net', 'ipc', 'uts', 'user', 'time', 'cgroup'].flatMap((name) => {
    const own = link(hostPid, name);
    const expected = link(rootHostPid, name);
    if (own === '' || expected === '' || own === expected) return [];
    return [
      {
        code: `namespace.${name}`,
        object: `${name} namespace ${own}`,
        reason: 'namespaces nested inside the tree are not carried yet',
        remedy: 'run that program without namespaces of its own, or in a container of its own',
      },
    ];
  });
}
