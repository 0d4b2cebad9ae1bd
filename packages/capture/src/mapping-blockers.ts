import { cString, type Mapping, readMemory, sys } from '@ferry/linux';
import { isAioRing, isPacketRing, mapFilesPath } from './memory.js';

/** Why a mapping cannot be carried. */
export interface MappingRefusal {
  readonly code: string;
  readonly reason: string;
  readonly remedy: string;
}

/** VmFlags that are understood (fs/proc/task_mmu.c: show_smap_vma_flags): restored, or of no consequence. */
const KNOWN_FLAGS = new Set(
  (
    'rd wr ex sh mr mw me ms gd pf lo lf io sr rr dc de ac nr ht sf nl ar wf dd sd mm hg nh mg ' +
    'um uw ui dp gu'
  ).split(' '),
);
const KNOWN_AREAS = [...['[heap]', '[stack]', '[vdso]', '[vvar]', '[vvar_vclock]', '[vsyscall]']];
const ANONYMOUS_NAME = /^\[(anon|anon_shmem|stack):/;
const S_IFMT = 0o170000;
const S_IFREG = 0o100000;
/** /dev/zero: its private mappings are anonymous memory, its shared ones a shared memory object. */
const DEV_ZERO = 0x105n;

/** How much of a ring is looked at in one go. */
const RING_STEP = 1n << 20n;

const REFUSED_FLAGS: Record<string, MappingRefusal> = {
  sl: {
    code: 'memory.sealed',
    reason: 'the mapping is sealed (mseal), so that nothing could ever make room for it again',
    remedy: 'turn the sealing off in the program (glibc: no memory sealing in GLIBC_TUNABLES)',
  },
  ss: {
    code: 'memory.shadowStack',
    reason: 'shadow stacks are not carried yet',
    remedy: 'turn them off: GLIBC_TUNABLES=glibc.cpu.x86_shstk=off',
  },
};

/** Why a mapping is of a kind that is not carried: what is not known here is refused, never left out. It is looked at by
 *  name and flags; a file that is mapped has to be a regular one. */
export function mappingRefusal(hostPid: number, mapping: Mapping): MappingRefusal | undefined {
  const isKernels = mapping.name.startsWith('[v');
  for (const flag of isKernels ? [] : mapping.flags) {
    const refusal = REFUSED_FLAGS[flag];
    if (refusal !== undefined) return refusal;
    if (!KNOWN_FLAGS.has(flag)) return unknownFlag(flag);
  }
  if (isPacketRing(hostPid, mapping)) return isUnused(hostPid, mapping) ? undefined : usedRing;
  if (!isKnownName(mapping.name)) return unknownName(mapping.name);
  if (mapping.name.startsWith('/secretmem')) return secretMemory;
  if (!mapping.name.startsWith('/') || isAioRing(mapping)) return undefined;
  if (isSpecialFile(mapFilesPath(hostPid, mapping))) return special;
  return undefined;
}

function isKnownName(name: string): boolean {
  if (name === '' || name.startsWith('/')) return true;
  return KNOWN_AREAS.includes(name) || ANONYMOUS_NAME.test(name);
}

/** What cannot be looked at is told apart by whoever reads the file. */
function isSpecialFile(path: string): boolean {
  const stat = Buffer.alloc(144);
  if (sys('stat', cString(path), stat) < 0) return false;
  return (stat.readUInt32LE(24) & S_IFMT) !== S_IFREG && stat.readBigUInt64LE(40) !== DEV_ZERO;
}

function unknownFlag(flag: string): MappingRefusal {
  return {
    code: 'memory.unknownFlag',
    reason: `the kernel marks it with "${flag}", which this version does not know`,
    remedy: 'use a newer Ferry, or turn off in the program what makes such mappings',
  };
}

function unknownName(name: string): MappingRefusal {
  return {
    code: 'memory.unknownKind',
    reason: `memory of the kind "${name}" cannot be carried`,
    remedy: 'turn off in the program what maps it',
  };
}

/** A ring through which nothing has gone yet holds zeros only; one of TPACKET_V3, which has blocks, never does. */
function isUnused(hostPid: number, { start, end, read }: Mapping): boolean {
  if (!read) return false;
  for (let at = start; at < end; at += RING_STEP) {
    const length = end - at < RING_STEP ? end - at : RING_STEP;
    if (readMemory(hostPid, at, Number(length)).some((byte) => byte !== 0)) return false;
  }
  return true;
}

const usedRing: MappingRefusal = {
  code: 'memory.packetRing',
  reason: 'packets went through this ring, and the kernel does not tell where the next one goes',
  remedy: 'capture packets without a ring, or outside the container',
};

const secretMemory: MappingRefusal = {
  code: 'memory.secret',
  reason: 'memfd_secret(2) memory cannot be read from outside',
  remedy: 'turn off the use of secret memory in the program',
};

const special: MappingRefusal = {
  code: 'memory.device',
  reason: 'what is mapped is no regular file but belongs to a device or to the kernel',
  remedy: 'close the device in the program first',
};
