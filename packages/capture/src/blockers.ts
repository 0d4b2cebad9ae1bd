import type { Blocker } from '@ferry/core';
import {
  call,
  cString,
  LandlockDomains,
  type Mapping,
  OwnedFd,
  readLink,
  sys,
  tryReadProc,
} from '@ferry/linux';
import { isDetached } from './detached-files.js';
import { compatProgram, landlocked } from './frozen-blockers.js';
import { mappingRefusal } from './mapping-blockers.js';
import { describeMapping, isSegmentName, showsNoFile } from './memory.js';
import type { CaptureContext } from './process.js';
import { labelRefusal, labelsOf } from './security-labels.js';

/** One process of the tree, as the search for blockers sees it. */
export interface BlockerInput {
  readonly hostPid: number;
  readonly pid: number;
  readonly command: string;
  readonly mappings: readonly Mapping[];
  readonly context: CaptureContext;
}

const O_RDONLY_CLOEXEC = 0o2000000;
const ELFCLASS32 = 1;

type Found = Omit<Blocker, 'pid' | 'command'>;

/** What of a process, besides its descriptors, cannot be carried. The process runs and is not disturbed. */
export function findBlockers(input: BlockerInput): Blocker[] {
  const found: Found[] = [...mappingBlockers(input), ...taskBlockers(input)];
  return found.map((blocker) => ({ ...blocker, pid: input.hostPid, command: input.command }));
}

function mappingText(mapping: Mapping): string {
  return `mapping ${mapping.start.toString(16)}-${mapping.end.toString(16)} (${mapping.name || 'anonymous'})`;
}

function mappingBlockers(input: BlockerInput): Found[] {
  return input.mappings.flatMap((mapping, i) => {
    const blocker =
      mappingBlocker(mapping) ??
      mappingRefusal(input.hostPid, mapping) ??
      fileBlocker(input, mapping, input.mappings[i - 1]);
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
  if (flags.some((flag) => ['um', 'uw', 'ui'].includes(flag))) {
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

function fileBlocker(
  input: BlockerInput,
  mapping: Mapping,
  before: Mapping | undefined,
): Omit<Found, 'object'> | undefined {
  if (isSegmentName(mapping.name) && mapping.flags.includes('ht') && hasOwnIpc(input)) {
    return {
      code: 'memory.hugeSegment',
      reason: 'a System V segment of huge pages in an IPC namespace of its own is not carried yet',
      remedy:
        'let the program use ordinary pages for its shared memory (PostgreSQL: huge_pages=off)',
    };
  }
  if (showsNoFile(mapping)) return undefined;
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
  // One mapping of a file tells of all.
  const isFirst = before?.inode !== mapping.inode || before.device !== mapping.device;
  if (isFirst && isDetached(input.hostPid, mapping, vma.file)) {
    return {
      code: 'memory.detachedFile',
      reason:
        'the mapped file is on a mount that was unmounted (umount -l), and its path leads elsewhere',
      remedy: 'execute the program anew from the root that it has now',
    };
  }
  return undefined;
}

function hasOwnIpc({ hostPid }: BlockerInput): boolean {
  return readLink(`/proc/${hostPid}/ns/ipc`) !== readLink('/proc/self/ns/ipc');
}

function taskBlockers({ hostPid }: BlockerInput): Found[] {
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
  if (isCompatProgram(hostPid)) found.push(compatProgram);
  if (LandlockDomains.known?.restricts(hostPid)) found.push(landlocked);
  const label = labelRefusal(labelsOf(hostPid));
  if (label !== undefined) found.push(label);
  return found;
}

/** Whether its executable is of the 32-bit class (elf(5): EI_CLASS). Unknown where it cannot be opened. */
function isCompatProgram(hostPid: number): boolean {
  const path = `/proc/${hostPid}/exe`;
  const head = Buffer.alloc(5);
  const fd = sys('open', cString(path), O_RDONLY_CLOEXEC, 0);
  if (fd < 0) return false;
  using file = new OwnedFd(fd);
  return call('pread64', file.number, head, head.length, 0) === 5 && head[4] === ELFCLASS32;
}
