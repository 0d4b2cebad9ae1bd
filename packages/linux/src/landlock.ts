import { SysError } from '@ferry/core';
import { cString, OwnedFd } from './fd.js';
import { KernelMemory } from './kernel-memory.js';
import { native } from './native.js';
import { call, ERRNO, sysError } from './sys.js';

const O_PATH_CLOEXEC = 0o12000000;
/** The most that is copied in a look, of which there are some ten for each process. */
const WINDOW_BYTES = 4096;
/** Where among what security modules keep with credentials Landlock's part is looked for. */
const BLOB_BYTES = 128;
/** More threads are not looked at. */
const THREADS_MAX = 1 << 16;
/** So many layers the samples have. */
const SAMPLES = [1, 2] as const;

/** Which processes have restricted themselves with Landlock (landlock(7)). No system call tells, but the kernel's memory
 *  does: credentials hold a pointer to the domain (struct landlock_cred_security, security/landlock/cred.h). Where among
 *  what all security modules keep there is decided when the kernel starts, and is learned from threads of our own. */
export class LandlockDomains {
  readonly #memory: KernelMemory;
  readonly #offset: number;

  private constructor(memory: KernelMemory, offset: number) {
    this.#memory = memory;
    this.#offset = offset;
  }

  static #known: LandlockDomains | 'unreadable' | undefined;

  /** What this process has learned, which takes about as long as a look at all of the kernel's types, the first time.
   *  @returns undefined where the kernel's memory cannot be read, or holds no Landlock that this knows */
  static learn(): LandlockDomains | undefined {
    LandlockDomains.#known ??= LandlockDomains.#learn() ?? 'unreadable';
    return LandlockDomains.known;
  }

  /** What `learn` has found before. */
  static get known(): LandlockDomains | undefined {
    const known = LandlockDomains.#known;
    return known === 'unreadable' ? undefined : known;
  }

  static #learn(): LandlockDomains | undefined {
    const memory = KernelMemory.open(WINDOW_BYTES);
    if (memory === undefined) return undefined;
    try {
      const offset = learnOffset(memory);
      if (offset !== undefined) return new LandlockDomains(memory, offset);
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
    }
    memory[Symbol.dispose]();
    return undefined;
  }

  /** Whether a thread of a process is in a domain.
   *  @returns undefined where that cannot be told: it has ended, or its threads come and go while it is looked at */
  restricts(hostPid: number): boolean | undefined {
    const looked = new Set<bigint>();
    try {
      for (const { credentials } of threadsIn(this.#memory, hostPid)) {
        // Threads mostly have them in common.
        if (looked.has(credentials)) continue;
        looked.add(credentials);
        if (this.#domainOf(credentials) !== 0n) return true;
      }
      return false;
    } catch (error) {
      if (error instanceof SysError) return undefined;
      throw error;
    }
  }

  #domainOf(credentials: bigint): bigint {
    const blob = this.#memory.long(credentials, 'cred', 'security');
    return this.#memory.read(blob + BigInt(this.#offset), 8).readBigUInt64LE(0);
  }
}

interface KernelThread {
  /** struct task_struct */
  readonly task: bigint;
  /** struct cred */
  readonly credentials: bigint;
}

/** The threads of a process, by the kernel's own list of them (struct signal_struct, linux/sched/signal.h).
 *  @throws SysError ENOENT, EFAULT */
function threadsIn(memory: KernelMemory, hostPid: number): KernelThread[] {
  const threads: KernelThread[] = [];
  const signal = memory.long(leaderOf(memory, hostPid), 'task_struct', 'signal');
  const head = memory.at(signal, 'signal_struct', 'thread_head');
  // Both in one look: there may be thousands.
  const nodeAt = Number(memory.at(0n, 'task_struct', 'thread_node'));
  const credentialsAt = Number(memory.at(0n, 'task_struct', 'cred'));
  const from = Math.min(nodeAt, credentialsAt);
  const length = Math.max(nodeAt, credentialsAt) - from + 8;
  for (let node = memory.long(head, 'list_head', 'next'); node !== head; ) {
    // Of a process that runs, memory that one has left may be something else by now.
    if (threads.length > THREADS_MAX) throw sysError('bpf', ERRNO.EFAULT, 'a list without an end');
    const task = node - BigInt(nodeAt);
    const found = memory.read(task + BigInt(from), length);
    threads.push({ task, credentials: found.readBigUInt64LE(credentialsAt - from) });
    node = found.readBigUInt64LE(nodeAt - from);
  }
  return threads;
}

/** The first thread: struct task_struct. The folder of a process in /proc leads to its struct pid, and that to it. */
function leaderOf(memory: KernelMemory, hostPid: number): bigint {
  using folder = new OwnedFd(call('open', cString(`/proc/${hostPid}`), O_PATH_CLOEXEC, 0));
  const inode = memory.long(memory.file(folder.number), 'file', 'f_inode');
  const ofProc = inode - memory.at(0n, 'proc_inode', 'vfs_inode');
  const pid = memory.long(ofProc, 'proc_inode', 'pid');
  // The first of its lists is that of PIDTYPE_PID, which holds one.
  const node = memory.long(pid, 'pid', 'tasks');
  return node - memory.at(0n, 'task_struct', 'pid_links');
}

/** Where the domain is among what security modules keep: nowhere else is a pointer to one of so many layers in each sample,
 *  and nothing in a thread that is not restricted. */
function learnOffset(memory: KernelMemory): number | undefined {
  const isLayered = (at: bigint, layers: number): boolean => {
    try {
      return memory.word(at, 'landlock_ruleset', 'num_layers') === layers;
    } catch {
      return false;
    }
  };
  const blobOf = (tid: number): Buffer => {
    const isIt = ({ task }: KernelThread) => memory.word(task, 'task_struct', 'pid') === tid;
    const thread = threadsIn(memory, process.pid).find(isIt);
    const security = memory.long(thread?.credentials ?? 0n, 'cred', 'security');
    return memory.read(security, BLOB_BYTES);
  };
  const usual = blobOf(process.pid);
  let offsets = Array.from({ length: BLOB_BYTES / 8 }, (_, i) => i * 8).filter(
    (offset) => usual.readBigUInt64LE(offset) === 0n,
  );
  for (const layers of SAMPLES) {
    native.landlockSample(layers, (tid) => {
      const blob = tid < 0 ? undefined : blobOf(tid);
      offsets = offsets.filter(
        (offset) => blob !== undefined && isLayered(blob.readBigUInt64LE(offset), layers),
      );
    });
  }
  return offsets.length === 1 ? offsets[0] : undefined;
}
