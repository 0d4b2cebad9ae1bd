import { readFileSync } from 'node:fs';
import { arch, release } from 'node:os';
import type { HostFacts } from '@ferry/image';
import { hash64, type Mapping, parseMappings, readMemory, readProc } from '@ferry/linux';

/** What of this host a program can see in itself, and a destination must have. The same for all processes of a tree. */
export function hostFactsOf(hostPid: number): HostFacts {
  const mappings = parseMappings(readProc(`/proc/${hostPid}/maps`));
  const size = (names: string[]): bigint =>
    mappings.filter((m) => names.includes(m.name)).reduce((sum, m) => sum + (m.end - m.start), 0n);
  return {
    architecture: arch(),
    kernelRelease: release(),
    xfeatures: 0n,
    xsaveSize: 0,
    cpuFlags: cpuFlags(),
    vdsoSize: size(['[vdso]']),
    vdsoHash: vdsoHash(hostPid, mappings),
    vvarSize: size(['[vvar]', '[vvar_vclock]']),
  };
}

function vdsoHash(hostPid: number, mappings: readonly Mapping[]): bigint {
  const vdso = mappings.find((m) => m.name === '[vdso]');
  if (vdso === undefined) return 0n;
  return hash64(readMemory(hostPid, vdso.start, Number(vdso.end - vdso.start)));
}

let knownCpuFlags: string[] | undefined;

/** Flags of /proc/cpuinfo, read once: the kernel measures each CPU's frequency whenever it is read. */
function cpuFlags(): string[] {
  const cpu = knownCpuFlags ?? readFileSync('/proc/cpuinfo', 'latin1');
  if (typeof cpu === 'string')
    knownCpuFlags = (/^flags\s*:\s*(.*)$/m.exec(cpu)?.[1] ?? '').split(' ');
  return knownCpuFlags ?? [];
}
