import { readFileSync, statfsSync } from 'node:fs';
import { cpus, hostname, loadavg, release, totalmem } from 'node:os';
import type { HostFacts, Resources } from '@ferry/api';
import { hash64, parseMappings, readMemory, readProc, securityModules } from '@ferry/linux';

/** What a program may have found out about the processor and relies on: the x86 instruction sets of /proc/cpuinfo. */
const instructionSet =
  /^(fpu|cx8|cmov|mmx|fxsr|sse|sse2|pni|ssse3|sse4_1|sse4_2|sse4a|popcnt|aes|pclmulqdq|movbe|rdrand|rdseed|f16c|fma|fma4|xop|avx\w*|amx_\w+|bmi1|bmi2|abm|adx|sha_ni|sha512|sm3|sm4|vaes|vpclmulqdq|gfni|lahf_lm|cx16|xsave\w*|fsgsbase|rdtscp|rdpid|clflushopt|clwb|movdiri|movdir64b|prefetchw|3dnowprefetch|tbm|rtm|hle|pku|ospke|serialize|waitpkg|clzero|wbnoinvd|cldemote|user_shstk)$/;

/** The flags of `flags`, as in /proc/cpuinfo, that programs use without asking the kernel. */
export function instructionSets(flags: readonly string[]): string[] {
  return flags.filter((flag) => instructionSet.test(flag)).sort();
}

export interface HostFactsInput {
  readonly runcVersion: string;
  readonly agentVersion: string;
  readonly subnet: string;
  readonly gateway: string | undefined;
  readonly pool: string;
  readonly maxOutgoing: number;
  readonly maxIncoming: number;
  readonly bytesPerSecond: number;
}

/** What of this host does not change while the agent runs. */
export function readHostFacts(input: HostFactsInput): HostFacts {
  const cpuinfo = readFileSync('/proc/cpuinfo', 'utf8');
  const field = (name: string) =>
    new RegExp(`^${name}\\s*:\\s*(.*)$`, 'm').exec(cpuinfo)?.[1] ?? '';
  return {
    hostname: hostname(),
    architecture: process.arch === 'x64' ? 'x86_64' : process.arch,
    kernelRelease: release(),
    cpuModel: field('model name'),
    cpuFeatures: field('flags').split(' '),
    runcVersion: input.runcVersion,
    cpus: cpus().length,
    memoryTotalBytes: BigInt(totalmem()),
    bootId: readBootId(),
    agentVersion: input.agentVersion,
    networkSubnet: input.subnet,
    networkGateway: input.gateway ?? '',
    networkPool: input.pool,
    maxOutgoing: input.maxOutgoing,
    maxIncoming: input.maxIncoming,
    bandwidthBytesPerSecond: BigInt(input.bytesPerSecond),
    securityModules: securityModules(),
  };
}

/** The same until the host is started anew: no process outlives it. FERRY_BOOT_ID stands in for it in tests. */
export function readBootId(): string {
  return (
    process.env.FERRY_BOOT_ID ?? readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
  );
}

/** What is free on this host now.
 *  @param folder  where containers are kept */
export function readResources(folder: string): Resources {
  const meminfo = readFileSync('/proc/meminfo', 'utf8');
  const available = /^MemAvailable:\s+(\d+) kB$/m.exec(meminfo)?.[1] ?? '0';
  const disk = statfsSync(folder, { bigint: true });
  return {
    memoryFreeBytes: BigInt(available) * 1024n,
    diskFreeBytes: disk.bavail * disk.bsize,
    load: loadavg()[0] ?? 0,
  };
}

/** XXH64 of this kernel's vDSO: programs have addresses inside it, so it must be the same where they go on. */
export function readVdsoHash(): bigint {
  const mappings = parseMappings(readProc('/proc/self/maps'));
  const vdso = mappings.find((mapping) => mapping.name === '[vdso]');
  if (vdso === undefined) return 0n;
  return hash64(readMemory(process.pid, vdso.start, Number(vdso.end - vdso.start)));
}
