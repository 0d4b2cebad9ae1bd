import { readFileSync } from 'node:fs';
import { arch, release } from 'node:os';
import { type Blocker, FerryError } from '@ferry/core';
import type { PageRead } from '@ferry/dumpbin';
import { type FileReference, type HostFacts, IMAGE_FORMAT, type TreeImage } from '@ferry/image';
import {
  call,
  childrenOf,
  cString,
  hash64,
  type Mapping,
  OwnedFd,
  parseMappings,
  procStat,
  readMemory,
  readProc,
  sys,
  sysError,
  threadsOf,
  tryReadProc,
} from '@ferry/linux';
import { findBlockers } from './blockers.js';
import { captureFiles, collectDescriptors } from './files/descriptors.js';
import { passingBlockers } from './files/passing-blockers.js';
import { FrozenTree } from './frozen-tree.js';
import { GadgetFinder } from './gadgets.js';
import { MemoryObjects } from './memory-objects.js';
import { type CaptureContext, captureProcess, captureZombie, innermost } from './process.js';
import { type PageSegment, pageSegments } from './segments.js';

/** What a look at a running tree tells, without stopping it. */
export interface ScanReport {
  readonly blockers: Blocker[];
  readonly facts: HostFacts;
  readonly processes: { hostPid: number; pid: number; command: string }[];
  readonly residentBytes: bigint;
  readonly mappedFiles: FileReference[];
}

export interface TreeCaptureOptions {
  /** Standard descriptors whose other end is outside the tree are handed over by the restoring side: inodes of the
   *  pipes that are the container's log. */
  readonly externalInodes?: readonly bigint[];
}

/** How long the tree runs before each further attempt to capture it. */
const PAUSES_MS = [1, 2, 5, 10, 20];

type Phase = 'running' | 'frozen' | 'done';

/** The capture of one process tree: scan, freeze, capture, then thaw or kill. Synchronous: ptrace belongs to the thread
 *  that seized. Disposing thaws whatever is still frozen. */
export class TreeCapture implements Disposable {
  readonly #root: number;
  readonly #options: TreeCaptureOptions;
  readonly #gadgets = new GadgetFinder();
  #frozen: FrozenTree | undefined;
  #phase: Phase = 'running';
  #release: ((outcome: 'thawed' | 'killed') => void) | undefined;
  /** Every blocker that the last capture met is one that passes. */
  #mayPass = false;
  #image: TreeImage | undefined;
  #objects = new MemoryObjects();
  readonly #sources = new Map<string, OwnedFd>();

  constructor(rootHostPid: number, options: TreeCaptureOptions = {}) {
    this.#root = rootHostPid;
    this.#options = options;
    if (tryReadProc(`/proc/${rootHostPid}/stat`) === undefined) {
      throw new FerryError('capture.noProcess', `Process ${rootHostPid} does not exist`, {
        remedy: 'check the PID (ps -e); a container process has another PID inside its container',
      });
    }
  }

  static open(rootHostPid: number, options?: TreeCaptureOptions): TreeCapture {
    return new TreeCapture(rootHostPid, options);
  }

