import { FerryError } from '@ferry/core';
import type { Process, Thread } from './generated/ferry/image/v1/process.js';
import type { TreeImage } from './generated/ferry/image/v1/tree.js';
import { LIMITS } from './limits.js';

const ADDRESS_END = 0x7ffffffff000n;
const PAGE = 4096n;
const SIGINFO_BYTES = 128;

function refuse(what: string): never {
  throw new FerryError('image.invalid', `The image is not valid: ${what}`);
}

function bound(count: number, max: number, what: string): void {
  if (count > max) refuse(`${count} ${what}, more than ${max}`);
}

/** Checks everything that the compiler relies on. An image may come from a peer or a file: nothing in it is trusted.
 *  @throws FerryError image.invalid */
export function validateTree(image: TreeImage): void {
  bound(image.processes.length, LIMITS.processes, 'processes');
  bound(image.files.length, LIMITS.files, 'file objects');
  const pids = new Set<number>();
  for (const process of image.processes) {
    if (process.pid <= 0 || process.pid > LIMITS.pid) refuse(`PID ${process.pid}`);
    if (pids.has(process.pid)) refuse(`PID ${process.pid} twice`);
    if (process.pid !== image.rootPid && !pids.has(process.ppid)) {
      refuse(`process ${process.pid} comes before its parent ${process.ppid}`);
    }
    pids.add(process.pid);
  }
  if (image.processes[0]?.pid !== image.rootPid) refuse('its root is not the first process');
  if (image.processes[0]?.state === 'zombie') refuse('its root is a zombie');
  const files = new Set<number>();
  for (const file of image.files) {
    if (files.has(file.id)) refuse(`file object ${file.id} twice`);
    if (file.kind === undefined)
      refuse(`file object ${file.id} is of a kind that this version does not know`);
    files.add(file.id);
  }
  const objects = new Set(image.sharedMemory.map((object) => object.id));
  for (const process of image.processes) {
    if (process.state !== 'zombie') validateProcess(process, files, objects, pids);
  }
}

function checkSiginfo({ length }: Uint8Array, who: string): void {
  if (length !== SIGINFO_BYTES) refuse(`a signal that waits in ${who} has ${length} bytes`);
}

/** They are written to files of the kernel behind a command, and named in steps. */
function checkLabels({ tid, labels }: Thread, who: string): void {
  for (const label of Object.values(labels ?? {})) {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: those are what is looked for
    if (Buffer.byteLength(label) > LIMITS.labelBytes || /[\0-\x1f\x7f]/.test(label)) {
      refuse(`a security label of thread ${tid} of ${who}`);
    }
  }
}

function validateProcess(
  process: Process,
  files: ReadonlySet<number>,
  objects: ReadonlySet<number>,
  pids: Set<number>,
): void {
  const who = `process ${process.pid}`;
  if (!['running', 'stopped'].includes(process.state))
    refuse(`${who} is in state "${process.state}"`);
  for (const owner of [process.filesOwnerPid, process.fsOwnerPid]) {
    if (owner !== 0 && owner !== process.ppid) refuse(`${who} shares with process ${owner}`);
  }
  if (process.filesOwnerPid !== 0 && process.descriptors.length > 0) {
    refuse(`${who} has descriptors besides those it shares`);
  }
  if (process.mm === undefined) refuse(`${who} has no memory`);
  if (process.threads.length === 0) refuse(`${who} has no thread`);
  bound(process.threads.length, LIMITS.threadsPerProcess, `threads in ${who}`);
  bound(process.descriptors.length, LIMITS.descriptorsPerProcess, `descriptors in ${who}`);
  bound(process.mm.vmas.length, LIMITS.mappingsPerProcess, `mappings in ${who}`);
  bound(process.mm.runs.length, LIMITS.runsPerProcess, `page runs in ${who}`);
  if (process.threads[0]!.tid !== process.pid)
    refuse(`the first thread of ${who} is not its leader`);
  for (const { siginfo } of process.pending) checkSiginfo(siginfo, who);
  if (process.threads.every(({ exited }) => exited)) refuse(`${who} has no thread that runs`);
  for (const [i, thread] of process.threads.entries()) {
    if (thread.exited && i > 0) refuse(`thread ${thread.tid} of ${who} has ended`);
    if (thread.exited && thread.credentials !== undefined) continue;
    for (const { siginfo } of thread.pending) checkSiginfo(siginfo, who);
    checkLabels(thread, who);
    if (thread.registers === undefined || thread.credentials === undefined)
      refuse(`a thread of ${who} lacks its state`);
    if (thread.xstate.length < 576 || thread.xstate.length > LIMITS.xstateBytes) {
      refuse(`the FP state of thread ${thread.tid} has ${thread.xstate.length} bytes`);
    }
    if (i > 0 && pids.has(thread.tid)) refuse(`thread id ${thread.tid} twice`);
    pids.add(thread.tid);
  }
  for (const { fileId, fd } of process.descriptors) {
    if (!files.has(fileId)) refuse(`descriptor ${fd} of ${who} refers to no file object`);
    if (fd > LIMITS.descriptorsPerProcess) refuse(`descriptor ${fd} of ${who}`);
  }
  let end = 0n;
  for (const vma of process.mm.vmas) {
    if (vma.kind === 'vsyscall') continue;
    if (
      vma.start < end ||
      vma.end <= vma.start ||
      vma.end > ADDRESS_END ||
      (vma.start | vma.end) % PAGE !== 0n
    ) {
      refuse(`mapping ${vma.start.toString(16)}-${vma.end.toString(16)} of ${who}`);
    }
    if (vma.kind === 'shared' && !objects.has(vma.sharedMemoryId)) {
      refuse(`mapping ${vma.start.toString(16)} of ${who} refers to no shared memory`);
    }
    if ((vma.file?.path.length ?? 0) > LIMITS.pathBytes) refuse(`a path in ${who} is too long`);
    end = vma.end;
  }
  for (const run of process.mm.runs) {
    if (
      run.address % PAGE !== 0n ||
      run.pages <= 0n ||
      run.address + run.pages * PAGE > ADDRESS_END
    ) {
      refuse(`page run at ${run.address.toString(16)} of ${who}`);
    }
  }
}
