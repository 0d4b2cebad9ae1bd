import type { FileObject, Process, TreeImage } from '@ferry/image';
import { translate } from '../pid-numbers.js';
import type { ProgramBuilder, Slot } from '../program.js';
import type { EmitContext } from './emit.js';

const O_CLOEXEC = 0o2000000;
const O_PATH = 0o10000000;
const WAIT_CLONE = 0x40000000;
const SIGKILL = 9;

/** Descriptions that cannot be made before the processes that they are about: each is made by its first holder when the
 *  tree stands, and the other holders take it from there (pidfd_getfd(2)). Until then something else stands in. */
export function emitStandIn(b: ProgramBuilder, file: FileObject, ctx: EmitContext): void {
  const slot = b.slotFor('file');
  const step = `file ${file.id}: a stand-in`;
  b.sys('open', [b.cstr('/proc/self'), O_PATH, 0], step, { into: slot });
  b.moveFd(slot, ctx.fdOf(file.id), step);
}

/** Puts what is open in `slot` in the place of the stand-in, in a process that holds the file; closes `slot`. */
export function emitReplace(
  b: ProgramBuilder,
  slot: Slot,
  file: FileObject,
  { holder, name }: { holder: Process; name: string },
): void {
  for (const { fd, fileId, closeOnExec } of holder.descriptors) {
    if (fileId !== file.id) continue;
    b.sys('dup3', [slot, fd, closeOnExec ? O_CLOEXEC : 0], `${name}: descriptor ${fd}`);
  }
  b.sys('close', [slot], `${name}: close temporary descriptor`);
}

/** In a holder that is not the first: takes the description from that one. */
export function emitTakeOver(
  b: ProgramBuilder,
  file: FileObject,
  holder: Process,
  name: string,
  image: TreeImage,
): void {
  const first = firstHolder(image, file.id);
  if (first === undefined || first === holder) return;
  const fd = first.descriptors.find(({ fileId }) => fileId === file.id)!.fd;
  const [process, slot] = [b.slotFor('first holder'), b.slotFor('file')];
  b.sys(
    'pidfd_open',
    [translate(image, holder, first.pid), 0],
    `${name}: its first holder ${first.pid}`,
    { into: process },
  );
  b.sys('pidfd_getfd', [process, fd, 0], `${name}: take it from ${first.pid}`, { into: slot });
  b.sys('close', [process], `${name}: its first holder ${first.pid}`);
  emitReplace(b, slot, file, { holder, name });
}

export function firstHolder(image: TreeImage, fileId: number): Process | undefined {
  return image.processes.find(({ descriptors }) =>
    descriptors.some((descriptor) => descriptor.fileId === fileId),
  );
}

/** Runs `steps` while a process lives that has ended when they are over.
 *  @param pid  which it must be; 0: any, which is then in the slot that `steps` gets */
export function emitWhileLiving(
  b: ProgramBuilder,
  { pid, name }: { pid: number; name: string },
  steps: (child: Slot) => void,
): void {
  const child = b.slotFor('mortal');
  const [body, after] = [b.label(), b.label()];
  b.op('fork', [pid, 0, 0], `${name}: a process that will end`, { target: body, into: child });
  b.op('jump', [0, 0], `${name}: go on`, { target: after });
  b.place(body);
  b.sys('pause', [], `${name}: wait for the end`, { expect: 'any' });
  b.op('exit', [0], `${name}: end`);
  b.place(after);
  steps(child);
  b.sys('kill', [child, SIGKILL], `${name}: end the process`);
  b.sys('wait4', [child, 0, WAIT_CLONE, 0], `${name}: reap the process`);
}