  /** Looks at the running tree: what could not be carried, what a destination must have. Changes nothing. */
  scan(): ScanReport {
    const pids = this.#list();
    const blockers: Blocker[] = [];
    const context = this.#context();
    const processes: { hostPid: number; pid: number; command: string }[] = [];
    let residentBytes = 0n;
    for (const hostPid of pids) {
      try {
        const stat = procStat(hostPid);
        const pid = context.innerPid(hostPid);
        if (stat.state === 'Z') continue;
        processes.push({ hostPid, pid, command: stat.comm });
        const mappings = parseMappings(readProc(`/proc/${hostPid}/smaps`));
        this.#gadgets.find(hostPid, mappings);
        blockers.push(
          ...findBlockers({
            hostPid,
            rootHostPid: this.#root,
            pid,
            command: stat.comm,
            mappings,
            context,
          }),
        );
        residentBytes +=
          BigInt(/^Rss.*?(\d+)/m.exec(readProc(`/proc/${hostPid}/smaps_rollup`))?.[1] ?? 0) * 1024n;
      } catch (error) {
        if (isLiving(hostPid)) throw error;
      }
    }
    const collected = collectDescriptors(processes, { scanning: true });
    const files = captureFiles(collected, this.#fileOptions(true, new MemoryObjects()));
    files.release('thawed');
    blockers.push(...files.blockers);
    return {
      // A process that ended meanwhile blocks nothing: what was half gone when it was looked at is gone now.
      blockers: blockers.filter(({ pid }) => isLiving(pid)),
      facts: this.#facts(this.#root),
      processes,
      residentBytes,
      mappedFiles: [...context.references.values()],
    };
  }

  /** Stops every thread of the tree. */
  freeze(): void {
    this.#expect('running');
    this.#frozen = FrozenTree.freeze(this.#root);
    this.#phase = 'frozen';
  }

  /** The image of the frozen tree, without page contents. What blocks it but passes by itself (a connection that waits
   *  to be accepted) is given some milliseconds, in which the tree runs.
   *  @throws FerryError capture.blocked when something cannot be carried; the tree stays frozen until `thaw` */
  capture(): TreeImage {
    for (const pauseMs of PAUSES_MS) {
      try {
        return this.#captureOnce();
      } catch (error) {
        if (!this.#mayPass) throw error;
        this.#runOn(pauseMs);
      }
    }
    return this.#captureOnce();
  }

  /** Lets the frozen tree run for a while. */
  #runOn(pauseMs: number): void {
    this.#closeSources();
    this.#release?.('thawed');
    this.#release = undefined;
    this.#frozen?.release();
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, pauseMs);
    this.#frozen = FrozenTree.freeze(this.#root);
  }

