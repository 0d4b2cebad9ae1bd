import type { Ipc, IpcPermissions, Message, MessageQueue, SemaphoreSet } from '@ferry/image';
import {
  call,
  cString,
  OwnedFd,
  readLink,
  readProc,
  sys,
  sysError,
  tryReadProc,
} from '@ferry/linux';
import type { MemoryObjects } from './memory-objects.js';
import { mountQueues, namedQueues } from './message-queues.js';

const CLONE_NEWIPC = 0x08000000;
const O_RDONLY_CLOEXEC = 0o2000000;
// include/uapi/linux/ipc.h, msg.h, sem.h, shm.h
const IPC_STAT = 2;
const IPC_NOWAIT = 0o4000;
const MSG_COPY = 0o40000;
const GETPID = 11;
const GETALL = 13;
const SHM_RDONLY = 0o10000;
const SHM_DEST = 0o1000;
const SHM_LOCKED = 0o2000;
const PERMISSION_BITS = 0o777;
const TYPE_LENGTH = 8;

/** One line of /proc/sysvipc/{shm,msg,sem} by column name. */
type Row = ReadonlyMap<string, number>;

/** Mounts of message queues, by IPC namespace, kept from before a freeze until nobody waits for their closing. */
export class QueueMounts implements Disposable {
  readonly #mounts = new Map<string, OwnedFd>();

  /** That of the namespace that the thread is in. @param link  "ipc:[4026531839]" */
  of(link: string): OwnedFd {
    let mount = this.#mounts.get(link);
    if (mount === undefined) {
      mount = mountQueues();
      this.#mounts.set(link, mount);
    }
    return mount;
  }

