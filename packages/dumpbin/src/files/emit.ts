import type { FileObject, Process, TreeImage } from '@ferry/image';
import type { ProgramBuilder } from '../program.js';

/** What an emitter may know while it writes steps for a file object. */
export interface EmitContext {
  readonly image: TreeImage;
  /** The restorer's descriptors start here (layout.ts: SERVICE); created descriptions stand above. */
  readonly serviceBase: number;
  /** Where the description of a file object stands once created, in every process that has it. */
  fdOf(fileId: number): number;
  /** The first number above all created descriptions. */
  readonly objectsEnd: number;
  file(fileId: number): FileObject;
  /** Of a file that a mount covers. */
  coveredFd(fileId: number): number;
  /** Of a carried namespace that the root is not in. */
  spaceFd(namespaceId: number): number;
  /** Where the description of a shared memory object stands in every process of the tree. */
  sharedMemoryFd(id: number): number;
  /** Has a process that exists already do steps, while the one whose program `b` is waits for them.
   *  @returns false when there is no such process yet */
  delegate?(
    b: ProgramBuilder,
    to: { readonly pid: number; readonly name: string },
    steps: (theirs: ProgramBuilder) => void,
  ): boolean;
  /** State shared between emitters of one program (created pipes, bound names), keyed by the emitter. */
  once(key: string): boolean;
}

/** Writes the steps that recreate one kind of open file description. */
export interface FileEmitter {
  /** Recreates the description at descriptor `ctx.fdOf(file.id)` (use `b.moveFd`). Runs in the one process that
   *  creates it, before its descriptors stand at their final numbers; nothing else may be left open. */
  create(b: ProgramBuilder, file: FileObject, ctx: EmitContext): void;
  /** Runs in the creating process after every object it creates exists (connect, queue contents, in-flight files). */
  connect?(b: ProgramBuilder, file: FileObject, ctx: EmitContext): void;
  /** Runs in one process that has the file as descriptor `fd`, once its descriptors stand at their final numbers
   *  (epoll targets, owners, locks). The description still stands at `ctx.fdOf(file.id)` too. */
  installed?(b: ProgramBuilder, file: FileObject, fd: number, ctx: EmitContext): void;
  /** Runs in every process that has the file, when all of them have their descriptors and threads. */
  late?(b: ProgramBuilder, file: FileObject, holder: Process, ctx: EmitContext): void;
  /** Last thing before the tree resumes, through `ctx.fdOf(file.id)`, when every process has its memory and all
   *  objects exist (arm timers, switch TCP_REPAIR off). */
  resume?(b: ProgramBuilder, file: FileObject, ctx: EmitContext): void;
}
