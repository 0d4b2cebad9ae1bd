import type {
  Ipc,
  IpcPermissions,
  MessageQueue,
  SemaphoreAdjustment,
  SemaphoreSet,
} from '@ferry/image';
import { emitPosixQueue } from './files/message-queue.js';
import type { Argument, ProgramBuilder } from './program.js';

// include/uapi/linux/ipc.h, sem.h
const IPC_CREAT = 0o1000;
const IPC_EXCL = 0o2000;
const IPC_SET = 1;
const SETALL = 17;
const SEM_UNDO = 0o10000;
const SEMAPHORE_MAX = 32767;
const IPC_NOWAIT = 0o4000;
const FSCONFIG_CMD_CREATE = 6;
const O_WRONLY = 1;
const MSG_QBYTES = 88;

/** Message queues and semaphores of a tree with an IPC namespace of its own. */
export function emitIpc(b: ProgramBuilder, ipc: Ipc | undefined): void {
  for (const queue of ipc?.queues ?? []) emitQueue(b, queue);
  for (const set of ipc?.semaphores ?? []) emitSemaphores(b, set);
  for (const queue of ipc?.posixQueues ?? []) emitPosixQueue(b, queue);
}

/** Makes the next object of a kind get this number (proc_sys_kernel(5): shm_next_id). The file is reached through a
 *  proc of our own: that of a container is read-only. */
export function emitNextId(b: ProgramBuilder, kind: 'shm' | 'msg' | 'sem', id: number): void {
  const step = `the next number of ${kind} is ${id}`;
  const [fs, mount, file] = [b.slotFor('proc'), b.slotFor('proc mount'), b.slotFor('next id')];
  b.sys('fsopen', [b.cstr('proc'), 0], `${step}: proc`, { into: fs });
  b.sys('fsconfig', [fs, FSCONFIG_CMD_CREATE, 0, 0, 0], `${step}: proc`);
  b.sys('fsmount', [fs, 0, 0], `${step}: proc`, { into: mount });
  const path = b.cstr(`sys/kernel/${kind}_next_id`);
  b.sys('openat', [mount, path, O_WRONLY, 0], `${step}: open`, { into: file });
  const text = Buffer.from(String(id));
  b.sys('write', [file, b.bytes(text), text.length], step);
  for (const slot of [file, mount, fs]) b.sys('close', [slot], `${step}: close`);
}

/** IPC_SET: owner and mode. `more` fills in what else the call sets. */
export function emitOwnership(
  b: ProgramBuilder,
  call: 'shmctl' | 'msgctl' | 'semctl',
  which: readonly Argument[],
  { uid, gid, mode }: IpcPermissions,
  step: string,
  more: (status: Buffer) => void = () => {},
): void {
  // struct ipc64_perm: key, uid, gid, cuid, cgid, mode; the structures of all three kinds begin with it.
  const status = Buffer.alloc(128);
  status.writeUInt32LE(uid, 4);
  status.writeUInt32LE(gid, 8);
  status.writeUInt32LE(mode, 20);
  more(status);
  b.sys(call, [...which, IPC_SET, b.bytes(status)], `${step}: owner and mode`);
}

function keyOf(permissions: IpcPermissions): bigint {
  return BigInt.asUintN(32, BigInt(permissions.key));
}

function emitQueue(b: ProgramBuilder, queue: MessageQueue): void {
  const permissions = queue.permissions!;
  const { id, mode } = permissions;
  const step = `message queue ${id}`;
  emitNextId(b, 'msg', id);
  b.sys('msgget', [keyOf(permissions), IPC_CREAT | IPC_EXCL | mode], `${step}: create`, {
    expect: { value: id },
  });
  emitOwnership(b, 'msgctl', [id], permissions, step, (status) => {
    status.writeBigUInt64LE(queue.bytesMax, MSG_QBYTES);
  });
  for (const { type, text } of queue.messages) {
    const message = Buffer.alloc(8 + text.length);
    message.writeBigInt64LE(type, 0);
    Buffer.from(text).copy(message, 8);
    b.sys('msgsnd', [id, b.bytes(message), text.length, IPC_NOWAIT], `${step}: message`);
  }
}

/** What is to be undone when the process ends. Whoever was killed by a dump has had it undone: where the semaphores have
 *  stayed, they are taken again. Those that are made anew have their values: there two operations are given together of
 *  which one is to be undone, so that the value stays. */
export function emitSemaphoreUndo(
  b: ProgramBuilder,
  ipc: Ipc | undefined,
  adjustments: readonly SemaphoreAdjustment[],
): void {
  for (const { setId, number, adjustment } of adjustments) {
    const undone = semaphoreOperation(number, -adjustment, SEM_UNDO | IPC_NOWAIT);
    const plain = semaphoreOperation(number, adjustment, IPC_NOWAIT);
    const set = ipc?.semaphores.find(({ permissions }) => permissions?.id === setId);
    const raised = (set?.values[number] ?? 0) + Math.abs(adjustment) <= SEMAPHORE_MAX;
    const pair = adjustment > 0 === raised ? [plain, undone] : [undone, plain];
    const operations = set === undefined ? [undone] : pair;
    const args = [setId, b.bytes(Buffer.concat(operations)), operations.length];
    b.sys('semop', args, `what is to be undone of semaphores ${setId}`);
  }
}

/** struct sembuf */
function semaphoreOperation(number: number, change: number, flags: number): Buffer {
  const out = Buffer.alloc(6);
  out.writeUInt16LE(number, 0);
  out.writeInt16LE(change, 2);
  out.writeInt16LE(flags, 4);
  return out;
}

function emitSemaphores(b: ProgramBuilder, set: SemaphoreSet): void {
  const permissions = set.permissions!;
  const { id, mode } = permissions;
  const step = `semaphores ${id}`;
  const count = set.values.length;
  emitNextId(b, 'sem', id);
  b.sys('semget', [keyOf(permissions), count, IPC_CREAT | IPC_EXCL | mode], `${step}: create`, {
    expect: { value: id },
  });
  emitOwnership(b, 'semctl', [id, 0], permissions, step);
  const values = Buffer.alloc(Math.max(8, count * 2));
  set.values.forEach((value, i) => {
    values.writeUInt16LE(value, i * 2);
  });
  b.sys('semctl', [id, 0, SETALL, b.bytes(values)], `${step}: values`);
}