  /** Makes that of a process which runs, if it is in another namespace than this one. */
  prepare(hostPid: number): void {
    const link = readLink(`/proc/${hostPid}/ns/ipc`);
    if (link === readLink('/proc/self/ns/ipc') || this.#mounts.has(link)) return;
    inIpcNamespace(hostPid, () => this.of(link));
  }

  [Symbol.dispose](): void {
    for (const mount of this.#mounts.values()) mount[Symbol.dispose]();
    this.#mounts.clear();
  }
}

/** System V IPC of a tree, seen from inside its namespace. Segments become shared memory objects: those that the tree
 *  has attached are known by now, the others are added when the namespace is the tree's own.
 *  Changes nothing: messages are copied (MSG_COPY), segments attached read-only and let go by `release`. */
export function captureIpc(
  rootHostPid: number,
  objects: MemoryObjects,
  mounts: QueueMounts,
): { ipc: Ipc; release: () => void } {
  const link = readLink(`/proc/${rootHostPid}/ns/ipc`);
  const isOwn = link !== readLink('/proc/self/ns/ipc');
  const attached: bigint[] = [];
  const release = (): void => {
    for (const address of attached.splice(0)) sys('shmdt', address);
  };
  const ipc = inIpcNamespace(rootHostPid, () => {
    captureSegments(objects, isOwn ? attached : undefined);
    return isOwn
      ? captureQueues(mounts.of(link))
      : { ownNamespace: false, queues: [], semaphores: [], posixQueues: [] };
  });
  return { ipc, release };
}

/** Message queues and semaphores in the IPC namespace that the thread is in. Changes nothing.
 *  @param mount  of its message queues */
export function captureQueues(mount: OwnedFd): Ipc {
  return {
    ownNamespace: true,
    queues: rows('msg').map(captureQueue),
    semaphores: rows('sem').map(captureSemaphores),
    posixQueues: namedQueues(mount),
  };
}

/** A set of semaphores, with what its values are now. */
export interface SemaphoreValues {
  readonly id: number;
  readonly values: readonly number[];
  /** By our PIDs: who changed one of them last. */
  readonly users: ReadonlySet<number>;
}

/** The sets in the IPC namespace of a process. Those of which nothing may be seen are passed over. */
export function semaphoreSets(hostPid: number): SemaphoreValues[] {
  return inIpcNamespace(hostPid, () =>
    rows('sem').flatMap((row) => {
      const id = row.get('semid') ?? 0;
      const count = row.get('nsems') ?? 0;
      const values = Buffer.alloc(count * 2);
      if (sys('semctl', id, 0, GETALL, values) < 0) return [];
      const numbers = Array.from({ length: count }, (_, i) => i);
      return {
        id,
        values: numbers.map((i) => values.readUInt16LE(i * 2)),
        users: new Set(numbers.map((i) => sys('semctl', id, i, GETPID, 0))),
      };
    }),
  );
}

/** Runs `body` with the calling thread in the IPC namespace of a process (setns(2)). */
function inIpcNamespace<T>(hostPid: number, body: () => T): T {
  using own = new OwnedFd(call('open', cString('/proc/self/ns/ipc'), O_RDONLY_CLOEXEC, 0));
  using other = new OwnedFd(call('open', cString(`/proc/${hostPid}/ns/ipc`), O_RDONLY_CLOEXEC, 0));
  call('setns', other.number, CLONE_NEWIPC);
  try {
    return body();
  } finally {
    call('setns', own.number, CLONE_NEWIPC);
  }
}

function rows(kind: 'shm' | 'msg' | 'sem'): Row[] {
  const [head = '', ...lines] = readProc(`/proc/sysvipc/${kind}`).trim().split('\n');
  const names = head.trim().split(/\s+/);
  return lines.map((line) => {
    const words = line.trim().split(/\s+/);
    const value = (name: string, i: number): number =>
      name === 'perms' ? Number.parseInt(words[i] ?? '0', 8) : Number(words[i]);
    return new Map(names.map((name, i) => [name, value(name, i)]));
  });
}

function permissions(row: Row, idName: string): IpcPermissions {
  return {
    id: row.get(idName) ?? 0,
    key: row.get('key') ?? 0,
    uid: row.get('uid') ?? 0,
    gid: row.get('gid') ?? 0,
    mode: (row.get('perms') ?? 0) & PERMISSION_BITS,
  };
}

/** Segments that go as soon as somebody who has attached them lets go: whoever reads them, or fills those of a restored
 *  tree, would remove them (proc_sys_kernel(5): shm_rmid_forced). Looks at the IPC namespace that the thread is in.  */
export function fleetingSegments(): number[] {
  if (tryReadProc('/proc/sys/kernel/shm_rmid_forced')?.trim() !== '1') return [];
  return rows('shm')
    .filter((row) => row.get('nattch') === 0)
    .map((row) => row.get('shmid') ?? 0);
}

/** `attached` takes the addresses where segments are attached here; undefined leaves those alone that the tree has not
 *  attached. A segment's inode number is its id (ipc/shm.c: newseg). */
function captureSegments(objects: MemoryObjects, attached: bigint[] | undefined): void {
  for (const row of rows('shm')) {
    const sysv = {
      permissions: permissions(row, 'shmid'),
      removed: ((row.get('perms') ?? 0) & SHM_DEST) !== 0,
      locked: ((row.get('perms') ?? 0) & SHM_LOCKED) !== 0,
    };
    const { id } = sysv.permissions;
    const known = objects.images.find(({ kind, inode }) => kind === 'sysv' && inode === BigInt(id));
    if (known !== undefined) known.sysv = sysv;
    else if (attached !== undefined) {
      const address = sys('shmat', id, 0, SHM_RDONLY);
      if (address < 0) continue; // it went with its last user meanwhile
      attached.push(BigInt(address));
      const end = address + Math.ceil((row.get('size') ?? 0) / 4096) * 4096;
      objects.addSegment(`/proc/self/map_files/${hex(address)}-${hex(end)}`, sysv);
    }
  }
}

function hex(n: number): string {
  return n.toString(16);
}

function captureQueue(row: Row): MessageQueue {
  const id = row.get('msqid') ?? 0;
  const status = Buffer.alloc(120);
  call('msgctl', id, IPC_STAT, status);
  const bytesMax = status.readBigUInt64LE(88); // struct msqid64_ds: msg_qbytes
  const count = row.get('qnum') ?? 0;
  const room = Math.max(row.get('cbytes') ?? 0, 1);
  const messages: Message[] = [];
  for (let i = 0; i < count; i++) {
    const buffer = Buffer.alloc(TYPE_LENGTH + room);
    const length = sys('msgrcv', id, buffer, room, i, MSG_COPY | IPC_NOWAIT);
    if (length < 0) throw sysError('msgrcv', -length, `message ${i} of queue ${id}`);
    messages.push({
      type: buffer.readBigInt64LE(0),
      text: buffer.subarray(TYPE_LENGTH, TYPE_LENGTH + length),
    });
  }
  return { permissions: permissions(row, 'msqid'), bytesMax, messages };
}

function captureSemaphores(row: Row): SemaphoreSet {
  const id = row.get('semid') ?? 0;
  const count = row.get('nsems') ?? 0;
  const values = Buffer.alloc(count * 2);
  call('semctl', id, 0, GETALL, values);
  return {
    permissions: permissions(row, 'semid'),
    values: Array.from({ length: count }, (_, i) => values.readUInt16LE(i * 2)),
  };
}