  #captureOnce(): TreeImage {
    this.#expect('frozen');
    this.#mayPass = false;
    const frozen = this.#frozen!;
    const context = this.#context();
    this.#objects = context.objects;
    const ordered = this.#ordered(frozen);
    const processes = ordered.map((p) =>
      p.zombie ? captureZombie(p, context) : captureProcess(p, context),
    );
    const owners = processes
      .filter((p) => p.state !== 'zombie')
      .map((p) => ({ pid: p.pid, hostPid: p.hostPid, command: p.comm }));
    const files = captureFiles(
      collectDescriptors(owners, { scanning: false }),
      this.#fileOptions(false, context.objects),
    );
    this.#release = files.release;
    if (files.blockers.length > 0) {
      this.#mayPass = files.blockers.every(({ code }) => passingBlockers.has(code));
      throw new FerryError(
        'capture.blocked',
        files.blockers.map((b) => `${b.command} (${b.pid}), ${b.object}: ${b.reason}`).join('; '),
        {
          remedy: files.blockers.map((b) => b.remedy).join('; '),
        },
      );
    }
    for (const process of processes) process.descriptors = files.descriptorsOf(process.pid);
    const root = processes[0]!;
    root.ppid = 0;
    this.#image = {
      format: IMAGE_FORMAT,
      host: this.#facts(this.#root),
      rootPid: root.pid,
      processes,
      files: files.files,
      sharedMemory: context.objects.finish(),
      realtimeNs: clockNs(0),
      monotonicNs: clockNs(1),
      boottimeNs: clockNs(7),
      ownPidNamespace: root.pid === 1,
      hostname: '',
    };
    return this.#image;
  }

  /** Where the page contents of a captured image are to be read, and where they belong. */
  segments(image: TreeImage): PageSegment[] {
    return pageSegments(image);
  }

  /** Reads a run of pages of the frozen tree into `into`, `offset` bytes into the run. For `writeDumpFiles`. */
  readPages(pid: number, read: PageRead, offset: number, into: Buffer): void {
    const source = this.#sourceOf(pid, read.sharedMemoryId);
    const at = Number(read.address) + offset;
    for (let done = 0; done < into.length; ) {
      const n = sys('pread64', source.number, into.subarray(done), into.length - done, at + done);
      if (n < 0) throw sysError('pread64', -n, `memory of process ${pid}`);
      if (n === 0) {
        into.fill(0, done); // the last page of an object that ends within it
        return;
      }
      done += n;
    }
  }

  #sourceOf(pid: number, sharedMemoryId: number): OwnedFd {
    const key = sharedMemoryId === 0 ? `process ${pid}` : `object ${sharedMemoryId}`;
    const known = this.#sources.get(key);
    if (known !== undefined) return known;
    const hostPid = this.#image?.processes.find((process) => process.pid === pid)?.hostPid ?? pid;
    const path =
      sharedMemoryId === 0 ? `/proc/${hostPid}/mem` : this.#objects.pathOf(sharedMemoryId);
    const fd = new OwnedFd(call('open', cString(path), 0o2000000, 0));
    this.#sources.set(key, fd);
    return fd;
  }

  /** Lets the tree run on as if nothing had been. */
  thaw(): void {
    if (this.#phase !== 'frozen') return;
    this.#phase = 'done';
    this.#closeSources();
    try {
      this.#release?.('thawed');
    } finally {
      this.#frozen?.release();
    }
  }

  /** Ends every process of the tree and waits until they are gone. */
  kill(): void {
    this.#expect('frozen');
    this.#phase = 'done';
    this.#closeSources();
    this.#frozen?.kill();
    this.#release?.('killed');
  }

  [Symbol.dispose](): void {
    this.thaw();
  }

  #closeSources(): void {
    for (const fd of this.#sources.values()) fd[Symbol.dispose]();
    this.#sources.clear();
  }

  #expect(phase: Phase): void {
    if (this.#phase !== phase) {
      throw new FerryError('capture.phase', `The tree is ${this.#phase}, not ${phase}`);
    }
  }

  /** Host PIDs of the tree, parents before children. */
  #list(): number[] {
    const pids = [this.#root];
    for (const pid of pids) {
      try {
        pids.push(...childrenOf(pid, threadsOf(pid)));
      } catch (error) {
        if (tryReadProc(`/proc/${pid}/stat`) !== undefined) throw error;
      }
    }
    return pids;
  }

  /** Parents before children, siblings oldest first. */
  #ordered(frozen: FrozenTree) {
    return this.#list().flatMap((pid) => frozen.processes.get(pid) ?? []);
  }

  #context(): CaptureContext {
    const status = (hostPid: number): string => tryReadProc(`/proc/${hostPid}/status`) ?? '';
    return {
      objects: new MemoryObjects(),
      gadgets: this.#gadgets,
      references: new Map(),
      innerPid: (hostPid) =>
        innermost(/^NSpid:\s+(.*)$/m.exec(status(hostPid))?.[1] ?? String(hostPid)),
      innerId: (hostPid, name) =>
        innermost(new RegExp(`^${name}:\\s+(.*)$`, 'm').exec(status(hostPid))?.[1] ?? '0'),
    };
  }

  #fileOptions(scanning: boolean, objects: MemoryObjects) {
    return {
      scanning,
      rootPid: innermost(
        /^NSpid:\s+(.*)$/m.exec(tryReadProc(`/proc/${this.#root}/status`) ?? '')?.[1] ??
          String(this.#root),
      ),
      externalInodes: this.#options.externalInodes ?? [],
      sharedMemoryId: objects.forDescriptor.bind(objects),
    };
  }

  #facts(hostPid: number): HostFacts {
    const mappings = parseMappings(readProc(`/proc/${hostPid}/maps`));
    const size = (names: string[]): bigint =>
      mappings
        .filter((m) => names.includes(m.name))
        .reduce((sum, m) => sum + (m.end - m.start), 0n);
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
}

function vdsoHash(hostPid: number, mappings: readonly Mapping[]): bigint {
  const vdso = mappings.find((m) => m.name === '[vdso]');
  if (vdso === undefined) return 0n;
  return hash64(readMemory(hostPid, vdso.start, Number(vdso.end - vdso.start)));
}

/** Still there, and not a zombie. */
function isLiving(hostPid: number): boolean {
  const status = tryReadProc(`/proc/${hostPid}/status`);
  return status !== undefined && !/^State:\s+[ZX]/m.test(status);
}

let knownCpuFlags: string[] | undefined;

/** Flags of /proc/cpuinfo, read once: the kernel measures each CPU's frequency whenever it is read. */
function cpuFlags(): string[] {
  const cpu = knownCpuFlags ?? readFileSync('/proc/cpuinfo', 'latin1');
  if (typeof cpu === 'string')
    knownCpuFlags = (/^flags\s*:\s*(.*)$/m.exec(cpu)?.[1] ?? '').split(' ');
  return knownCpuFlags ?? [];
}

function clockNs(clock: number): bigint {
  const time = Buffer.alloc(16);
  sys('clock_gettime', clock, time);
  return time.readBigInt64LE(0) * 1_000_000_000n + time.readBigInt64LE(8);
}
